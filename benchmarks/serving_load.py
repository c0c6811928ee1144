"""Load on a served model: clients at once, photos of several sizes, a tenth of them bad.

    python benchmarks/serving_load.py --model models/dekr/1 [--protocol grpc] [--clients 8] [--requests 500]

The server runs in a process of its own, on this machine; it is the one of the tests (`tests/serving/local_server.py`),
as TensorFlow Serving comes as a container only. Prints how long requests took, and the server's memory before and
after; ends with an error when an answer is not right.
"""

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from dekr_tf.data.synthetic import draw_scene
from dekr_tf.serving.client import Client, ServingError

SIZES = (128, 128), (240, 320), (480, 640), (640, 480), (512, 512), (720, 1280)


def serve(folder, pipe):
    """Serves until the other end of the pipe says so; answers each message with the memory in MiB."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "serving"))
    from local_server import LocalServer

    with LocalServer(folder) as server:
        pipe.send({"grpc": server.grpc_url, "http": server.http_url})
        while pipe.recv():
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            pipe.send(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def make_files() -> tuple[list[bytes], list[bytes]]:
    """Good files and bad ones."""
    generator = np.random.default_rng(0)
    good = []
    for index, size in enumerate(SIZES):
        color = cv2.cvtColor(draw_scene(size, generator).image, cv2.COLOR_RGB2BGR)
        good.append(cv2.imencode((".jpg", ".png")[index % 2], color)[1].tobytes())
    return good, [b"", b"no image", good[0][:3000], good[1][:3000], good[0][:20], good[1][:30]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="MODELS/NAME/VERSION")
    parser.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=500)
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    server = context.Process(target=serve, args=(arguments.model, other), daemon=True)
    server.start()
    url = pipe.recv()[arguments.protocol]
    good, bad = make_files()

    def memory():
        pipe.send(True)
        return pipe.recv()

    with Client(url, name=Path(arguments.model).absolute().parent.name, timeout=300) as client:
        expected = [client.detect(content) for content in good]

        def ask(index):
            start = time.perf_counter()
            try:
                if index % 10 == 9:
                    try:
                        client.detect(bad[index // 10 % len(bad)])
                        return "a bad image was answered", 0.0
                    except ServingError as error:
                        right = error.code == "INVALID_ARGUMENT" and "Received: " in str(error)
                else:
                    poses = client.detect(good[index % len(good)])
                    other = expected[index % len(good)]
                    right = len(poses) == len(other) and np.allclose(poses.keypoints, other.keypoints, atol=0.05)
            except ServingError as error:
                return str(error), 0.0
            return None if right else "a wrong answer", time.perf_counter() - start

        rounds = []
        with ThreadPoolExecutor(arguments.clients) as pool:
            # The first tenth fills caches and the allocator's arenas.
            list(pool.map(ask, range(arguments.requests // 10)))
            rounds.append(memory())
            start = time.perf_counter()
            answers = []
            for part in np.array_split(np.arange(arguments.requests), 5):
                answers += pool.map(ask, part.tolist())
                rounds.append(memory())
            seconds = time.perf_counter() - start
    pipe.send(False)
    server.join()
    wrong = [reason for reason, _ in answers if reason]
    taken = np.array([taken for _, taken in answers])
    print(f"{arguments.requests} requests of {arguments.clients} clients, {arguments.protocol}, a tenth of them bad")
    print(f"{len(wrong)} wrong answers {sorted(set(wrong))[:5]}; {arguments.requests / seconds:.1f} requests a second")
    print("ms: p50 {:.0f}, p95 {:.0f}, p99 {:.0f}".format(*1000 * np.percentile(taken, [50, 95, 99])))
    print(f"server's memory in MiB, before and after each fifth: {' '.join(f'{each:.0f}' for each in rounds)}")
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
