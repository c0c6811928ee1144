"""Model folders for TensorFlow Serving: image files in, final poses out."""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from converters.export import keras_detector
from converters.graphs import check_export
from converters.serving_files import BATCHING, BATCHING_FILE, write_server_files
from converters.serving_graph import ServingOptions, serving_signatures
from converters.to_saved_model import save_signatures
from converters.verify import Comparison, check_agreement, compare
from dekr_tf.data.records import write_errors
from dekr_tf.data.synthetic import draw_scene
from dekr_tf.errors import InputError
from dekr_tf.files.images import MAX_PIXELS
from dekr_tf.files.outputs import atomic_outputs
from dekr_tf.geometry import COARSEST_STRIDE
from dekr_tf.inference.decoder import discount_scores
from dekr_tf.inference.rescoring import open_rescoring_net
from dekr_tf.poses import Poses
from dekr_tf.sidecar import Artifact, Sidecar, write_sidecar

#: The file in a version's folder with requests that the server runs before it takes others.
WARMUP = "assets.extra/tf_serving_warmup_requests"
#: (height, width) of the images in the warm-up requests.
WARMUP_SIZES = (240, 320), (320, 240)


def export_serving(
    model: keras.Model,
    sidecar: Sidecar,
    folder: str | Path,
    artifact: Artifact,
    options: ServingOptions,
    photos: Sequence[np.ndarray],
) -> Comparison:
    """Writes a version of a model for TensorFlow Serving, opens it, and compares it with the Keras model.

    Beside the model's folder it adds the model to `models.config`, and writes `docker-compose.yaml` unless there is
    one. The version gets a `batching_params.pbtxt` only if batching helps and does no harm: the input has one size, and
    a bad image fails no other request.

    Args:
        model: of `build_dekr`.
        sidecar: its settings.
        folder: `MODELS/NAME/VERSION` to write.
        artifact: one or no input size, and whether with flip test; everything else must be the default.
        options: of the graph.
        photos: (H, W, 3) uint8 RGB, to compare on.

    Returns:
        The comparison with the Keras model.

    Raises:
        InputError: the model cannot be exported like this, or the differences are beyond `TOLERANCES`; then nothing is
            written.
    """
    folder = Path(os.path.abspath(folder))
    name = folder.parent.name
    if not re.fullmatch(r"[1-9][0-9]{0,17}", folder.name) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise InputError(f"expected a folder MODELS/NAME/VERSION, such as models/dekr/1. Received: {folder}")
    if artifact != Artifact(graph="poses", input_sizes=artifact.input_sizes, flip=artifact.flip):
        raise InputError("a served model is always the graph poses in float32, with normalized input")
    if len(artifact.input_sizes) > 1:
        raise InputError(f"serving: expected one input size, or none for any. Received: {len(artifact.input_sizes)}")
    if not 1 <= options.max_pixels <= MAX_PIXELS:
        raise InputError(f"serving: expected 1 to {MAX_PIXELS} as the most pixels. Received: {options.max_pixels}")
    check_export(model, artifact, calibrated=False)
    if options.rescore is not None:
        net = open_rescoring_net(options.rescore, sidecar.schema)
        options = ServingOptions(options.nms, net, options.skip_bad_images, options.max_pixels)
    exported = sidecar.model_copy(update={"artifact": artifact})
    expected = keras_detector(model, exported, rescore=options.rescore)
    with atomic_outputs(folder, folder=True) as temporary:
        save_signatures(*serving_signatures(model, exported, options), temporary)
        requests = warmup_requests(name, exported)
        (temporary / WARMUP).parent.mkdir()
        with write_errors(temporary), tf.io.TFRecordWriter(str(temporary / WARMUP)) as writer:
            for request in requests:
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())
        if artifact.input_sizes and options.skip_bad_images:
            (temporary / BATCHING_FILE).write_text(BATCHING, encoding="utf-8")
        write_sidecar(exported, temporary)
        comparison = _check(temporary, requests, expected, options, photos)
        check_agreement(comparison, "float32", folder)
    write_server_files(folder)
    return comparison


def warmup_requests(name: str, sidecar: Sidecar) -> list[predict_pb2.PredictRequest]:
    """Requests with synthetic people for every signature.

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
    """Runs the warm-up requests, and compares on photos of the network's size, since resizing differs a little."""
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
        (pixels,), placement = expected.preprocessor(photo)
        unscaled.append(cv2.warpAffine(photo, placement.transform, pixels.shape[1::-1], flags=cv2.INTER_LINEAR))
    right = expected if options.nms else functools.partial(_candidates, expected)
    return compare([(right(image), find(image)) for image in unscaled])


def _candidates(detector, image):
    """The candidates that a detector's network finds in an image of its input's size, as poses without pose NMS."""
    keypoints, keypoint_scores, center_scores = detector.engine.run(detector.preprocessor(image)[0][0][None])
    found = center_scores[0] > 0
    keypoints, scores = keypoints[0, found], keypoint_scores[0, found]
    scores = discount_scores(keypoints, scores, detector.decoder, detector.sidecar.schema.oks_sigmas)
    poses = Poses(np.concatenate([keypoints, scores[..., None]], axis=-1), scores.mean(axis=1))
    return detector.rescoring_net.rescore(poses) if detector.rescoring_net else poses
