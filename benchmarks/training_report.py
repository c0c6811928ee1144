"""Pictures of a finished training: its curve, and the first poses that it finds beside the labeled ones.

The poses are drawn without the photos, so that the pictures may be shown where the photos may not.

dekr evaluate --model RUN/last.keras --annotations A.json --images DIR --results-output results.json
python benchmarks/training_report.py --run RUN --annotations A.json --results results.json --output docs/NAME
"""

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
from matplotlib.figure import Figure

from dekr_tf.config import load_config
from dekr_tf.evaluation.scoring import read_results
from dekr_tf.files.coco_format import read_labels
from dekr_tf.files.outputs import atomic_output
from dekr_tf.poses import Poses
from dekr_tf.visualization.drawing import draw_poses
from dekr_tf.visualization.sample_sheet import make_sheet

#: Side of a drawing in pixels, and their number.
SIDE, COUNT = 224, 24
BACKGROUND, LABEL = (236, 236, 232), (150, 150, 150)


def curve(run: Path) -> Figure:
    """Losses by epoch, and AP on the validation images where it was measured."""
    with open(run / "log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    losses, precision = figure.subplots(1, 2)
    for name in ("loss", "heatmap_loss", "offset_loss"):
        losses.plot(epochs, [float(row[name]) for row in rows], label=name.replace("_", " "))
    losses.set_xlabel("epoch")
    losses.set_ylim(bottom=0)
    losses.legend(frameon=False)
    measured = [(int(row["epoch"]), float(row["val_AP"])) for row in rows if row["val_AP"]]
    precision.plot(*zip(*measured, strict=True), marker="o")
    precision.set_xlabel("epoch")
    precision.set_ylabel("AP on unseen photos")
    precision.set_ylim(bottom=0)
    return figure


def sheet(labels, results, schema) -> np.ndarray:
    """The first images: labels in gray, the pose with the highest score over them."""
    drawings = []
    for image in labels[:COUNT]:
        found = [(keypoints, score) for image_id, keypoints, score in results if image_id == image.image_id]
        size = np.array([image.content["width"], image.content["height"]])
        zoom = SIDE / size.max()
        canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
        width, height = np.round(size * zoom).astype(int)
        canvas[:height, :width] = BACKGROUND
        for person in image.people:
            points = np.round(person.keypoints[:, :2] * zoom).astype(int)
            for edge in schema.edges:
                if (person.keypoints[list(edge), 2] > 0).all():
                    cv2.line(canvas, *points[list(edge)].tolist(), LABEL, 5, cv2.LINE_AA)
        if found:
            keypoints, score = max(found, key=lambda pose: pose[1])
            poses = Poses((keypoints * (zoom, zoom, 1))[None], np.array([score]), schema)
            canvas = draw_poses(canvas, poses)
        drawings.append(canvas)
    return make_sheet(drawings, columns=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of `dekr train`")
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="COCO results file")
    parser.add_argument("--output", type=Path, required=True, help="folder for curve.png and poses.png")
    options = parser.parse_args()
    schema = load_config(options.run / "config.yaml").schema
    labels = read_labels(options.annotations, schema)
    results = read_results(options.results, schema, [image.image_id for image in labels])
    with atomic_output(options.output / "curve.png") as temporary:
        curve(options.run).savefig(temporary)
    with atomic_output(options.output / "poses.png") as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(sheet(labels, results, schema), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
