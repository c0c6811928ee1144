"""Model folders for TensorFlow Serving: image files in, final poses out."""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from converters.encoded_images import MAX_IMAGES, encoded_images, with_checked_shape
from converters.export import keras_detector
from converters.graphs import COARSEST_STRIDE, check_export
from converters.to_saved_model import save_signatures
from converters.verify import TOLERANCES, Comparison, compare
from dekr_tf.coco_format import AREA_PER_BOX
from dekr_tf.config import DecoderConfig
from dekr_tf.data.records import write_errors
from dekr_tf.data.synthetic import draw_scene
from dekr_tf.errors import InputError
from dekr_tf.files import atomic_outputs, write_text
from dekr_tf.images import MAX_PIXELS
from dekr_tf.inference.decoder import discount_scores
from dekr_tf.inference.detector import NETWORK_PIXELS
from dekr_tf.inference.rescoring import MIN_SIZE, RescoringNet, open_rescoring_net
from dekr_tf.models.pose_model import backbone_branches, build_pose_model
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Artifact, Sidecar, write_sidecar

#: Where the server looks for requests to run before it takes others, inside a version's folder.
WARMUP = "assets.extra/tf_serving_warmup_requests"
#: Where it looks for how to batch a model, with --enable_per_model_batching_parameters.
BATCHING = "batching_params.pbtxt"
#: (height, width) of the images in the warm-up requests.
WARMUP_SIZES = (240, 320), (320, 240)


@dataclass(frozen=True)
class ServingOptions:
    """What a served graph does.

    Attributes:
        nms: pose NMS in the graph; else the candidates are returned.
        rescore: a rescoring net, or its path, to multiply the pose scores by the OKS that it expects.
        skip_bad_images: refuse only the bad images of a batch, with the reason as output `error`.
        max_pixels: larger images are refused; at most, and by default, the limit of `PoseDetector`.
    """

    nms: bool = True
    rescore: RescoringNet | str | Path | None = None
    skip_bad_images: bool = False
    max_pixels: int = MAX_PIXELS


def export_serving(
    model: keras.Model,
    sidecar: Sidecar,
    folder: str | Path,
    artifact: Artifact,
    options: ServingOptions,
    photos: Sequence[np.ndarray],
) -> Comparison:
    """Writes a version of a model for TensorFlow Serving, opens it, and compares it with the Keras model.

    Beside the model's folder come `models.config`, to which the model is added, and `docker-compose.yaml`, unless there
    is one. A `batching_params.pbtxt` is written into the version where batching does good and no harm: the input has
    one size, and a bad image spoils no other request.

    Args:
        model: of `build_dekr`.
        sidecar: its settings.
        folder: `MODELS/NAME/VERSION` to write.
        artifact: one or no input size, and whether with flip test; the rest as by default.
        options: what the graph does.
        photos: (H, W, 3) uint8 RGB, to compare on.

    Returns:
        The comparison with the Keras model.

    Raises:
        InputError: the model or what is asked for cannot be exported, or the differences are beyond `TOLERANCES`;
            then nothing is written.
    """
    folder = Path(os.path.abspath(folder))
    name = folder.parent.name
    if not re.fullmatch(r"[1-9][0-9]{0,17}", folder.name) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise InputError(f"expected a folder MODELS/NAME/VERSION, such as models/dekr/1. Received: {folder}")
    if artifact != Artifact(graph="poses", input_sizes=artifact.input_sizes, flip=artifact.flip):
        raise InputError("serving: expected the graph poses in float32. Received: another graph, precision or input")
    if len(artifact.input_sizes) > 1:
        raise InputError(f"serving: expected one input size, or none for any. Received: {len(artifact.input_sizes)}")
    if not 1 <= options.max_pixels <= MAX_PIXELS:
        raise InputError(f"serving: expected 1 to {MAX_PIXELS} as the most pixels. Received: {options.max_pixels}")
    check_export(model, artifact, calibrated=False)
    if options.rescore is not None:
        net = open_rescoring_net(options.rescore, sidecar.schema)
        options = ServingOptions(options.nms, net, options.skip_bad_images, options.max_pixels)
    exported = sidecar.model_copy(update={"artifact": artifact})
    expected = keras_detector(model, exported)
    expected.rescoring_net = options.rescore
    with atomic_outputs(folder, folder=True) as temporary:
        _write_graph(model, exported, options, temporary)
        requests = warmup_requests(name, exported)
        (temporary / WARMUP).parent.mkdir()
        with write_errors(temporary), tf.io.TFRecordWriter(str(temporary / WARMUP)) as writer:
            for request in requests:
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())
        if artifact.input_sizes and options.skip_bad_images:
            (temporary / BATCHING).write_text(_BATCHING, encoding="utf-8")
        write_sidecar(exported, temporary)
        comparison = _check(temporary, requests, expected, options, photos)
        tolerance = TOLERANCES["float32"]
        if not comparison.people:
            raise InputError(f"expected photos with people that the model finds. Received: {len(photos)} without")
        if not comparison.within(tolerance):
            raise InputError(
                f"{folder} would differ too much from the Keras model. Expected at most {tolerance.pixels} pixels and "
                f"{tolerance.score} of score in the mean, and {tolerance.lost:.0%} lost. Received: {comparison}"
            )
    _write_server_files(folder)
    return comparison


def docker_command(models: str | Path) -> str:
    """The command that serves a folder of models, to this machine only."""
    source = f"type=bind,source={os.path.abspath(models)},target=/models,readonly"
    published = " ".join(f"-p 127.0.0.1:{port}:{port}" for port in (8500, 8501))
    return f"docker run --rm {published} --mount '{source}' {_IMAGE} {' '.join(_FLAGS)}"


def _write_graph(model, sidecar, options, folder):
    """The SavedModel with its three signatures."""
    graph = build_pose_model(model, sidecar, flip=sidecar.artifact.flip)
    size = sidecar.artifact.input_sizes[0] if sidecar.artifact.input_sizes else (None, None)
    mean, std = tf.constant(sidecar.mean), tf.constant(sidecar.std)
    checked = _input_check(size, sidecar.input_size)

    def normalized(image):
        return (tf.cast(image, tf.float32) / 255.0 - mean) / std

    def network(image):
        outputs = graph(normalized(image), training=False)
        if options.nms:
            outputs = select_poses(outputs, sidecar.decoder)
        if sidecar.decoder.keypoint_error:
            similarity = expected_similarity(outputs["keypoints"], sidecar)
            outputs["keypoint_scores"] *= similarity
        return outputs

    find = encoded_images(
        network, sidecar, max_pixels=options.max_pixels, max_images=MAX_IMAGES, skip_bad=options.skip_bad_images
    )

    def from_files(image_bytes):
        return _final_poses(find(image_bytes), options.rescore)

    def from_tensors(image):
        return _final_poses(network(checked(image)), options.rescore)

    # With the same backbone, so that its weights are there once.
    heatmap_and_branches = graph.get_layer("maps")
    offset_head = keras.Model(backbone_branches(model), model.output["offset"])

    def maps(image):
        heatmap, *branches = heatmap_and_branches(normalized(checked(image)), training=False)
        return {"heatmap": heatmap, "offset": offset_head(branches, training=False)}

    image = tf.TensorSpec((None, *size, 3), tf.uint8, name="image")
    endpoints = {
        "serving_default": (from_files, tf.TensorSpec((None,), tf.string, name="image_bytes")),
        "tensors": (from_tensors, image),
        "maps": (maps, image),
    }
    save_signatures(endpoints, [*graph.variables, *offset_head.variables], folder)


def _input_check(size, input_size):
    """A function that returns images (B, H, W, 3) as they are, or raises an error with the reason why not."""
    if all(size):
        kind = f"1 to {MAX_IMAGES} images of {size[0]}x{size[1]}x3"
    else:
        largest = max(NETWORK_PIXELS, 4 * input_size**2)
        kind = (
            f"1 to {MAX_IMAGES} images, sides multiples of {COARSEST_STRIDE} and at most {largest} pixels, of 3 colors"
        )

    def fits(shape):
        count, height, width, channels = tf.unstack(tf.cast(shape, tf.int64))
        if all(size):
            good = (height == size[0]) & (width == size[1])
        else:
            good = (height > 0) & (width > 0) & (height % COARSEST_STRIDE == 0) & (width % COARSEST_STRIDE == 0)
            good &= height * width <= largest
        return good & (count >= 1) & (count <= MAX_IMAGES) & (channels == 3)

    return lambda image: with_checked_shape(image, 4, fits, kind)


def select_poses(candidates: Mapping[str, tf.Tensor], config: DecoderConfig) -> dict[str, tf.Tensor]:
    """Pose NMS in the graph; keeps what `inference.decoder.select_poses` keeps, in the same order.

    Args:
        candidates: `keypoints` (B, N, K, 2), `keypoint_scores` (B, N, K) and `center_scores` (B, N), zero where there
            is no candidate.
        config: thresholds of pose NMS.

    Returns:
        The same, those that are kept first; zero behind them.
    """
    keypoints, keypoint_scores = candidates["keypoints"], candidates["keypoint_scores"]
    center_scores = candidates["center_scores"]
    images, people = tf.unstack(tf.shape(center_scores))
    count = keypoints.shape[2]
    threshold = count // 2 if config.nms_keypoints is None else config.nms_keypoints
    found = center_scores != 0
    heat = tf.math.divide_no_nan(tf.reduce_mean(keypoint_scores, axis=2), center_scores)

    extents = tf.reduce_max(keypoints, axis=2) - tf.reduce_min(keypoints, axis=2)
    limits = tf.square(config.nms_distance * tf.norm(extents, axis=-1))
    # Keypoint by keypoint: (B, N, N, K, 2) at once would be large.
    near = tf.zeros((images, people, people), tf.int32)
    for index in range(count):
        points = keypoints[:, :, index]
        squared = tf.reduce_sum(tf.square(points[:, :, None] - points[:, None]), axis=-1)
        near += tf.cast(squared <= limits[:, :, None], tf.int32)
    same_person = (near > threshold) | tf.eye(people, dtype=tf.bool)
    same_person &= found[:, None]

    def walk(index, dealt_with, places, kept):
        group = same_person[:, index]
        best = tf.argmax(tf.where(group, heat, -np.inf), axis=1, output_type=tf.int32)
        best = tf.one_hot(best, people, on_value=True, off_value=False, dtype=tf.bool)
        free = ~dealt_with[:, index] & found[:, index] & ~tf.reduce_any(best & dealt_with, axis=1)
        places = tf.where(best & free[:, None], kept[:, None], places)
        return index + 1, dealt_with | (group & free[:, None]), places, kept + tf.cast(free, tf.int32)

    # Places in the result; those that are not kept come last.
    start = 0, tf.zeros_like(found), tf.fill((images, people), people), tf.zeros((images,), tf.int32)
    _, _, places, kept = tf.while_loop(lambda index, *_: index < people, walk, start)
    order = tf.argsort(places, axis=1, stable=True)
    stays = tf.range(people) < kept[:, None]
    return {
        name: tf.where(
            tf.reshape(stays, (images, people, *[1] * (values.shape.rank - 2))),
            tf.gather(values, order, axis=1, batch_dims=1),
            0.0,
        )
        for name, values in candidates.items()
    }


def expected_similarity(keypoints: tf.Tensor, sidecar: Sidecar) -> tf.Tensor:
    """`oks.expected_similarity` in the graph: of poses (..., K, 2) in pixels of the network's input, (..., K)."""
    extents = tf.reduce_max(keypoints, axis=-2) - tf.reduce_min(keypoints, axis=-2)
    falloffs = np.square(2 * np.array(sidecar.schema.oks_sigmas, np.float32))
    variances = AREA_PER_BOX * tf.reduce_prod(extents, axis=-1)[..., None] * falloffs
    return variances / (variances + sidecar.decoder.keypoint_error**2)


def predict_oks(keypoints: tf.Tensor, net: RescoringNet) -> tf.Tensor:
    """`RescoringNet.predict_oks` in the graph: of poses (..., K, 3), the OKS (...) to expect."""

    def vectors(edges):
        first, second = (list(ends) for ends in zip(*edges, strict=True))
        points = tf.cast(keypoints[..., :2], tf.float64)
        return tf.gather(points, first, axis=-2) - tf.gather(points, second, axis=-2)

    size = tf.reduce_mean(tf.norm(vectors(net.schema.normalization_edges), axis=-1), axis=-1)
    edges = vectors(net.schema.edges) / tf.maximum(size, MIN_SIZE)[..., None, None]
    flat = tf.reshape(edges, tf.concat([tf.shape(edges)[:-2], [2 * len(net.schema.edges)]], axis=0))
    scores = tf.cast(keypoints[..., 2], tf.float64)
    values = tf.cast(tf.concat([flat, tf.norm(edges, axis=-1), scores], axis=-1), tf.float32)
    for index, (kernel, bias) in enumerate(net.layers):
        values = tf.tensordot(values, tf.constant(kernel), 1) + tf.constant(bias)
        if index + 1 < len(net.layers):
            values = tf.nn.relu(values)
    return values[..., 0]


def _final_poses(outputs, net):
    """What is answered, best first: keypoints (B, N, K, 3) with their scores, pose scores (B, N), num_poses (B,)."""
    keypoints = tf.concat([outputs["keypoints"], outputs["keypoint_scores"][..., None]], axis=-1)
    scores = tf.reduce_mean(outputs["keypoint_scores"], axis=-1)
    found = outputs["center_scores"] > 0
    if net is not None:
        scores = tf.where(found, scores * predict_oks(keypoints, net), 0.0)
    # What is no person stays behind them, as the scores of a rescoring net may be negative.
    order = tf.argsort(tf.where(found, -scores, np.inf), axis=1, stable=True)
    poses = {
        "keypoints": tf.gather(keypoints, order, axis=1, batch_dims=1),
        "scores": tf.gather(scores, order, axis=1, batch_dims=1),
        "num_poses": tf.math.count_nonzero(found, axis=1, dtype=tf.int32),
    }
    return {**poses, "error": outputs["error"]} if "error" in outputs else poses


def warmup_requests(name: str, sidecar: Sidecar) -> list[predict_pb2.PredictRequest]:
    """Requests of drawn people for every signature.

    Args:
        name: of the model.
        sidecar: its settings, with `artifact`.
    """
    generator = np.random.default_rng(0)
    scenes = [draw_scene(size, generator).image for size in WARMUP_SIZES]
    files = [_encode(suffix, scene) for suffix in (".jpg", ".png") for scene in scenes]
    side = min(sidecar.input_size, 512) // COARSEST_STRIDE * COARSEST_STRIDE or COARSEST_STRIDE
    height, width = sidecar.artifact.input_sizes[0] if sidecar.artifact.input_sizes else (side, side)
    image = cv2.resize(scenes[0], (width, height))[None]
    inputs = [
        ("serving_default", {"image_bytes": files}),
        ("tensors", {"image": image}),
        ("maps", {"image": image}),
    ]
    requests = []
    for signature, arrays in inputs:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        for key, values in arrays.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
        requests.append(request)
    return requests


def _encode(suffix, image):
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _check(folder, requests, expected, options, photos):
    """Runs the warm-up requests, and compares on photos of the network's size, as the resizing differs a little."""
    served = tf.saved_model.load(str(folder))
    for request in requests:
        signature = served.signatures[request.model_spec.signature_name]
        signature(**{key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()})
    infer = served.signatures["serving_default"]

    def find(image):
        outputs = infer(image_bytes=tf.constant([_encode(".png", image)]))
        count = int(outputs["num_poses"][0])
        return Poses(outputs["keypoints"][0, :count].numpy(), outputs["scores"][0, :count].numpy())

    unscaled = []
    for photo in photos:
        (pixels,), frame = expected.network_inputs(photo)
        unscaled.append(cv2.warpAffine(photo, frame.transform, pixels.shape[1::-1], flags=cv2.INTER_LINEAR))
    right = expected if options.nms else functools.partial(_candidates, expected)
    return compare([(right(image), find(image)) for image in unscaled])


def _candidates(detector, image):
    """What the network of a detector finds in an image of its input's size, without pose NMS."""
    keypoints, keypoint_scores, center_scores = detector.runtime(detector.network_inputs(image)[0][0][None])
    found = center_scores[0] > 0
    keypoints = np.concatenate([keypoints[0, found], keypoint_scores[0, found][..., None]], axis=-1)
    poses = Poses(keypoints, keypoint_scores[0, found].mean(axis=1))
    poses = discount_scores(poses, detector.decoder, detector.sidecar.schema.oks_sigmas)
    return detector.rescoring_net.rescore(poses) if detector.rescoring_net else poses


def _write_server_files(folder: Path) -> None:
    models, name = folder.parents[1], folder.parent.name
    path = models / "models.config"
    config = model_server_config_pb2.ModelServerConfig()
    if path.exists():
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (OSError, ValueError, text_format.ParseError) as error:
            raise InputError(f"{path}: expected a model server's configuration. {error}") from error
    if name not in [each.name for each in config.model_config_list.config]:
        entry = {"name": name, "base_path": f"/models/{name}", "model_platform": "tensorflow"}
        config.model_config_list.config.add(**entry)
        write_text(path, text_format.MessageToString(config))
    if not (models / "docker-compose.yaml").exists():
        flags = "".join(f"\n      - {flag}" for flag in _FLAGS)
        write_text(models / "docker-compose.yaml", _COMPOSE.format(image=_IMAGE, flags=flags))


#: The server must know the operations of the TensorFlow that made the graph.
_IMAGE = f"tensorflow/serving:{tf.__version__}"

_FLAGS = (
    "--model_config_file=/models/models.config",
    "--enable_batching=true",
    "--enable_per_model_batching_parameters=true",
)

# Small batches and a short wait: a request should not wait long for others. The first figure is that of the largest
# request, which is split. What finds the queue full is refused with UNAVAILABLE, upon which clients try again.
_BATCHING = f"""\
max_batch_size {{ value: {MAX_IMAGES} }}
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: 8 }}
batch_timeout_micros {{ value: 5000 }}
max_enqueued_batches {{ value: 64 }}
"""

_COMPOSE = """\
# docker compose up, in the folder of this file. gRPC is on 8500, REST on 8501, on this machine alone: who can reach
# them can use them; put what checks who calls, and encrypts, in front before opening them to others.
services:
  serving:
    image: {image}
    command:{flags}
    ports:
      - "127.0.0.1:8500:8500"
      - "127.0.0.1:8501:8501"
    volumes:
      - type: bind
        source: .
        target: /models
        read_only: true
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
"""
