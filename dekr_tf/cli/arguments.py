"""Types of command line arguments that several verbs have."""

import argparse
import re


def image_size(text: str) -> tuple[int, int]:
    """(height, width) from a text such as 256x320."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, for example 256x320. Received: {text}")
    return int(match[1]), int(match[2])
