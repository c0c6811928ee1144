"""Many photos in shards, by workers of which one is killed, against the plain loop: photos a second, result.

    python benchmarks/shards.py --model model.tflite [--photos 10000] [--workers 2]

The photos are drawn, of 160x120 pixels, and every hundredth is damaged. The plain loop has all processors for its
engine, the workers have a part each. Ends with an error unless all three find the same, digit by digit. Linux alone
says which processes to kill.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np

from dekr_tf.data.synthetic import draw_scene
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.shards import MANIFEST, label_photos, list_photos, predict_shards

#: Drawn scenes; each photo is one of them, moved to the side.
SCENES = 50


def write_photos(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    scenes = [cv2.cvtColor(draw_scene((120, 160), random).image, cv2.COLOR_RGB2BGR) for _ in range(SCENES)]
    for number in range(count):
        photo = np.roll(scenes[number % SCENES], number // SCENES, axis=1)
        content = cv2.imencode(".jpg", photo)[1].tobytes()
        (folder / f"{number:06}.jpg").write_bytes(content[:-40] if number % 100 == 99 else content)


def parent(process: int) -> int:
    """The process that started another; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def workers_of_this_process() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_worker = path.read_bytes().startswith(b"ray::_Worker")
        except OSError:
            continue
        # Ray's own process is between.
        if is_worker and parent(parent(int(path.parts[2]))) == os.getpid():
            found.append(int(path.parts[2]))
    return found


def kill_one(folder: Path, killed: list[int]) -> None:
    """Kills a worker after the first shard."""
    while not list(folder.glob("poses-*")):
        time.sleep(0.02)
    process = workers_of_this_process()[0]
    os.kill(process, signal.SIGKILL)
    killed.append(process)


def read(folder: Path, kind: str) -> list:
    return [json.loads(line) for path in sorted(folder.glob(f"{kind}-*")) for line in path.open()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="that `dekr predict` takes")
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-size", type=int, default=250)
    arguments = parser.parse_args()
    # Ray reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        write_photos(folder / "photos", arguments.photos)
        photos = list_photos([folder / "photos"])
        begin = time.perf_counter()
        detector = PoseDetector(arguments.model)
        label_photos(detector, photos[:2])
        opened = time.perf_counter()
        found, bad = label_photos(detector, photos)
        plain = time.perf_counter() - opened
        print(f"{len(photos)} photos, {len(bad)} damaged, {sum(len(each['poses']) for each in found)} people found")
        print(f"plain loop: {len(photos) / plain:.1f} photos/s, after {opened - begin:.1f} s for its start", flush=True)
        failures = 0
        for kind in ("undisturbed", "one worker killed"):
            made, killed = folder / kind, []
            if kind != "undisturbed":
                threading.Thread(target=kill_one, args=(made, killed), daemon=True).start()
            begin = time.time()
            predict_shards(photos, made, arguments.model, workers=arguments.workers, shard_size=arguments.shard_size)
            end = time.time()
            # The manifest is written when all workers have opened the model, the last shard before Ray ends.
            started = (made / MANIFEST).stat().st_mtime
            seconds = max(path.stat().st_mtime for path in made.glob("poses-*")) - started
            same = read(made, "poses") == found and read(made, "bad") == bad
            failures += not same or len(killed) != (kind != "undisturbed")
            print(
                f"{arguments.workers} workers, {kind} {killed or ''}: {len(photos) / seconds:.1f} photos/s, "
                f"{plain / seconds:.2f} times the plain loop's, after {started - begin:.1f} s for the start; "
                f"{end - begin:.1f} s in all; {'same result' if same else 'ANOTHER RESULT'}",
                flush=True,
            )
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
