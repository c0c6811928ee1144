"""From a photo to the people in it."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from dekr_tf import geometry
from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.images import read_image
from dekr_tf.inference.decoder import select_poses
from dekr_tf.inference.matching import match_keypoints
from dekr_tf.inference.multi_scale import (
    View,
    check_smallest_map,
    checked_scales,
    mean_heatmaps,
    merge_views,
    scaled_size,
)
from dekr_tf.inference.rescoring import RescoringNet, open_rescoring_net
from dekr_tf.inference.runtimes import MapDecoder, MapRuntime, Runtime, open_runtime
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Sidecar
from dekr_tf.video import VideoReader

if TYPE_CHECKING:
    import keras

#: The network's input may always hold this many pixels, and four squares of the short side where that is more.
NETWORK_PIXELS = 2**20


class Frame(NamedTuple):
    """How a photo lies in the network's input at scale 1.

    Attributes:
        size: (height, width) of that input.
        transform: (2, 3) from the photo to it.
    """

    size: tuple[int, int]
    transform: np.ndarray


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

    The short side of the photo is brought to `input_size`. Photos more elongated than about 4:1 (16:1 at 256) are made
    smaller than that, so that the network's input stays within `NETWORK_PIXELS` or four squares of the short side.

    Args:
        model: path of a model file, a name that `dekr weights` lists, a Keras model, or a runtime (see
            `runtimes.Runtime`, and `open_runtime`). A Keras model's weights are taken as they are now.
        sidecar: settings of a model that is not a file.
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
            positive, a scale is too small (`multi_scale.check_smallest_map`), `input_size` or scales are given of a
            model that takes fixed sizes, `flip`, other scales than 1 or `match` is asked of a runtime that gives
            poses, or the rescoring net cannot be read or is of another skeleton.
    """

    def __init__(
        self,
        model: "str | Path | keras.Model | Runtime | MapRuntime",
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
        if input_size is not None and input_size < 1:
            raise InputError(f"input size: expected a positive number of pixels. Received: {input_size}")
        if nms_threshold is not None and not (math.isfinite(nms_threshold) and nms_threshold > 0):
            raise InputError(f"NMS threshold: expected a positive number. Received: {nms_threshold}")
        self.scales = checked_scales(scales)
        self.match = match
        self.runtime, self.sidecar = open_runtime(
            model,
            sidecar,
            config,
            flip=flip,
            dense=dense,
            threads=threads,
            heatmap=match or self.scales != (1.0,),
        )
        self.input_size = input_size or self.sidecar.input_size
        self.fixed_sizes = self.sidecar.artifact.input_sizes if self.sidecar.artifact else ()
        if self.fixed_sizes:
            sizes = ", ".join(f"{height}x{width}" for height, width in self.fixed_sizes)
            if input_size is not None:
                raise InputError(
                    f"expected no input size beside a model that takes {sizes} only. Received: {input_size}"
                )
            if self.scales != (1.0,):
                given = " ".join(f"{scale:g}" for scale in scales)
                raise InputError(f"expected no scales beside a model that takes {sizes} only. Received: {given}")
        check_smallest_map(self.scales, self.input_size)
        decoder = self.sidecar.decoder
        if nms_threshold is None:
            nms_threshold = decoder.nms_distance if len(self.scales) == 1 else decoder.multi_scale_nms_distance
        self.decoder = decoder.model_copy(update={"nms_distance": nms_threshold})
        self._normalized = _normalization_table(self.sidecar)
        self.rescoring_net = None if rescore is None else open_rescoring_net(rescore, self.sidecar.schema)

    def __call__(self, image: np.ndarray | str | os.PathLike) -> Poses:
        """Finds the people in one photo.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of a file, which is turned upright as its EXIF entry says.

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
            What each photo alone would give, in the order of the photos.

        Raises:
            InputError: as for a single photo.
        """
        inputs, frames = zip(*map(self.network_inputs, images), strict=True) if len(images) else ((), ())
        groups: dict[tuple[int, int], list[int]] = {}
        for index, frame in enumerate(frames):
            groups.setdefault(frame.size, []).append(index)
        found: dict[int, Poses] = {}
        for group in groups.values():
            by_scale = [np.stack(each) for each in zip(*(inputs[index] for index in group), strict=True)]
            poses = self.decode(self.run_network(by_scale), [frames[index] for index in group])
            found.update(zip(group, poses, strict=True))
        return [found[index] for index in range(len(inputs))]

    def stream(self, source: str | os.PathLike | VideoReader) -> Iterator[VideoFrame]:
        """Finds the people in a video file, or in what a camera sees, frame by frame.

        The source is closed after the last frame, or when the iterator is closed or garbage collected.

        Args:
            source: path of a video file, `camera:0` for the first camera, or an open reader.

        Returns:
            An iterator over the frames, each of which is read when its turn comes.

        Raises:
            InputError: there is no such file or camera, or the file is no video; later, as for a single photo.
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

    def network_inputs(self, image: np.ndarray | str | os.PathLike) -> tuple[list[np.ndarray], Frame]:
        """The first of three steps: what the network takes of a photo.

        Args:
            image: as for a call.

        Returns:
            For each scale (h, w, 3), float32 normalised or, where the model takes that, uint8; and the frame.

        Raises:
            InputError: as for a call.
        """
        if isinstance(image, str | os.PathLike):
            image = read_image(image, exif_orientation=True)
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise InputError(f"expected an image (H, W, 3) of uint8 RGB. Received: {image.shape} of {image.dtype}")
        if self.fixed_sizes:
            frame = Frame(*best_fit(image.shape[:2], self.fixed_sizes))
        else:
            size = bounded_network_size(image.shape[:2], self.input_size)
            frame = Frame(size, geometry.resize_transform(image.shape[:2], size))
        return [self._resize(image, frame, scale) for scale in self.scales], frame

    def _resize(self, image: np.ndarray, frame: Frame, scale: float) -> np.ndarray:
        height, width = scaled_size(frame.size, scale)
        try:
            resized = cv2.warpAffine(image, scale * frame.transform, (width, height), flags=cv2.INTER_LINEAR)
        except cv2.error as error:
            # OpenCV 4 takes no side of 32767 pixels or more.
            raise InputError(f"cannot resize an image of {image.shape[1]}x{image.shape[0]}: {error.err}") from error
        # A lookup takes a fifth of the time of the arithmetic, with the same bits.
        return resized if self._normalized is None else cv2.LUT(resized, self._normalized)

    def run_network(self, inputs: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """The second step: what the network gives, for `decode`.

        Args:
            inputs: for each scale (B, h, w, 3) of `network_inputs`.
        """
        run = self.runtime.maps_of if isinstance(self.runtime, MapDecoder) else self.runtime
        return [run(images) for images in inputs]

    def decode(self, outputs: Sequence[tuple[np.ndarray, ...]], frames: Sequence[Frame]) -> list[Poses]:
        """The last step, in NumPy: finds the people in what the network gave.

        Args:
            outputs: of `run_network`, for B images.
            frames: of these, all of one size.

        Returns:
            Poses of each photo, in its pixels.
        """
        if isinstance(self.runtime, MapDecoder):
            outputs = [self.runtime.candidates(*maps) for maps in outputs]
        poses = []
        for frame, *by_scale in zip(frames, *(zip(*arrays, strict=True) for arrays in outputs), strict=True):
            views = [View(scale, *arrays) for scale, arrays in zip(self.scales, by_scale, strict=True)]
            poses.append(_to_photo(self._select(views, frame.size), frame.transform, self.sidecar.schema))
        return [self.rescoring_net.rescore(each) for each in poses] if self.rescoring_net else poses

    def _select(self, views: Sequence[View], size: tuple[int, int]) -> Poses:
        """The people in one photo, of what was found at each scale, in pixels of the network's input at scale 1."""
        poses = select_poses(*merge_views(views, size, self.decoder.multi_scale_damping), self.decoder)
        if not self.match:
            return poses
        heatmaps = mean_heatmaps(views, size)
        return match_keypoints(poses, heatmaps, max_peaks=self.decoder.max_people, border=self.decoder.match_border)


def _normalization_table(sidecar: Sidecar) -> np.ndarray | None:
    """(1, 256, 3) float32: what each 8-bit value of each channel becomes; None where the model does it itself."""
    if sidecar.artifact and sidecar.artifact.input_type == "uint8":
        return None
    mean, std = np.array(sidecar.mean, np.float32), np.array(sidecar.std, np.float32)
    values = np.arange(256, dtype=np.float32)[None, :, None]
    return values * (1 / (255 * std)) - mean / std


def _to_photo(poses: Poses, transform: np.ndarray, schema: KeypointSchema) -> Poses:
    """Poses in pixels of the photo that `transform` (2, 3) brought to the network's input."""
    keypoints = poses.keypoints.copy()
    keypoints[..., :2] = geometry.transform_points(keypoints[..., :2], geometry.invert(transform))
    return Poses(keypoints, poses.scores, schema)


def bounded_network_size(image_size: tuple[int, int], input_size: int) -> tuple[int, int]:
    """The (height, width) of the network's input, with a bound for elongated images.

    That of `geometry.network_size`; where it holds more pixels than four squares of the short side and than
    `NETWORK_PIXELS`, the short side is lowered in steps of 64 until it does not.

    Args:
        image_size: (height, width) of the image.
        input_size: pixels of the short side.

    Raises:
        InputError: even a short side of 64 gives too many pixels.
    """
    largest = max(NETWORK_PIXELS, 4 * geometry.round_up(input_size) ** 2)
    for short in range(geometry.round_up(input_size), 0, -geometry.SIZE_MULTIPLE):
        height, width = geometry.network_size(image_size, short)
        if height * width <= largest:
            return height, width
    raise InputError(
        f"image too elongated: with a short side of {geometry.SIZE_MULTIPLE} it must fill at most {largest} pixels. "
        f"Received: {image_size[1]}x{image_size[0]}"
    )


def best_fit(image_size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], np.ndarray]:
    """Of several sizes of the network's input, the smallest of those in which an image can be largest.

    Args:
        image_size: (height, width) of the image.
        sizes: (height, width) each.

    Returns:
        The size, and the transform (2, 3) of `geometry.fit_transform`.
    """
    transforms = {size: geometry.fit_transform(image_size, size) for size in sizes}
    size = min(sizes, key=lambda size: (-transforms[size][0, 0], size[0] * size[1]))
    return size, transforms[size]
