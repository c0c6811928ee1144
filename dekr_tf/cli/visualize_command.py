"""See in photos what a network looks at.

dekr visualize activation PHOTOS --model M --keypoint nose --output DIR    where its adaptive convolutions read
dekr visualize saliency PHOTOS --model M --keypoint nose --output DIR      which pixels move the keypoint
dekr visualize heatmap PHOTOS --model M --output DIR                       heatmaps of keypoints and centers
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dekr_tf.cli.photos import check_none_refused, drawing_paths, usable_photos
from dekr_tf.errors import InputError

if TYPE_CHECKING:
    import keras
    import numpy as np

    from dekr_tf.inference.detector import PoseDetector
    from dekr_tf.sidecar import Sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one subparser for every kind of picture."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    activation = actions.add_parser(
        "activation",
        help="where the adaptive convolutions of a keypoint read",
        description="Draws for each person the positions that the adaptive convolutions of a keypoint's branch read at "
        "the person's center: large dots are the taps of the last one, small dots the taps of the one before at these; "
        "a line leads from the center to the regressed keypoint.",
    )
    saliency = actions.add_parser(
        "saliency",
        help="which pixels move a regressed keypoint",
        description="Draws for each person the gradient of a regressed keypoint in the pixels of the photo, in "
        "proportion to its largest value, as backpropagation gives it: two passes for each person. Needs TensorFlow.",
    )
    heatmap = actions.add_parser(
        "heatmap",
        help="heatmaps of keypoints and centers",
        description="Draws the heatmaps of keypoints, orange on the person's left, blue on the right, else green; and "
        "beside them that of the centers, with a ring about the center of each person.",
    )
    for action, draw in ((activation, _activation), (saliency, _saliency), (heatmap, _heatmap)):
        action.add_argument("images", nargs="+", metavar="PHOTOS", help="files, folders or patterns")
        action.add_argument(
            "--model", required=True, metavar="FILE", help="model file, .keras, .weights.h5 or .weights.npz"
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
            default=0.1,
            metavar="S",
            help="people with a lower pose score are left out (default: %(default)s)",
        )
        action.set_defaults(draw=draw)


def run(arguments: argparse.Namespace) -> None:
    """Draws what the chosen action says, of each photo.

    Raises:
        InputError: the model, the keypoint's name or the folder is not usable; or, after all else is done, photos were
            not.
    """
    from dekr_tf.config import load_config
    from dekr_tf.files import check_outputs
    from dekr_tf.images import find_images, read_image, write_image
    from dekr_tf.inference.artifacts import model_files
    from dekr_tf.inference.detector import PoseDetector

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

    def look_at(path):
        try:
            return look(read_image(path, exif_orientation=True), detector, arguments.min_score)
        except InputError as error:
            return error

    refused = []
    for path, view in usable_photos(images, map(look_at, images), refused):
        write_image(arguments.draw(view, model, sidecar, keypoint), drawings[path])
        print(f"{drawings[path]}: {len(view.rows)} {'person' if len(view.rows) == 1 else 'people'}")
    check_none_refused(refused, images)


@dataclass(frozen=True)
class View:
    """A photo, and what a network finds in it.

    Attributes:
        photo: (H, W, 3) uint8 RGB.
        pixels: (h, w, 3) float32, the network's input.
        to_photo: (2, 3), the transform from the network's input to the photo.
        heatmap: (h / 4, w / 4, K + 1).
        rows, columns: (N,) cells of the people's centers.
        keypoints: (N, K, 2) of the people, in pixels of the photo.
    """

    photo: "np.ndarray"
    pixels: "np.ndarray"
    to_photo: "np.ndarray"
    heatmap: "np.ndarray"
    rows: "np.ndarray"
    columns: "np.ndarray"
    keypoints: "np.ndarray"

    @property
    def centers(self) -> "np.ndarray":
        """(N, 2) in pixels of the photo."""
        import numpy as np

        from dekr_tf.inference.decoder import OUTPUT_STRIDE

        return self.points(np.stack([self.columns, self.rows], axis=-1) * OUTPUT_STRIDE)

    def points(self, points: "np.ndarray") -> "np.ndarray":
        """Points (..., 2) of the network's input in pixels of the photo."""
        from dekr_tf import geometry

        return geometry.transform_points(points, self.to_photo)

    def warped(self, maps: "np.ndarray", stride: int) -> "np.ndarray":
        """Maps (C, h, w), with a cell at each `stride` pixels of the network's input, on the photo: (C, H, W)."""
        import cv2
        import numpy as np

        matrix = self.to_photo @ np.diag([stride, stride, 1.0])
        height, width = self.photo.shape[:2]
        warped = [cv2.warpAffine(each, matrix, (width, height), flags=cv2.INTER_LINEAR) for each in maps]
        return np.array(warped, np.float32).reshape(-1, height, width)


def look(photo: "np.ndarray", detector: "PoseDetector", min_score: float) -> View:
    """What a network finds in a photo.

    Args:
        photo: (H, W, 3) uint8 RGB.
        detector: with `dense`.
        min_score: people with a lower pose score are left out.
    """
    from dekr_tf import geometry
    from dekr_tf.inference.decoder import find_candidates, find_centers, select_poses

    decoder = detector.sidecar.decoder
    (pixels,), (_, transform) = detector.network_inputs(photo)
    heatmap, offset = (maps[0] for maps in detector.runtime.maps(pixels[None]))
    rows, columns, _ = find_centers(heatmap[..., -1], max_people=decoder.max_people, threshold=decoder.center_threshold)
    candidates = find_candidates(heatmap, offset, decoder)
    poses = select_poses(*candidates, decoder).filter(min_score)
    # Pose NMS leaves no two poses that are equal, so each says which candidate it is.
    same = (poses.keypoints[:, None, :, :2] == candidates[0]).all(axis=(2, 3))
    chosen = same.argmax(axis=1)
    to_photo = geometry.invert(transform)
    keypoints = geometry.transform_points(candidates[0][chosen], to_photo)
    return View(photo, pixels, to_photo, heatmap, rows[chosen], columns[chosen], keypoints)


def _activation(view: View, model: "keras.Model", sidecar: "Sidecar", keypoint: int) -> "np.ndarray":
    from dekr_tf.models.inspection import activated_positions
    from dekr_tf.visualization.overlays import draw_activation

    activated = activated_positions(model, sidecar, view.pixels, view.rows, view.columns, keypoint)
    activated = [view.points(positions) for positions in activated]
    return draw_activation(view.photo, view.centers, view.keypoints[:, keypoint], activated)


def _saliency(view: View, model: "keras.Model", sidecar: "Sidecar", keypoint: int) -> "np.ndarray":
    from dekr_tf.models.inspection import saliency
    from dekr_tf.visualization.overlays import draw_saliency

    lengths = saliency(model, view.pixels, view.rows, view.columns, keypoint)
    return draw_saliency(view.photo, view.warped(lengths, 1), view.centers, view.keypoints[:, keypoint])


def _heatmap(view: View, model: "keras.Model", sidecar: "Sidecar", keypoint: int | None) -> "np.ndarray":
    from dekr_tf.visualization.overlays import draw_heatmaps

    schema = sidecar.schema
    channels = range(len(schema)) if keypoint is None else [keypoint]
    heatmaps = view.warped(view.heatmap.transpose(2, 0, 1), sidecar.output_stride)
    return draw_heatmaps(view.photo, heatmaps, schema, channels, view.centers)
