"""Times a detector step by step, and measures the start of its model."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dekr_tf.inference.detector import PoseDetector

#: The stages that are timed: the detector's `preprocessor`, `run_network` and `decode`, and their sum.
STAGES = "preprocess", "network", "decode", "all"


def start(
    model: str | Path, image: np.ndarray, *, threads: int | None = None, warmup: int = 2
) -> tuple[PoseDetector, dict[str, Any]]:
    """Loads a model and runs it until it is warm.

    Time and memory are those of this process: libraries that it imported before do not count again.

    Args:
        model: path of any model that `PoseDetector` reads.
        image: (H, W, 3) uint8 RGB.
        threads: of the engine, as for `PoseDetector`.
        warmup: how often to run on the image after the first time.

    Returns:
        The detector, and a report of the start: `model`, the path; `file_bytes`, of the file or all in the folder;
        `input`, height and width of the network's input; `load_ms`; `first_image_ms`, in which engines still allocate
        or compile; `memory_bytes`, the growth of this process's resident memory over all of it, or of its peak on
        systems without /proc; `people` found; and, for a `.tflite` file, `undelegated`, the operators that no delegate
        took.

    Raises:
        InputError: the model cannot be read or run.
    """
    path = Path(model)
    memory = memory_bytes()
    begin = time.perf_counter()
    detector = PoseDetector(path, threads=threads)
    loaded = time.perf_counter()
    poses = detector(image)
    ready = time.perf_counter()
    for _ in range(warmup):
        detector(image)
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    report = {
        "model": str(model),
        "file_bytes": sum(each.stat().st_size for each in files),
        "input": list(detector.preprocessor(image)[1].size),
        "load_ms": 1e3 * (loaded - begin),
        "first_image_ms": 1e3 * (ready - loaded),
        "memory_bytes": memory_bytes() - memory,
        "people": len(poses),
    }
    operators = detector.engine.undelegated_operators()
    return detector, report if operators is None else {**report, "undelegated": operators}


def time_stages(detectors: Sequence[PoseDetector], image: np.ndarray, rounds: int) -> np.ndarray:
    """Times the steps from an image to its people; the detectors take turns, so that changes of speed affect all.

    Args:
        detectors: D, warm.
        image: (H, W, 3) uint8 RGB.
        rounds: how often each detector runs on the image.

    Returns:
        (rounds, D, 4) milliseconds, in the order of `STAGES`.
    """
    times = np.zeros((rounds, len(detectors), len(STAGES)))
    for each_round in times:
        for stages, detector in zip(each_round, detectors, strict=True):
            begin = time.perf_counter()
            inputs, placement = detector.preprocessor(image)
            prepared = time.perf_counter()
            outputs = detector.run_network([each[None] for each in inputs])
            computed = time.perf_counter()
            detector.decode(outputs, [placement])
            end = time.perf_counter()
            stages[:] = prepared - begin, computed - prepared, end - computed, end - begin
    return 1e3 * times


def summarize(times: np.ndarray) -> dict[str, dict[str, float]]:
    """Median and 90th percentile of one detector's (rounds, 4) milliseconds, by stage."""
    return {
        stage: {"median_ms": float(np.median(values)), "p90_ms": float(np.percentile(values, 90))}
        for stage, values in zip(STAGES, times.T, strict=True)
    }


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, dict[str, float]]:
    """The second detector's time as a multiple of the first's, from (rounds, 4) milliseconds each, by stage.

    Each round gives one ratio; the result has their median and, as their range, their 10th and 90th percentiles.
    """
    ratios = second / first
    return {
        stage: dict(zip(("median", "p10", "p90"), np.percentile(values, (50, 10, 90)).tolist(), strict=True))
        for stage, values in zip(STAGES, ratios.T, strict=True)
    }


def memory_bytes() -> int:
    """Resident memory of this process; on systems without /proc, its peak so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    # In bytes on macOS, in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
