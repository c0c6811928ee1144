"""Tiny networks that several tests share."""

from typing import Any


def tiny_hrnet(width: int) -> dict[str, Any]:
    """The settings `model` of an HRNet with one block of each kind, which is built in a second."""
    return {"width": width, "bottlenecks": 1, "modules": [1, 1, 1], "blocks": 1}
