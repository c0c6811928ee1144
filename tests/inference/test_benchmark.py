"""What is timed, how it is summed up, and which operators count as outside delegates."""

import numpy as np
import pytest

from dekr_tf.config import Config
from dekr_tf.inference.benchmark import STAGES, compare, memory_bytes, summarize, time_stages
from dekr_tf.inference.candidates import MapDecoder
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import FunctionEngine, LiteRTEngine
from dekr_tf.preprocessing import Preprocessor
from dekr_tf.sidecar import Sidecar

SIDECAR = Sidecar.from_config(Config(keypoints={"name": "point", "names": ["point"]}, input_size=64))
PHOTO = np.full((64, 96, 3), 100, np.uint8)


class Clock:
    """Time that passes only where a stand-in says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("dekr_tf.inference.benchmark.time.perf_counter", lambda: self.now)

    def takes(self, seconds, result):
        """A function that takes so long and gives this."""

        def call(*arguments):
            self.now += seconds
            return result

        return call


class Slow(PoseDetector):
    """A detector whose steps take so many seconds, with one center in the middle of the first map cell."""

    def __init__(self, clock, log, name, seconds):
        self._clock, self._seconds = clock, seconds
        poses = np.full((1, 1, 1, 2), 4, np.float32), np.full((1, 1, 1), 0.5, np.float32), np.ones((1, 1), np.float32)
        super().__init__(lambda images: poses, SIDECAR)

        class SlowPreprocessor(Preprocessor):
            def __call__(self, image):
                log.append(name)
                clock.now += seconds[0]
                return super().__call__(image)

        self.preprocessor = SlowPreprocessor(SIDECAR)

    def run_network(self, inputs):
        assert [each.shape for each in inputs] == [(1, 64, 128, 3)]
        self._clock.now += self._seconds[1]
        return super().run_network(inputs)

    def decode(self, outputs, placements):
        self._clock.now += self._seconds[2]
        (poses,) = super().decode(outputs, placements)
        assert len(poses) == 1
        return [poses]


def test_detectors_take_turns_and_each_step_has_its_time(monkeypatch):
    clock, log = Clock(monkeypatch), []
    detectors = [Slow(clock, log, "A", (0.5, 4, 0.25)), Slow(clock, log, "B", (1, 2, 0.125))]
    times = time_stages(detectors, PHOTO, 3)
    assert log == ["A", "B"] * 3
    assert times.shape == (3, 2, len(STAGES))
    np.testing.assert_array_equal(times, [[[500, 4000, 250, 4750], [1000, 2000, 125, 3125]]] * 3)


def test_finding_people_in_maps_counts_as_decoding(monkeypatch):
    clock = Clock(monkeypatch)
    maps = np.zeros((1, 16, 32, 2), np.float32), np.zeros((1, 16, 32, 2), np.float32)
    engine = MapDecoder(FunctionEngine(clock.takes(3, maps)), SIDECAR)
    candidates = engine.candidates
    engine.candidates = lambda maps: clock.takes(2, candidates(maps))()
    np.testing.assert_array_equal(time_stages([PoseDetector(engine, SIDECAR)], PHOTO, 1), [[[0, 3000, 2000, 5000]]])


def test_medians_and_percentiles():
    times = np.arange(11.0)[:, None] * [1, 10, 100, 111]
    assert summarize(times) == {
        "preprocess": {"median_ms": 5, "p90_ms": 9},
        "network": {"median_ms": 50, "p90_ms": 90},
        "decode": {"median_ms": 500, "p90_ms": 900},
        "all": {"median_ms": 555, "p90_ms": 999},
    }


def test_ratios_are_paired():
    """A machine that slows down from round to round changes neither model's ratio."""
    first = 2.0 ** np.arange(11)[:, None] * [1, 2, 3, 6]
    ratios = compare(first, first * [2, 1, 0.5, 1])
    assert [ratios[stage] for stage in STAGES] == [{"median": r, "p10": r, "p90": r} for r in (2, 1, 0.5, 1)]
    spread = compare(np.ones((11, 4)), np.arange(11)[:, None] * np.ones(4))
    assert spread["network"] == {"median": 5, "p10": 1, "p90": 9}


def test_memory_is_that_which_this_process_holds():
    before = memory_bytes()
    held = np.ones(2**25)
    assert memory_bytes() - before >= 0.9 * held.nbytes


class Interpreter:
    """Lists a graph as LiteRT does after it gave two parts to a delegate: what was replaced is still in the list."""

    # Name, inputs, outputs; tensor 0 is the image, 8 and 9 are the outputs, -1 an input left out.
    operators = (
        ("CONV_2D", (0,), (1,)),
        ("CONV_2D", (1, -1), (2,)),
        ("GATHER", (2, 3), (4,)),
        ("ADD", (4,), (5,)),
        ("MUL", (5,), (8,)),
        ("GATHER", (2, 1), (6,)),
        ("TOPK_V2", (6,), (9, 7)),
        ("DELEGATE", (0,), (1, 2)),
        ("DELEGATE", (4,), (8,)),
    )

    def _get_ops_details(self):
        return [
            {"index": index, "op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}
            for index, (name, inputs, outputs) in enumerate(self.operators)
        ]

    def get_output_details(self):
        return [{"index": 8}, {"index": 9}]


@pytest.mark.parametrize(("interpreter", "expected"), [(Interpreter(), {"GATHER": 2, "TOPK_V2": 1}), (object(), None)])
def test_operators_that_no_delegate_took(interpreter, expected):
    engine = object.__new__(LiteRTEngine)
    engine._interpreter = interpreter
    assert engine.undelegated_operators() == expected
