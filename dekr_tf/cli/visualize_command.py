"""See in photos what a network looks at.

dekr visualize activation PHOTOS --model M --keypoint nose --output DIR    where its adaptive convolutions read
dekr visualize saliency PHOTOS --model M --keypoint nose --output DIR      which pixels move the keypoint
dekr visualize heatmap PHOTOS --model M --output DIR                       heatmaps of keypoints and centers
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dekr_tf.cli.photos import check_none_refused, drawing_paths, usable_photos
from dekr_tf.errors import InputError
from dekr_tf.weights import PRESET

if TYPE_CHECKING:
    import keras
    import numpy as np

    from dekr_tf.inference.inspect_photo import Inspection
    from dekr_tf.sidecar import Sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subparser for every kind of picture."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    activation = actions.add_parser(
        "activation",
        help="where the adaptive convolutions of a keypoint read",
        description="Draws for each person the positions that the adaptive convolutions of a keypoint's branch read at "
        "the person's center: large dots are the taps of the last one, small dots those of the one before it; a line "
        "leads from the center to the regressed keypoint.",
    )
    saliency = actions.add_parser(
        "saliency",
        help="which pixels move a regressed keypoint",
        description="Draws for each person the gradient of a regressed keypoint with respect to the photo's pixels, "
        "relative to its largest value. Takes two backward passes for each person, and needs TensorFlow.",
    )
    heatmap = actions.add_parser(
        "heatmap",
        help="heatmaps of keypoints and centers",
        description="Draws the heatmaps of keypoints, orange on the person's left, blue on the right, else green; and "
        "beside them the center heatmap, with a ring about the center of each person.",
    )
    for action, draw in ((activation, _activation), (saliency, _saliency), (heatmap, _heatmap)):
        action.add_argument("images", nargs="+", metavar="PHOTOS", help="files, folders or patterns")
        action.add_argument(
            "--model",
            default=PRESET,
            metavar="FILE",
            help="model file, .keras, .weights.h5 or .weights.npz (default: %(default)s, which comes with the package)",
        )
        action.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the pictures")
        action.add_argument(
            "--keypoint",
            required=action is not heatmap,
            metavar="NAME",
            help="of the skeleton" if action is not heatmap else "only this one's heatmap (default: all)",
        )
        action.add_argument("--config", metavar="FILE", help="experiment's YAML file, for a model without settings")
        action.add_argument(
            "--input-size", type=int, metavar="N", help="short side of the input in pixels (default: the model's)"
        )
        action.add_argument(
            "--min-score",
            type=float,
            metavar="S",
            help="people with a lower pose score are left out (default: the model's, usually 0.1)",
        )
        action.set_defaults(draw=draw)


def run(arguments: argparse.Namespace) -> None:
    """Draws the chosen picture of each photo.

    Raises:
        InputError: the model, the keypoint's name or the folder cannot be used; or, after everything else is done,
            photos could not.
    """
    from dekr_tf.config import load_config
    from dekr_tf.files.images import find_images, read_image, write_image
    from dekr_tf.files.outputs import check_outputs
    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.inference.inspect_photo import inspect_photo
    from dekr_tf.inference.open_model import model_files

    images = find_images(arguments.images)
    drawings = drawing_paths(images, arguments.output)
    config = load_config(arguments.config) if arguments.config else None
    check_outputs(drawings.values(), [*images, *model_files(arguments.model), arguments.config])

    from dekr_tf.models import load_model

    model, sidecar = load_model(arguments.model, config)
    names = sidecar.schema.names
    if arguments.keypoint not in (*names, None):
        raise InputError(f"--keypoint: expected one of {', '.join(names)}. Received: {arguments.keypoint}")
    keypoint = names.index(arguments.keypoint) if arguments.keypoint else None
    detector = PoseDetector(model, sidecar, dense=True, input_size=arguments.input_size)
    min_score = sidecar.decoder.min_score if arguments.min_score is None else arguments.min_score

    def inspect(path):
        try:
            return inspect_photo(read_image(path, exif_orientation=True), detector, min_score)
        except InputError as error:
            return error

    refused = []
    for path, seen in usable_photos(images, map(inspect, images), refused):
        write_image(arguments.draw(seen, model, sidecar, keypoint), drawings[path])
        print(f"{drawings[path]}: {len(seen.rows)} {'person' if len(seen.rows) == 1 else 'people'}")
    check_none_refused(refused, images)


def _activation(seen: "Inspection", model: "keras.Model", sidecar: "Sidecar", keypoint: int) -> "np.ndarray":
    from dekr_tf.models.inspection import activated_positions
    from dekr_tf.visualization.overlays import draw_activation

    activated = activated_positions(model, sidecar, seen.pixels, seen.rows, seen.columns, keypoint)
    activated = [seen.placement.to_photo(positions) for positions in activated]
    return draw_activation(seen.photo, seen.centers, seen.keypoints[:, keypoint], activated)


def _saliency(seen: "Inspection", model: "keras.Model", sidecar: "Sidecar", keypoint: int) -> "np.ndarray":
    from dekr_tf.models.inspection import saliency
    from dekr_tf.visualization.overlays import draw_saliency

    lengths = saliency(model, seen.pixels, seen.rows, seen.columns, keypoint)
    return draw_saliency(seen.photo, seen.warped(lengths, 1), seen.centers, seen.keypoints[:, keypoint])


def _heatmap(seen: "Inspection", model: "keras.Model", sidecar: "Sidecar", keypoint: int | None) -> "np.ndarray":
    from dekr_tf.visualization.overlays import draw_heatmaps

    schema = sidecar.schema
    channels = range(len(schema)) if keypoint is None else [keypoint]
    heatmaps = seen.warped(seen.heatmap.transpose(2, 0, 1), sidecar.output_stride)
    return draw_heatmaps(seen.photo, heatmaps, schema, channels, seen.centers)
