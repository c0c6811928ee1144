"""Bytes from strangers: what a served graph is sent as images, and what the client is sent as answers.

    python fuzz/fuzz_serving.py images|answers SECONDS

`answers` is led by atheris (pip install atheris). A file that fails is left as `crash`, or `crash-...` by atheris;
what is found is kept as a test in `tests/serving`.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import atheris
import cv2
import numpy as np
import tensorflow as tf

from converters.encoded_images import _read
from dekr_tf.data.synthetic import draw_scene

with atheris.instrument_imports(include=["dekr_tf.serving"]):
    from dekr_tf.serving.client import ServingError, read_answer, read_outputs, read_tensor

from tensorflow_serving.apis import predict_pb2

MAX_PIXELS = 512 * 512


def fuzz_images():
    """Seeds, and a check that a file becomes a small enough image or a reason; nothing else may be raised."""
    graph = tf.function(
        lambda content: _read(content, None, 64, MAX_PIXELS),
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    )

    def check(data):
        image, size, placement, reason = graph(tf.constant(data))
        height, width, _ = image.shape
        assert height * width <= MAX_PIXELS and (not reason.numpy() or (height, width) == (1, 1))
        assert min(size) >= 64 and np.isfinite(placement).all()

    scene = draw_scene((64, 80), np.random.default_rng(0)).image
    seeds = [cv2.imencode(suffix, scene)[1].tobytes() for suffix in (".jpg", ".png")]
    seeds.append(cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    return seeds, check


def fuzz_answers():
    """The same for answers: they become poses, or a `ServingError`."""

    def check(data):
        try:
            if data[:1] == b"{":
                found = read_outputs(read_answer(200, data, 1), 1)
            else:
                try:
                    answer = predict_pb2.PredictResponse.FromString(data)
                except Exception:  # protobuf's own, before the client sees an answer.
                    return
                found = read_outputs({name: read_tensor(value) for name, value in answer.outputs.items()}, 1)
        except ServingError:
            return
        assert len(found) == 1

    answer = predict_pb2.PredictResponse()
    arrays = {
        "keypoints": np.zeros((1, 2, 2, 3), np.float32),
        "scores": np.zeros((1, 2), np.float32),
        "num_poses": np.array([1], np.int32),
        "error": np.array([b""]),
    }
    for name, values in arrays.items():
        answer.outputs[name].CopyFrom(tf.make_tensor_proto(values))
    row = b'{"predictions": [{"keypoints": [[[1.0, 2.0, 0.5]]], "scores": [0.5], "num_poses": 1, "error": ""}]}'
    return [answer.SerializeToString(), row], check


def mutate_at_random(seeds, check, seconds):
    """What runs in TensorFlow gives no coverage to be led by; so: a few wrong bytes, parts cut out or doubled."""
    generator = np.random.default_rng()
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        content = bytearray(seeds[generator.integers(len(seeds))])
        for _ in range(generator.integers(1, 9)):
            first, last = np.sort(generator.integers(0, len(content) + 1, 2))
            kind = generator.integers(4)
            if kind == 0:
                content[first:last] = b""
            elif kind == 1:
                content[first:first] = content[first:last][:4096]
            elif first < len(content):
                # Headers are short, and most of what can go wrong is in them.
                content[first if kind == 2 else first % 64 % len(content)] = generator.integers(256)
        try:
            check(bytes(content))
        except BaseException:
            Path("crash").write_bytes(content)
            raise
        runs += 1
    print(f"{runs} files, none of them made the graph fail")


def main() -> None:
    target, seconds = sys.argv[1], int(sys.argv[2])
    seeds, check = {"images": fuzz_images, "answers": fuzz_answers}[target]()
    for seed in seeds:
        check(seed)
    if target == "images":
        mutate_at_random(seeds, check, seconds)
        return
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds):
            (Path(corpus) / str(index)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-rss_limit_mb=4096", "-verbosity=1"]
        atheris.Setup([sys.argv[0], corpus, *options], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
