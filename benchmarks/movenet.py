"""Compares models of ours with MoveNet MultiPose Lightning: AP on labeled photos against time per photo.

Both run on LiteRT with the same number of threads. Photo by photo all take turns, so that a change of the machine's
speed meets all; times are medians from the decoded photo to its people. Prints a table in Markdown, writes a CSV file
and draws a plot.

python benchmarks/movenet.py --movenet movenet.tflite --models people.tflite people_int8.tflite --threads 2 \\
    --annotations val.json --images val/ --output results/movenet

docs/train.md says where MoveNet's file is.
With --backbone BACKBONE.keras, compares the features of `dekr import movenet.tflite` with those in MoveNet's graph.
"""

import argparse
import csv
import math
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tqdm import tqdm

from dekr_tf.evaluation.coco import evaluate_coco
from dekr_tf.files.coco_format import read_labels
from dekr_tf.files.images import open_images
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.keypoints import COCO
from dekr_tf.models.mobilenet import SHIFT

#: Long sides in pixels at which MoveNet looks at photos.
MOVENET_SIZES = 256, 384, 512
#: MoveNet takes whole multiples of it.
MULTIPLE = 32


class MoveNet:
    """MoveNet MultiPose Lightning; call it with a photo (H, W, 3) uint8 RGB for people as COCO result files have them.

    Args:
        path: of its `.tflite` file.
        long_side: of the photo in MoveNet's input, in pixels.
        threads: of LiteRT.
    """

    def __init__(self, path: str, long_side: int, threads: int, *, keep_maps: bool = False):
        self.long_side = long_side
        self.interpreter = Interpreter(path, num_threads=threads, experimental_preserve_all_tensors=keep_maps)
        self.size = None

    def run(self, image: np.ndarray) -> np.ndarray:
        """The output (6, 56) for an input (H, W, 3) uint8 whose sides are multiples of 32."""
        if image.shape != self.size:
            self.interpreter.resize_tensor_input(0, (1, *image.shape))
            self.interpreter.allocate_tensors()
            self.size = image.shape
        self.interpreter.set_tensor(0, image[None])
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"])[0]

    def __call__(self, photo: np.ndarray) -> list[dict]:
        scale = self.long_side / max(photo.shape[:2])
        height, width = (max(1, round(scale * side)) for side in photo.shape[:2])
        padded = np.zeros([math.ceil(side / MULTIPLE) * MULTIPLE for side in (height, width)] + [3], np.uint8)
        padded[:height, :width] = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        results = []
        for row in self.run(padded):
            y, x, score = row[:51].reshape(17, 3).T
            keypoints = np.stack([x * padded.shape[1] / scale, y * padded.shape[0] / scale, score], axis=-1)
            results.append({"keypoints": keypoints.ravel().tolist(), "score": float(row[55])})
        return results


class Ours:
    """A `.tflite` file of this project, called as `MoveNet` is."""

    def __init__(self, path: str, threads: int):
        self.detector = PoseDetector(path, threads=threads)

    def __call__(self, photo: np.ndarray) -> list[dict]:
        return self.detector(photo).to_coco(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--movenet", required=True)
    parser.add_argument("--backbone", help="compare features only")
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", help="path of the CSV file and the plot, without suffix")
    arguments = parser.parse_args()
    labels = read_labels(arguments.annotations, COCO)
    files = open_images(arguments.images)
    if arguments.backbone:
        compare_features(arguments, files.read(labels[0].file_name))
        return

    rows = compare(arguments, labels, files)
    print("| model | AP | AP50 | APM | APL | ms a photo | people at most |\n|---|---|---|---|---|---|---|")
    for row in rows:
        measures = " | ".join(f"{row[name]:.3f}" for name in ("AP", "AP50", "APM", "APL"))
        print(f"| {row['model']} | {measures} | {row['ms']:.1f} | {row['people']} |")
    if arguments.output:
        with open(f"{arguments.output}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        plot(rows, f"{arguments.output}.png")


def compare(arguments, labels, files) -> list[dict]:
    """A row for each model: its measures, and the median of its times."""
    models = {
        f"MoveNet MultiPose {size}": (MoveNet(arguments.movenet, size, arguments.threads), 6) for size in MOVENET_SIZES
    }
    for path in arguments.models:
        ours = Ours(path, arguments.threads)
        models[Path(path).stem] = ours, ours.detector.decoder.max_people
    results = {name: [] for name in models}
    times = {name: [] for name in models}
    for image in tqdm(sorted(labels, key=lambda image: image.content["width"] / image.content["height"])):
        photo = files.read(image.file_name)
        for name, (model, _) in models.items():
            model(photo)  # The first photo of a shape allocates.
            begin = time.perf_counter()
            people = model(photo)
            times[name].append(1e3 * (time.perf_counter() - begin))
            results[name] += [{**person, "image_id": image.image_id, "category_id": 1} for person in people]
    return [
        {"model": name, **evaluate_coco(labels, results[name], COCO), "ms": np.median(times[name]), "people": people}
        for name, (_, people) in models.items()
    ]


def compare_features(arguments, photo) -> None:
    """Prints by how much the map that enters MoveNet's heads differs from the imported backbone's."""
    import keras

    movenet = MoveNet(arguments.movenet, 512, arguments.threads, keep_maps=True)
    image = cv2.resize(photo, (384, 512), interpolation=cv2.INTER_AREA)
    # The backbone shifts its input by `SHIFT` pixels, where it has gray.
    shifted = np.full_like(image, 127)
    shifted[SHIFT:, SHIFT:] = image[:-SHIFT, :-SHIFT]
    movenet.run(shifted)
    backbone = keras.models.load_model(arguments.backbone, compile=False)
    backbone = keras.Model(backbone.input, backbone.get_layer("pyramid_0_relu").output)
    found = np.asarray(backbone(image[None] / np.float32(127.5) - 1))
    shape = tuple(found.shape)
    # The names in the file do not tell which map it is: of those of this shape, the nearest.
    maps = [each["index"] for each in movenet.interpreter.get_tensor_details() if tuple(each["shape"]) == shape]
    middle = np.s_[:, 32:-32, 32:-32]  # At the borders, the two see other pixels.
    difference = min(np.abs(movenet.interpreter.get_tensor(index) - found)[middle].max() for index in maps)
    print(f"largest difference {difference:.2g} of values up to {found.max():.3g}")


def plot(rows, path) -> None:
    """Draws AP over milliseconds a photo, a line for each family of models."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families: dict[str, list[dict]] = {}
    for row in rows:
        families.setdefault(re.sub(r"[_ ]\d+$", "", row["model"]), []).append(row)
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, members in families.items():
        times, precisions = zip(*sorted((row["ms"], row["AP"]) for row in members), strict=True)
        axes.plot(times, precisions, marker="o", label=name)
    axes.set(xlabel="milliseconds a photo", ylabel="AP", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
