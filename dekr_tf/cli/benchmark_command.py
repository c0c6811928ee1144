"""Time a model from photo to people: start, stages, memory, and what runs outside delegates.

For two models, it also prints the ratio B / A of each stage over rounds in which they take turns (A B A B ..): the
median, and in brackets the 10th to 90th percentile. It then measures start and memory of each in a separate process.
Example: dekr benchmark coco_w32.keras coco_w32_int8.tflite --threads 4 --image photo.jpg
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import exists
from dekr_tf.weights import PRESET, resolve

if TYPE_CHECKING:
    import numpy as np

#: (height, width) of the synthetic image if no photo is given, the size of many photos in COCO.
DRAWN_SIZE = 425, 640


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `dekr benchmark`."""
    parser.add_argument(
        "models",
        nargs="*",
        default=[PRESET],
        metavar="MODEL",
        help="one or two: .keras, .tflite or .onnx file, or folder of a SavedModel (default: the model of the package)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the engine and OpenCV (default: all that may be used)"
    )
    parser.add_argument("--image", metavar="FILE", help="photo (default: a synthetic image of 640x425)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="timings (default: %(default)s)")
    parser.add_argument(
        "--warmup",
        type=int,
        default=2,
        metavar="N",
        help="uncounted runs after the first (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr benchmark`.

    Raises:
        InputError: a model or the image cannot be read, or there are more than two models.
    """
    if len(arguments.models) > 2:
        raise InputError(f"expected one or two models. Received: {len(arguments.models)}")
    for name, least in (("threads", 1), ("rounds", 1), ("warmup", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name}: expected {least} or more. Received: {value}")
    arguments.models = [str(resolve(model, "network", exported=True)) for model in arguments.models]
    for model in arguments.models:
        if not exists(model):
            raise InputError(f"no such model: {model}")
    image = _image(arguments.image)

    from dekr_tf.cli.main import hold_standard_error
    from dekr_tf.inference.benchmark import compare, start, summarize, time_stages

    # Before the models of this process take memory and cores.
    reports = [_own_process(model, arguments) for model in arguments.models] if len(arguments.models) == 2 else []
    if arguments.threads:
        _set_threads(arguments.threads)
    options = {"threads": arguments.threads, "warmup": arguments.warmup}
    # LiteRT announces on standard error that it found a delegate.
    started = [hold_standard_error(start, model, image, **options) for model in arguments.models]
    reports = reports or [report for _, report in started]
    times = time_stages([detector for detector, _ in started], image, arguments.rounds)
    for index, report in enumerate(reports):
        report["stages"] = summarize(times[:, index])
    result = {
        "image": list(image.shape[:2]),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "models": reports,
    }
    if len(reports) == 2:
        result["ratios"] = compare(times[:, 0], times[:, 1])
    print(json.dumps(result) if arguments.json else _text(result))


def _image(path: str | None) -> "np.ndarray":
    """The photo, or a synthetic image, (H, W, 3) uint8 RGB."""
    if path is not None:
        from dekr_tf.files.images import read_image

        return read_image(path, exif_orientation=True)
    import numpy as np

    from dekr_tf.data.synthetic import draw_scene

    return draw_scene(DRAWN_SIZE, np.random.default_rng(0)).image


def _set_threads(threads: int) -> None:
    """Sets the threads that `PoseDetector` does not: OpenCV's, and TensorFlow's if that is not imported yet."""
    import cv2

    cv2.setNumThreads(threads)
    # `tf.config.threading` would import TensorFlow, which is part of the time to load a model.
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)


def _own_process(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The report of one model, started in a new process: the memory of two in one cannot be told apart."""
    words = [model, "--json", "--rounds", "1", "--warmup", str(arguments.warmup)]
    words += ["--threads", str(arguments.threads)] if arguments.threads else []
    words += ["--image", arguments.image] if arguments.image else []
    command = [sys.executable, "-m", "dekr_tf", "benchmark", *words]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 2:
        raise InputError(process.stderr.strip().removeprefix("dekr benchmark: error: "))
    if process.returncode:
        sys.stderr.write(process.stderr)
    process.check_returncode()
    return json.loads(process.stdout)["models"][0]


def _text(result: dict[str, Any]) -> str:
    """The result as text to print."""
    models = result["models"]
    height, width = result["image"]
    rows = [["", *"AB"]] if len(models) == 2 else []
    rows += [
        ["model", *(each["model"] for each in models)],
        ["file size", *(_mebibytes(each["file_bytes"]) for each in models)],
        ["network input", *("{1}x{0}".format(*each["input"]) for each in models)],
        ["load", *(f"{each['load_ms']:.0f} ms" for each in models)],
        ["first image", *(f"{each['first_image_ms']:.0f} ms" for each in models)],
        ["memory", *(_mebibytes(each["memory_bytes"]) for each in models)],
    ]
    lines = [f"image {width}x{height}, {result['threads'] or 'all'} threads, {result['rounds']} rounds", ""]
    lines += [*_aligned(rows), ""]
    names = ["A ", "B "] if len(models) == 2 else [""]
    stages = [["ms", *(f"{name}{kind}" for name in names for kind in ("median", "p90"))]]
    for stage in models[0]["stages"]:
        stages.append([stage, *(f"{value:.2f}" for each in models for value in each["stages"][stage].values())])
    if "ratios" in result:
        stages[0].append("B / A")
        for row in stages[1:]:
            row.append("{median:.3f} ({p10:.3f} to {p90:.3f})".format(**result["ratios"][row[0]]))
    lines += _aligned(stages)
    for name, each in zip(names, models, strict=True):
        if "undelegated" in each:
            operators = ", ".join(f"{operator} {count}" for operator, count in each["undelegated"].items())
            line = f"{name}operators that no delegate took: {operators or 'none'}"
            lines += ["", textwrap.fill(line, 100, subsequent_indent="  ")]
    return "\n".join(lines)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Lines with the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
