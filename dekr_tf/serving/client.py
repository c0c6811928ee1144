"""Finds people in photos with TensorFlow Serving, over gRPC or REST.

REST needs the package urllib3, gRPC the packages grpcio and protobuf; neither needs TensorFlow.
"""

import base64
import json
import math
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import cv2
import numpy as np

from dekr_tf.errors import InputError, ServingError
from dekr_tf.files.image_size import JPEG_START, PNG_START
from dekr_tf.files.images import decode_image
from dekr_tf.files.json_values import parse_numbers
from dekr_tf.poses import Poses

#: Most bytes of an answer that are read.
MAX_ANSWER = 2**24
#: Most seconds before the first retry; they double from retry to retry, up to the second figure.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0

SIGNATURE = "serving_default"
OUTPUTS = "keypoints", "scores", "num_poses"
#: How files begin that the served graph decodes itself.
_SENT_AS_THEY_ARE = (JPEG_START + b"\xff", PNG_START)
#: gRPC's status codes for those of HTTP, which REST answers with.
_HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    # A proxy's answer while the server behind it is down.
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
#: By TensorFlow's type number: NumPy's type, and the `TensorProto` field that holds the values.
_TENSOR_TYPES = {
    1: (np.float32, "float_val"),
    2: (np.float64, "double_val"),
    3: (np.int32, "int_val"),
    7: (object, "string_val"),
    9: (np.int64, "int64_val"),
}
_STRING = 7
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?:\s|$)")


class Client:
    """Finds people in photos with a model that `dekr export --serving` wrote. Several threads may use one client.

    Args:
        url: `grpc://HOST:PORT` or `grpcs://HOST:PORT`, or `http://HOST:PORT` or `https://HOST:PORT` for REST.
        name: of the model on the server.
        version: of the model; by default the newest that is served.
        timeout: seconds for one call including its retries, > 0.
        retries: how often to retry while the server is unavailable, >= 0.

    Raises:
        InputError: the URL or a number is invalid.
    """

    def __init__(self, url: str, *, name: str = "dekr", version: int | None = None, timeout=60.0, retries: int = 5):
        if not (np.isfinite(timeout) and timeout > 0 and retries >= 0):
            raise InputError(f"expected a positive timeout and no negative retries. Received: {timeout}, {retries}")
        try:
            parts = urlsplit(url)
            address = parts.hostname, parts.port
        except ValueError:
            parts, address = urlsplit(""), (None, None)
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
        if parts.scheme not in ("grpc", "grpcs", "http", "https") or None in address or not plain:
            raise InputError(f"expected grpc://HOST:PORT or http://HOST:PORT, or grpcs or https. Received: {url}")
        if not name or (version is not None and version < 0):
            raise InputError(f"expected a model's name and version. Received: {name!r}, {version}")
        connect = _Grpc if parts.scheme.startswith("grpc") else _Rest
        self._transport = connect(parts.scheme, parts.netloc, name, version)
        self._timeout = timeout
        self._retries = retries

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def detect(self, image: bytes | np.ndarray | str | os.PathLike) -> Poses:
        """Finds the people in one photo.

        Args:
            image: a JPEG or PNG file's content; the path of an image file; or (H, W, 3) uint8 RGB.

        Returns:
            Poses in pixels of the photo, turned upright by its EXIF orientation.

        Raises:
            ServingError: the server refused the photo, cannot be reached, took too long, or sent no usable poses.
            InputError: the file or array is not an image.
        """
        found = self.detect_batch([image])[0]
        if isinstance(found, ServingError):
            raise found
        return found

    def detect_batch(self, images: Sequence[bytes | np.ndarray | str | os.PathLike]) -> list[Poses | ServingError]:
        """Finds the people in several photos with one request.

        Args:
            images: each as for a single photo; a server takes 32 at most.

        Returns:
            For each photo its poses or, if a model exported with `--skip-bad-images` refused it, the error.

        Raises:
            ServingError, InputError: as for a single photo. A model exported without that option refuses all photos
                for a bad one.
        """
        contents = [_content(image) for image in images]
        if not contents:
            return []
        end = time.monotonic() + self._timeout
        pause = FIRST_PAUSE
        for attempt in range(self._retries + 1):
            try:
                outputs = self._transport.predict(contents, end)
                break
            except ServingError as error:
                # Random, so that clients that lost the same server do not retry all at once.
                wait = pause * random.uniform(0.5, 1.0)
                pause = min(2 * pause, LONGEST_PAUSE)
                if error.code != "UNAVAILABLE" or attempt == self._retries or time.monotonic() + wait >= end:
                    raise
                time.sleep(wait)
        return read_outputs(outputs, len(contents))


def read_outputs(outputs: Mapping[str, np.ndarray], count: int) -> list[Poses | ServingError]:
    """The poses in a server's answer.

    Args:
        outputs: arrays by name: `keypoints` (count, N, K, 3), `scores` (count, N), `num_poses` (count,); and perhaps
            `error` (count,) strings.
        count: number of images.

    Returns:
        For each image its poses, or the error that the server reports.

    Raises:
        ServingError: arrays are missing or have other shapes, types or values.
    """
    missing = [name for name in OUTPUTS if name not in outputs]
    if missing:
        raise _unusable(f"expected the outputs {', '.join(OUTPUTS)}. Received: {', '.join(map(str, outputs))[:200]}")
    keypoints, scores, numbers = (outputs[name] for name in OUTPUTS)
    errors = outputs.get("error", np.full(count, ""))
    shapes = keypoints.shape, scores.shape, numbers.shape, errors.shape
    people, points = keypoints.shape[1:3] if keypoints.ndim == 4 else (0, 0)
    if (
        shapes != ((count, people, points, 3), (count, people), (count,), (count,))
        or any(values.dtype.kind not in "if" for values in (keypoints, scores))
        or numbers.dtype.kind != "i"
        or errors.dtype.kind not in "OSU"
    ):
        raise _unusable(f"expected poses of {count} images. Received: arrays of {shapes}")
    if not ((numbers >= 0) & (numbers <= people)).all():
        raise _unusable(f"expected 0 to {people} poses. Received: {numbers.tolist()[:40]}")
    found = []
    for index, number in enumerate(numbers):
        reason = errors[index]
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        if reason:
            found.append(ServingError("INVALID_ARGUMENT", reason))
            continue
        with np.errstate(over="ignore"):
            poses = Poses(keypoints[index, :number], scores[index, :number])
        if not (np.isfinite(poses.keypoints).all() and np.isfinite(poses.scores).all()):
            raise _unusable("expected finite numbers. Received: NaN or infinite ones")
        found.append(poses)
    return found


class _Grpc:
    """The official protocol, `tensorflow.serving.PredictionService`."""

    def __init__(self, scheme, address, name, version):
        import grpc

        from dekr_tf.serving.messages import METHOD, PredictRequest, PredictResponse

        self._grpc = grpc
        self._request = PredictRequest()
        self._request.model_spec.name = name
        self._request.model_spec.signature_name = SIGNATURE
        if version is not None:
            self._request.model_spec.version.value = version
        options = [
            ("grpc.max_receive_message_length", MAX_ANSWER),
            # This module retries by itself.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", int(1000 * FIRST_PAUSE)),
            ("grpc.max_reconnect_backoff_ms", int(1000 * LONGEST_PAUSE)),
        ]
        if scheme == "grpcs":
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._predict = self._channel.unary_unary(
            METHOD,
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )

    def predict(self, contents, end):
        request = type(self._request)()
        request.CopyFrom(self._request)
        tensor = request.inputs["image_bytes"]
        tensor.dtype = _STRING
        tensor.tensor_shape.dim.add(size=len(contents))
        tensor.string_val.extend(contents)
        try:
            answer = self._predict(request, timeout=max(0.001, end - time.monotonic()))
        except self._grpc.RpcError as error:
            raise ServingError(error.code().name, _reason(error.details() or "")) from error
        return {name: read_tensor(value) for name, value in answer.outputs.items()}

    def close(self):
        self._channel.close()


class _Rest:
    """The official REST paths, `/v1/models/NAME[/versions/VERSION]:predict`."""

    def __init__(self, scheme, address, name, version):
        import urllib3

        self._urllib3 = urllib3
        at = "" if version is None else f"/versions/{version}"
        self._url = f"{scheme}://{address}/v1/models/{quote(name, safe='')}{at}:predict"
        self._pool = urllib3.PoolManager(maxsize=64)

    def predict(self, contents, end):
        urllib3 = self._urllib3
        instances = [{"b64": base64.b64encode(content).decode()} for content in contents]
        body = json.dumps({"signature_name": SIGNATURE, "instances": instances})
        try:
            response = self._pool.request(
                "POST",
                self._url,
                body=body,
                headers={"Content-Type": "application/json"},
                timeout=urllib3.Timeout(total=max(0.001, end - time.monotonic())),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = self._read(response, end)
            except BaseException:
                # The rest of this answer must not pass for the answer to the next request.
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.TimeoutError as error:
            # No server listens there, or it took too long.
            code = "UNAVAILABLE" if isinstance(error, urllib3.exceptions.NewConnectionError) else "DEADLINE_EXCEEDED"
            raise ServingError(code, str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise ServingError("UNAVAILABLE", str(error)) from error
        return read_answer(response.status, content, len(contents))

    def _read(self, response, end):
        content = b""
        # Reads what has arrived, not whole blocks, which a slow server could take forever to fill.
        while chunk := response.read1(2**16):
            content += chunk
            if len(content) > MAX_ANSWER:
                raise _unusable(f"it has more than {MAX_ANSWER} bytes")
            if time.monotonic() > end:
                raise ServingError("DEADLINE_EXCEEDED", "the answer did not end in time")
        return content

    def close(self):
        self._pool.clear()


def read_tensor(tensor: Any) -> np.ndarray:
    """The array in a `TensorProto`.

    Raises:
        ServingError: it is not an array of numbers or strings, or is too large.
    """
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    # In a few bytes, a message may claim an array of any size.
    if tensor.dtype not in _TENSOR_TYPES or min(shape, default=0) < 0 or 8 * math.prod(shape) > MAX_ANSWER:
        raise _unusable(f"expected arrays of numbers. Received: type {tensor.dtype}, shape {shape}")
    dtype, field = _TENSOR_TYPES[tensor.dtype]
    try:
        if tensor.tensor_content and tensor.dtype != _STRING:
            return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
        values = list(getattr(tensor, field))
        # Values left out at the end repeat the last one given, or are zero.
        last = values[-1:] or [b"" if tensor.dtype == _STRING else 0]
        return np.array(values + last * (math.prod(shape) - len(values)), dtype).reshape(shape)
    except ValueError as error:
        raise _unusable(f"expected arrays of numbers. Received: {error}") from error


def read_answer(status: int, content: bytes, count: int) -> dict[str, np.ndarray]:
    """The arrays in a REST answer, by name.

    Args:
        status: HTTP status code.
        content: of the answer.
        count: number of images.

    Raises:
        ServingError: the server reports an error, or the answer is something else.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if status != 200:
        reason = answer.get("error") if isinstance(answer, dict) else None
        code = _HTTP_CODES.get(status, "UNKNOWN")
        raise ServingError(code, _reason(reason) if isinstance(reason, str) else f"HTTP status {status}")
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if (
        not isinstance(predictions, list)
        or len(predictions) != count
        or not all(isinstance(each, dict) and each.keys() == predictions[0].keys() for each in predictions)
    ):
        raise _unusable(f"expected predictions of {count} images as JSON. Received: {content[:100]!r}")
    answers = {name: [each[name] for each in predictions] for name in (predictions or [{}])[0]}
    try:
        arrays = {name: np.array(values) for name, values in answers.items()}
    except (ValueError, OverflowError, RecursionError) as error:
        raise _unusable(f"expected arrays of numbers. Received: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind in "iuf" and parse_numbers(answers[name], array.ndim) is None:
            raise _unusable(f"{name} holds values that are not finite numbers")
    return arrays


def _content(image) -> bytes:
    """The bytes to send for an image: a JPEG or PNG file unchanged, anything else as PNG."""
    if isinstance(image, str | os.PathLike):
        path = image
        try:
            image = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read image {path}: {error.strerror}") from error
        if not image.startswith(_SENT_AS_THEY_ARE):
            image = decode_image(image, str(path), exif_orientation=True)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise InputError(f"expected an image (H, W, 3) of uint8 RGB. Received: {image.shape} of {image.dtype}")
        return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return bytes(image)


def _reason(text: str) -> str:
    """The message of the served graph's own assertion, or the whole text if there is none."""
    assertion = _ASSERTION.search(text)
    return assertion[1] if assertion else text


def _unusable(reason: str) -> ServingError:
    return ServingError("INTERNAL", f"answer of the server: {reason}")
