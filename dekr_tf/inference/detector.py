"""From a photo to the people in it."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.files.video import VideoReader
from dekr_tf.inference.decoder import discount_scores, select_poses
from dekr_tf.inference.engines import Engine
from dekr_tf.inference.matching import match_keypoints
from dekr_tf.inference.multi_scale import View, mean_heatmaps, merge_views
from dekr_tf.inference.open_model import open_model
from dekr_tf.inference.rescoring import RescoringNet, open_rescoring_net
from dekr_tf.poses import Poses
from dekr_tf.preprocessing import Placement, Preprocessor, check_input_size, sorted_scales
from dekr_tf.sidecar import Sidecar
from dekr_tf.weights import PRESET, resolve

if TYPE_CHECKING:
    import keras


class VideoFrame(NamedTuple):
    """A frame of a video, and the people in it.

    Attributes:
        seconds: since the start of the file, or since the camera was opened.
        image: (H, W, 3) uint8 RGB.
        poses: in pixels of the image.
    """

    seconds: float
    image: np.ndarray
    poses: Poses


class PoseDetector:
    """Finds the people in photos with one network; call it with a photo. Several threads may share it.

    It works in three steps, each of which can be called by itself: `preprocessor` brings a photo to the network's input
    (`preprocessing.Preprocessor`), `run_network` runs the network, and `decode` finds the people in what it gave.

    Args:
        model: path of a model file, a name that `dekr weights` lists, a `PoseEstimator`, a Keras model, an engine or
            a function as its `run` (`engines.Engine`). A Keras model's weights are taken as they are now. By default
            the model of the package: on LiteRT, or on Keras with `config`, `input_size`, `dense` or other `scales`.
        sidecar: settings of a model that brings none; files, `PoseEstimator` and the network of `build_dekr` do.
        config: of the experiment, where there is no sidecar.
        input_size: short side of the network's input in pixels, rounded up to a multiple of 64. Default: what the
            model was trained for. A model that takes fixed sizes gets the photo as large as fits into one of them.
        flip: flip test: also look at the mirrored photo and average, slower and a little more accurate.
        dense: evaluate the offset head on the whole map, with the same result: slower.
        threads: of the engine, where it lets them be chosen (LiteRT, ONNX Runtime); by default the processors that this
            process may use. Those of TensorFlow are fixed for the whole process once it runs, so they are left to your
            program and `tf.config.threading`.
        rescore: a rescoring net, the path or the name of one, whose predicted OKS multiplies the pose scores.
        scales: multi-scale test (paper section 4.1): look at the photo at so many times `input_size`, and merge what is
            found.
        match: move keypoints to the closest peaks of the heatmaps (`matching.match_keypoints`).
        nms_threshold: keypoints of two poses are near within this fraction of the bounding box diagonal. Default: the
            model's `nms_distance`, with several scales its `multi_scale_nms_distance`.

    Raises:
        InputError: the model cannot be read, its settings are missing, `input_size`, a scale or `nms_threshold` is not
            positive, a scale is too small (`preprocessing.check_smallest_map`), `input_size` or scales are given of a
            model that takes fixed sizes, `flip`, other scales than 1 or `match` is asked of an engine that gives
            poses, `rescore` or `nms_threshold` is given of a model that gives final poses, or the rescoring net cannot
            be read or is of another skeleton.
    """

    def __init__(
        self,
        model: "str | Path | keras.Model | Engine | Callable" = PRESET,
        sidecar: Sidecar | None = None,
        *,
        config: Config | None = None,
        input_size: int | None = None,
        flip: bool = False,
        dense: bool = False,
        threads: int | None = None,
        rescore: RescoringNet | str | Path | None = None,
        scales: Sequence[float] = (1.0,),
        match: bool = False,
        nms_threshold: float | None = None,
    ):
        # Checked before the model is opened, which takes seconds.
        check_input_size(input_size)
        if nms_threshold is not None and not (math.isfinite(nms_threshold) and nms_threshold > 0):
            raise InputError(f"NMS threshold: expected a positive number. Received: {nms_threshold}")
        self.match = match
        other_sizes = sorted_scales(scales) != (1.0,)
        if isinstance(model, str | Path):
            fixed = not (config or input_size or dense or flip or match or other_sizes)
            model = resolve(model, "network", exported=fixed)
        self.engine, self.sidecar = open_model(
            model,
            sidecar,
            config,
            flip=flip,
            dense=dense,
            threads=threads,
            heatmap=match or other_sizes,
        )
        self._final = self.sidecar.artifact is not None and self.sidecar.artifact.final
        if self._final and not (nms_threshold is None and rescore is None):
            raise InputError("a model of final poses takes no NMS threshold and no rescoring net: its graph has them")
        self.preprocessor = Preprocessor(self.sidecar, input_size, scales)
        decoder = self.sidecar.decoder
        if nms_threshold is None:
            nms_threshold = decoder.nms_distance if len(scales) == 1 else decoder.multi_scale_nms_distance
        self.decoder = decoder.model_copy(update={"nms_distance": nms_threshold})
        self.rescoring_net = None if rescore is None else open_rescoring_net(rescore, self.sidecar.schema)

    def __call__(self, image: np.ndarray | str | os.PathLike) -> Poses:
        """Finds the people in one photo.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of a file, which is turned upright by its EXIF orientation.

        Returns:
            Poses in pixels of the (upright) photo, with the model's skeleton.

        Raises:
            InputError: the file cannot be read, the array is not an image, the photo is too elongated, or the network's
                maps do not fit the skeleton.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[np.ndarray | str | os.PathLike]) -> list[Poses]:
        """Finds the people in several photos; those of one network input size go through the network together.

        Args:
            images: each as for a single photo, of any sizes; or one array (B, H, W, 3). With flip test, the network
                gets twice as many at once.

        Returns:
            The poses that each photo alone would have, in the order of the photos.

        Raises:
            InputError: as for a single photo.
        """
        inputs, placements = zip(*map(self.preprocessor, images), strict=True) if len(images) else ((), ())
        groups: dict[tuple[int, int], list[int]] = {}
        for index, placement in enumerate(placements):
            groups.setdefault(placement.size, []).append(index)
        found: dict[int, Poses] = {}
        for group in groups.values():
            by_scale = [np.stack(each) for each in zip(*(inputs[index] for index in group), strict=True)]
            poses = self.decode(self.run_network(by_scale), [placements[index] for index in group])
            found.update(zip(group, poses, strict=True))
        return [found[index] for index in range(len(inputs))]

    def stream(self, source: str | os.PathLike | VideoReader) -> Iterator[VideoFrame]:
        """Finds the people in a video file or a camera's stream, frame by frame.

        The source is closed after the last frame, or when the iterator is closed or garbage collected.

        Args:
            source: path of a video file, `camera:0` for the first camera, or an open reader.

        Returns:
            An iterator over the frames, each of which is read when its turn comes.

        Raises:
            InputError: there is no such file or camera, or the file is not a video; later, as for a single photo.
        """
        return self._frames(source if isinstance(source, VideoReader) else VideoReader(source))

    def _frames(self, video: VideoReader) -> Iterator[VideoFrame]:
        with video:
            for seconds, image in video:
                try:
                    poses = self(image)
                except InputError as error:
                    raise InputError(f"{video.source}: {error}") from error
                yield VideoFrame(seconds, image, poses)

    def run_network(self, inputs: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Runs the network, the second step.

        Args:
            inputs: for each scale (B, h, w, 3) of `preprocessor`.

        Returns:
            For each scale, what `decode` takes.
        """
        return [self.engine.run(images) for images in inputs]

    def decode(self, outputs: Sequence[tuple[np.ndarray, ...]], placements: Sequence[Placement]) -> list[Poses]:
        """Finds the people in the network's outputs, the last step, in NumPy.

        Args:
            outputs: of `run_network`, for B images.
            placements: of these images, all of one size.

        Returns:
            Poses of each photo, in its pixels.
        """
        if self._final:
            people = [
                Poses(keypoints[:count], scores[:count]) for keypoints, scores, count in zip(*outputs[0], strict=True)
            ]
        else:
            people = self._find_people(outputs, placements)
        poses = []
        for placement, found in zip(placements, people, strict=True):
            keypoints = found.keypoints.copy()
            keypoints[..., :2] = placement.to_photo(keypoints[..., :2])
            poses.append(Poses(keypoints, found.scores, self.sidecar.schema))
        return [self.rescoring_net.rescore(each) for each in poses] if self.rescoring_net else poses

    def _find_people(self, outputs: Sequence[tuple[np.ndarray, ...]], placements: Sequence[Placement]) -> list[Poses]:
        """The people in each photo, in pixels of the network's input at scale 1."""
        outputs = [self.engine.candidates(each) for each in outputs]
        people = []
        for placement, *by_scale in zip(placements, *(zip(*arrays, strict=True) for arrays in outputs), strict=True):
            views = [View(scale, *arrays) for scale, arrays in zip(self.preprocessor.scales, by_scale, strict=True)]
            people.append(self._select(views, placement.size))
        return people

    def _select(self, views: Sequence[View], size: tuple[int, int]) -> Poses:
        """The people in one photo, from its views at all scales, in pixels of the network's input at scale 1."""
        poses = select_poses(*merge_views(views, size, self.decoder.multi_scale_damping), self.decoder)
        if self.match:
            heatmaps = mean_heatmaps(views, size)
            poses = match_keypoints(
                poses, heatmaps, max_peaks=self.decoder.max_people, border=self.decoder.match_border
            )
        scores = discount_scores(poses.xy, poses.keypoint_scores, self.decoder, self.sidecar.schema.oks_sigmas)
        return Poses(np.concatenate([poses.xy, scores[..., None]], axis=-1), scores.mean(axis=1))
