"""`dekr benchmark` of tiny networks: what it prints of one and of two, as text and as JSON, and says of bad input."""

import json
import os
import re

import cv2
import keras
import numpy as np
import pytest

from converters.graphs import build_graph
from converters.to_tflite import convert
from dekr_tf.cli.main import main
from dekr_tf.config import Config
from dekr_tf.models import build_dekr, save_model
from dekr_tf.sidecar import Artifact, Sidecar, write_sidecar

TENSORFLOW_THREADS = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
STAGES = ["preprocess", "network", "decode", "all"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`tiny.keras`, the same as `tiny.tflite` for 64x96, a photo, and files that are neither."""
    folder = tmp_path_factory.mktemp("models")
    # Plain blocks convert faster, and are gathered from the map as adaptive ones are.
    head = {"block": "plain", "blocks": 1}
    size = {"width": 2, "bottlenecks": 1, "modules": (1, 1, 1), "blocks": 1}
    config = Config(input_size=64, model={**size, "offset_head": head})
    keras.utils.set_random_seed(0)
    model, sidecar = build_dekr(config.model, config.schema), Sidecar.from_config(config)
    save_model(model, folder / "tiny.keras", sidecar)
    exported = sidecar.model_copy(update={"artifact": Artifact(graph="poses", input_sizes=((64, 96),))})
    (folder / "tiny.tflite").write_bytes(convert(build_graph(model, exported), ((64, 96),), "float32"))
    (folder / "damaged.tflite").write_bytes(b"TFL3" * 100)
    for name in ("tiny", "damaged"):
        write_sidecar(exported, folder / f"{name}.tflite")
    cv2.imwrite(str(folder / "photo.png"), np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    return folder


@pytest.fixture
def benchmark(models, monkeypatch, capfd):
    """Runs `dekr benchmark` in the folder of the models; returns exit code, output and errors."""
    monkeypatch.chdir(models)

    def run(*words):
        code = main(["benchmark", *words])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def threads_as_before(monkeypatch):
    """The number of threads is the process's: afterwards it is as before."""
    for name in TENSORFLOW_THREADS:
        monkeypatch.setenv(name, "")
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def assert_stages(report):
    assert list(report["stages"]) == STAGES
    for stage in report["stages"].values():
        assert 0 < stage["median_ms"] <= stage["p90_ms"]
    medians = [report["stages"][stage]["median_ms"] for stage in STAGES]
    assert medians[-1] >= max(medians[:-1])


def test_one_artifact_for_programs(benchmark, models):
    code, output, errors = benchmark("tiny.tflite", "--image", "photo.png", "--rounds", "3", "--warmup", "0", "--json")
    # LiteRT's message about its delegate is held back.
    assert (code, errors) == (0, "")
    result = json.loads(output)
    (report,) = result.pop("models")
    assert result == {"image": [50, 70], "threads": None, "rounds": 3}
    assert_stages(report)
    assert set(report) == {
        *(
            "model",
            "file_bytes",
            "input",
            "load_ms",
            "first_image_ms",
            "memory_bytes",
            "people",
            "undelegated",
            "stages",
        )
    }
    assert report["model"] == "tiny.tflite"
    assert report["file_bytes"] == (models / "tiny.tflite").stat().st_size
    assert report["input"] == [64, 96]
    assert report["load_ms"] > 0 and report["first_image_ms"] > 0
    # The head reads the map where the centers are; the convolutions of the backbone are the delegate's.
    assert report["undelegated"]["GATHER"] > 0
    assert not {"CONV_2D", "DELEGATE"} & set(report["undelegated"])


def test_one_keras_model_for_people(benchmark):
    code, output, errors = benchmark("tiny.keras", "--rounds", "1")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "image 640x425, all threads, 1 rounds"
    assert [line.split("  ")[0] for line in lines[2:]] == [
        *("model", "file size", "network input", "load", "first image", "memory", "", "ms", *STAGES)
    ]
    assert lines[2].endswith(" tiny.keras")
    assert lines[4].endswith(" 128x64")
    assert len({len(line) for line in lines[2:8]}) == len({len(line) for line in lines[9:]}) == 1
    assert re.fullmatch(r"network( +\d+\.\d\d){2}", lines[11])


@pytest.mark.usefixtures("threads_as_before")
def test_two_artifacts_are_paired(benchmark):
    words = "tiny.tflite", "tiny.tflite", "--image", "photo.png", "--rounds", "2", "--threads", "1"
    code, output, errors = benchmark(*words, "--json")
    assert (code, errors) == (0, "")
    result = json.loads(output)
    assert result["threads"] == cv2.getNumThreads() == 1
    assert [os.environ[name] for name in TENSORFLOW_THREADS] == ["1", "1"]
    assert list(result["ratios"]) == STAGES
    for ratio in result["ratios"].values():
        assert 0 < ratio["p10"] <= ratio["median"] <= ratio["p90"]
    first, second = result["models"]
    assert first["undelegated"] == second["undelegated"]
    for report in (first, second):
        assert_stages(report)
        # In a process of its own, the interpreter has not been imported before.
        assert report["memory_bytes"] > 2**20


@pytest.mark.usefixtures("threads_as_before")
def test_two_artifacts_for_people(benchmark, monkeypatch):
    report = {
        "model": "tiny.tflite",
        "file_bytes": 3 * 2**19,
        "input": [64, 96],
        "load_ms": 7.4,
        "first_image_ms": 12.6,
        "memory_bytes": 2**21,
        "undelegated": {"GATHER": 12, "TOPK_V2": 1},
    }
    monkeypatch.setattr("dekr_tf.cli.benchmark_command._own_process", lambda model, arguments: dict(report))
    code, output, errors = benchmark("tiny.tflite", "tiny.tflite", "--rounds", "2", "--threads", "1")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[:9] == [
        "image 640x425, 1 threads, 2 rounds",
        "",
        "                         A            B",
        "model          tiny.tflite  tiny.tflite",
        "file size          1.5 MiB      1.5 MiB",
        "network input        96x64        96x64",
        "load                  7 ms         7 ms",
        "first image          13 ms        13 ms",
        "memory             2.0 MiB      2.0 MiB",
    ]
    assert " ".join(lines[10].split()) == "ms A median A p90 B median B p90 B / A"
    number = r"\d+\.\d{3}"
    for line, stage in zip(lines[11:15], STAGES, strict=True):
        assert re.fullmatch(rf"{stage}( +\d+\.\d\d){{4}} +{number} \({number} to {number}\)", line)
    assert [line for line in lines[15:] if line] == [
        f"{name} operators that no delegate took: GATHER 12, TOPK_V2 1" for name in "AB"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny.tflite"] * 3, "expected one or two models. Received: 3"),
        (["tiny.tflite", "--threads", "0"], "--threads: expected 1 or more. Received: 0"),
        (["tiny.tflite", "--rounds", "0"], "--rounds: expected 1 or more. Received: 0"),
        (["tiny.tflite", "--warmup", "-1"], "--warmup: expected 0 or more. Received: -1"),
        (["missing.onnx"], "no such model: missing.onnx"),
        (["tiny.tflite", "--image", "tiny.keras"], "image tiny.keras: expected an image. Received: .*"),
        (["damaged.tflite"], "damaged.tflite is no TFLite model that can be run, or it is damaged: .*"),
        # Said by the process of its own.
        (["tiny.tflite", "damaged.tflite"], "damaged.tflite is no TFLite model that can be run, or it is damaged: .*"),
    ],
)
def test_bad_input_gives_one_line(benchmark, words, message):
    code, output, errors = benchmark(*words)
    assert (code, output) == (2, "")
    assert re.fullmatch(f"dekr benchmark: error: {message}\n", errors)
