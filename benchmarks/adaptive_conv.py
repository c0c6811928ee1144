"""Times the adaptive convolution against torchvision's deformable convolution, after checking that both agree.

One branch (offset convolutions and adaptive 3x3 convolution of 15 channels, no batch normalization) and all 17 of a
COCO model, batch 1, float32, on the CPU. The sides run in processes of their own and take turns, so that a change in
the machine's speed meets both. Prints medians, their ratio, and how much a first forward and backward pass adds to the
peak memory of a fresh process. Exits with 1 if outputs or gradients differ.

python benchmarks/adaptive_conv.py --peer-python PATH

PATH is a Python with NumPy, PyTorch and torchvision; by default the one that runs this script.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHANNELS = 15
GRADIENTS = ("x", "offset_kernel", "offset_bias", "kernel")
SIDES = {"peer": "torchvision", "ours": "dekr_tf", "ours-jit": "dekr_tf, jit_compile=True"}
#: Largest difference, relative to the largest value, that still counts as agreement.
TOLERANCE = 1e-4


def make_case(branches: int, size: int) -> dict[str, np.ndarray]:
    """Input, weights and upstream gradient in our layout, with taps spread by more than a pixel.

    What makes the sampling positions consists of multiples of powers of two, so that they are exact in float32 and
    never whole: otherwise rounding would choose the cell, and with it the gradient, differently on the two sides.
    """
    random = np.random.default_rng(0)

    def multiples(step, scale, *shape):
        return np.round(random.standard_normal(shape) * scale / step) * step

    offset_bias = multiples(2**-10, 0.1, branches, 6)
    offset_bias[:, 4:] += 2**-11
    case = {
        "x": multiples(2**-4, 1, 1, size, size, branches * CHANNELS),
        "offset_kernel": multiples(2**-6, 0.1, branches, 3, 3, CHANNELS, 6),
        "offset_bias": offset_bias,
        "kernel": random.standard_normal((branches, 9, CHANNELS, CHANNELS)) / (9 * CHANNELS) ** 0.5,
        "upstream": random.standard_normal((1, size, size, branches * CHANNELS)),
    }
    return {name: values.astype(np.float32) for name, values in case.items()}


class Ours:
    """`AdaptiveConv2D` within one `tf.function`."""

    def __init__(self, case, threads, jit_compile):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        os.environ["KERAS_BACKEND"] = "tensorflow"
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from dekr_tf.cli.main import quiet_import

        with quiet_import("tensorflow"):
            import keras
            import tensorflow as tf

        from dekr_tf.layers.adaptive_conv import AdaptiveConv2D

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        layer = AdaptiveConv2D(len(case["kernel"]), CHANNELS)
        layer.build(case["x"].shape)
        for variable in layer.weights:
            variable.assign(case[variable.name])
        variables = [getattr(layer, name).value for name in GRADIENTS[1:]]

        def forward(x, upstream):
            return [layer(x)]

        def backward(x, upstream):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return [y, *tape.gradient(y, [x, *variables], upstream)]

        self.versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
        self.forward = tf.function(forward, jit_compile=jit_compile)
        self.backward = tf.function(backward, jit_compile=jit_compile)
        self.convert = tf.constant

    @staticmethod
    def to_arrays(values):
        return [value.numpy() for value in values]


class Peer:
    """The same with `torchvision.ops.DeformConv2d`: two convolutions give each branch its sampling offsets."""

    def __init__(self, case, threads, _):
        import torch
        import torchvision

        torch.set_num_threads(threads)
        axis = torch.tensor([-1.0, 0.0, 1.0])
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).reshape(2, 9)

        class Branch(torch.nn.Module):
            def __init__(self, offset_kernel, offset_bias, kernel):
                super().__init__()
                self.matrix = torch.nn.Conv2d(CHANNELS, 4, 3, padding=1)
                self.translation = torch.nn.Conv2d(CHANNELS, 2, 3, padding=1)
                self.deform = torchvision.ops.DeformConv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
                offset_kernel = torch.from_numpy(offset_kernel.transpose(3, 2, 0, 1).copy())
                offset_bias = torch.from_numpy(offset_bias)
                kernel = torch.from_numpy(kernel.reshape(3, 3, CHANNELS, CHANNELS).transpose(3, 2, 0, 1).copy())
                with torch.no_grad():
                    self.matrix.weight.copy_(offset_kernel[:4])
                    self.translation.weight.copy_(offset_kernel[4:])
                    self.matrix.bias.copy_(offset_bias[:4])
                    self.translation.bias.copy_(offset_bias[4:])
                    self.deform.weight.copy_(kernel)

            def forward(self, x):
                batch, _, height, width = x.shape
                matrix = self.matrix(x).permute(0, 2, 3, 1).reshape(-1, 2, 2)
                taps = (matrix @ grid - grid).reshape(batch, height, width, 2, 9).permute(0, 4, 3, 1, 2)
                offsets = taps + self.translation(x)[:, None]
                return self.deform(x, offsets.reshape(batch, 18, height, width))

        branches = [Branch(*arrays) for arrays in zip(*(case[name] for name in GRADIENTS[1:]), strict=True)]

        def run(x):
            return torch.cat([branch(part) for branch, part in zip(branches, x.split(CHANNELS, 1), strict=True)], 1)

        def forward(x, upstream):
            with torch.no_grad():
                return [run(x)]

        def backward(x, upstream):
            x = x.detach().requires_grad_()
            for branch in branches:
                branch.zero_grad()
            y = run(x)
            y.backward(upstream)
            return [y.detach(), x.grad, *branches]

        self.versions = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}"
        self.forward, self.backward = forward, backward

    @staticmethod
    def convert(array):
        import torch

        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))

    @staticmethod
    def to_arrays(values):
        y, x, *branches = values
        offset_kernels, offset_biases, kernels = [], [], []
        for branch in branches:
            parts = branch.matrix, branch.translation
            offset_kernels.append(np.concatenate([part.weight.grad.numpy() for part in parts]).transpose(2, 3, 1, 0))
            offset_biases.append(np.concatenate([part.bias.grad.numpy() for part in parts]))
            kernels.append(branch.deform.weight.grad.numpy().transpose(2, 3, 1, 0).reshape(9, CHANNELS, CHANNELS))
        maps = (value.numpy().transpose(0, 2, 3, 1) for value in (y, x))
        return [*maps, np.stack(offset_kernels), np.stack(offset_biases), np.stack(kernels)]


def work(side: str, arrays: str, threads: int) -> None:
    """The process of one side: answers `forward`, `backward` and `save PATH` with a line of JSON each."""
    case = dict(np.load(arrays))
    runner = (Peer if side == "peer" else Ours)(case, threads, side == "ours-jit")
    x, upstream = runner.convert(case["x"]), runner.convert(case["upstream"])
    # What a library loads or sets up on first use is not counted as memory of the pass.
    runner.backward(*(runner.convert(case[name][:, :8, :8]) for name in ("x", "upstream")))
    print(json.dumps(runner.versions), flush=True)
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "save":
            values = runner.to_arrays(runner.backward(x, upstream))
            np.savez(path, **dict(zip(("y", *GRADIENTS), values, strict=True)))
            print(json.dumps(None), flush=True)
            continue
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        getattr(runner, command)(x, upstream)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"ms": seconds * 1e3, "grown_mb": (after - before) / 1024}), flush=True)


class Worker:
    """A side in its own process."""

    def __init__(self, side: str, arrays: Path, options: argparse.Namespace):
        python = options.peer_python if side == "peer" else sys.executable
        command = [python, __file__, "--work", side, str(arrays), "--threads", str(options.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def ask(self, command: str):
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")
        return json.loads(line)


def compare(folder: Path, branches: int, workers: dict[str, Worker]) -> bool:
    """Prints the largest differences of outputs and gradients from the peer's; returns whether all are small."""
    for side, worker in workers.items():
        worker.ask(f"save {folder / side}.npz")
    expected = np.load(folder / "peer.npz")
    agree = True
    for side in ("ours", "ours-jit"):
        values = np.load(folder / f"{side}.npz")
        differences = {
            name: float(np.abs(values[name] - expected[name]).max() / np.abs(expected[name]).max())
            for name in expected.files
        }
        agree &= max(differences.values()) <= TOLERANCE
        listed = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
        print(f"{branches:2} branches, {SIDES[side]}: largest relative difference of y and gradients: {listed}")
    return agree


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="Python with torchvision")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument("--size", type=int, default=128, help="side of the square map")
    parser.add_argument("--rounds", type=int, default=9, help="timings of each side, after one to warm up")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work, options.threads)
        return 0

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    print(f"CPU: {cpu.split(':')[-1].strip()}; {options.threads} threads, load {os.getloadavg()[0]:.2f}")
    agree = True
    rows = []
    for branches in (1, 17):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            arrays = folder / "case.npz"
            np.savez(arrays, **make_case(branches, options.size))
            grown = {}
            for side in SIDES:
                worker = Worker(side, arrays, options)
                grown[side] = worker.ask("backward")["grown_mb"]
                worker.close()
            workers = {side: Worker(side, arrays, options) for side in SIDES}
            if branches == 1:
                print("; ".join(workers[side].versions for side in ("peer", "ours")))
            agree &= compare(folder, branches, workers)
            times = {}
            for command in ("forward", "backward"):
                for worker in workers.values():
                    worker.ask(command)
                answers = [
                    {side: worker.ask(command)["ms"] for side, worker in workers.items()} for _ in range(options.rounds)
                ]
                times[command] = {side: statistics.median(answer[side] for answer in answers) for side in SIDES}
            for worker in workers.values():
                worker.close()
        rows += [(branches, side, times["forward"], times["backward"], grown) for side in SIDES]

    print(f"\nbranches  {'side':28}  forward ms  peer/ours  forward+backward ms  peer/ours  peak grows by MB")
    for branches, side, forward, backward, grown in rows:
        print(
            f"{branches:8}  {SIDES[side]:28}  {forward[side]:10.1f}  {forward['peer'] / forward[side]:9.1f}  "
            f"{backward[side]:19.1f}  {backward['peer'] / backward[side]:9.1f}  {grown[side]:16.0f}"
        )
    if not agree:
        print(f"error: the sides differ by more than {TOLERANCE}", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
