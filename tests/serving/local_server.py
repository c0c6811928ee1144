"""A small server in this process that speaks TensorFlow Serving's protocols over a SavedModel.

TensorFlow Serving itself is a binary that no package registry has. This one takes its official messages
(`tensorflow.serving.PredictionService`) and REST paths, runs the graph in a session as it does, and answers with its
status codes; it neither batches nor watches the folder.
"""

import base64
import contextlib
import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

HTTP_STATUS = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}


class Refusal(Exception):
    def __init__(self, code, reason):
        super().__init__(reason)
        self.code = code


class LocalServer:
    """Serves one version of a model on two free ports of this machine.

    Args:
        folder: MODELS/NAME/VERSION.
        threads: that answer gRPC.

    Attributes:
        unavailable: so many of the next requests are refused with UNAVAILABLE.
        delay: seconds that each request waits.
        requests: how many came.
    """

    def __init__(self, folder, threads=8):
        folder = Path(folder)
        self.name, self.version = folder.parent.name, int(folder.name)
        self.unavailable, self.delay, self.requests = 0, 0.0, 0
        self._signatures = _signatures(folder)
        self._lock = threading.Lock()
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._grpc = grpc.server(futures.ThreadPoolExecutor(threads), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_service(self), self._grpc)
        self.grpc_url = f"grpc://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http_url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        self._grpc.start()
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def predict(self, name, version, signature, inputs):
        """Runs a signature on arrays by name; what is wrong raises `Refusal`."""
        with self._lock:
            self.requests += 1
            if self.unavailable:
                self.unavailable -= 1
                raise Refusal("UNAVAILABLE", "the queue is full")
        time.sleep(self.delay)
        if name != self.name or version not in (None, self.version):
            raise Refusal("NOT_FOUND", f"Servable not found for request: {name}, {version}")
        if signature and signature not in self._signatures:
            raise Refusal("FAILED_PRECONDITION", f"Serving signature name: {signature!r} not found in signature def")
        types, outputs, run = self._signatures[signature or "serving_default"]
        if set(inputs) != set(types):
            raise Refusal("INVALID_ARGUMENT", f"input tensor alias not found: {sorted(inputs)}")
        try:
            return dict(zip(outputs, run(*(_array(inputs[key], types[key]) for key in types)), strict=True))
        except tf.errors.OpError as error:
            code = next(each.name for each in grpc.StatusCode if each.value[0] == error.error_code)
            raise Refusal(code, error.message) from error


def _signatures(folder):
    """By name: types of the inputs by their names, names of the outputs, and a function from arrays to arrays."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        definitions = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def
    signatures = {}
    for name, definition in definitions.items():
        if definition.method_name == "tensorflow/serving/predict":
            feed, fetch = ([each.name for each in part.values()] for part in (definition.inputs, definition.outputs))
            # Unlike `Session.run`, and like the server, it does not look at the shapes of what it feeds.
            run = session._make_callable_from_options(config_pb2.CallableOptions(feed=feed, fetch=fetch))
            types = {key: tf.as_dtype(value.dtype) for key, value in definition.inputs.items()}
            signatures[name] = types, list(definition.outputs), run
    return signatures


def _service(server):
    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec = request.model_spec
            version = spec.version.value if spec.HasField("version") else None
            try:
                inputs = {name: _parse(value) for name, value in request.inputs.items()}
                outputs = server.predict(spec.name, version, spec.signature_name, inputs)
            except Refusal as error:
                context.abort(grpc.StatusCode[error.code], str(error))
            answer = predict_pb2.PredictResponse()
            for name, values in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(values))
            return answer

    return Service()


def _parse(tensor):
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise Refusal("INVALID_ARGUMENT", f"tensor parsing error: {error}") from error


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, answer = 200, self._predict(json.loads(body))
            except (ValueError, KeyError) as error:
                status, answer = 400, {"error": str(error)}
            except Refusal as error:
                status, answer = HTTP_STATUS.get(error.code, 500), {"error": str(error)}
            content = json.dumps(answer).encode()
            # The client may have stopped waiting.
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def _predict(self, request):
            path, _, verb = self.path.partition(":")
            parts = path.strip("/").split("/")
            if verb != "predict" or parts[:2] != ["v1", "models"] or parts[3:4] not in ([], ["versions"]):
                raise Refusal("NOT_FOUND", f"Malformed request: POST {self.path}")
            version = int(parts[4]) if len(parts) == 5 else None
            inputs = request["inputs"] if "inputs" in request else _columns(request["instances"])
            if not isinstance(inputs, dict) or "b64" in inputs:
                inputs = {"image_bytes": inputs}
            outputs = server.predict(parts[2], version, request.get("signature_name"), inputs)
            if "inputs" in request:
                return {"outputs": {name: _plain(value) for name, value in outputs.items()}}
            columns = {name: _plain(value) for name, value in outputs.items()}
            rows = zip(*columns.values(), strict=True)
            return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}

    return Handler


def _columns(instances):
    """The row format as columns; instances of a model with one input need not name it."""
    if all(isinstance(each, dict) and "b64" not in each for each in instances):
        return {name: [each[name] for each in instances] for name in instances[0]}
    return instances


def _array(value, dtype):
    """What a graph is fed: an array from gRPC as it is, what JSON holds in the type of the input."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if dtype == tf.string:
            return np.array(_decoded(value), object)
        return np.array(value, dtype.as_numpy_dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal("INVALID_ARGUMENT", f"JSON value is not of expected type: {dtype.name}. {error}") from error


def _decoded(value):
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"expected strings. Received: {value}")


def encode(image, suffix=".png"):
    """An image (H, W, 3) uint8 RGB as a file."""
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _plain(values):
    return [each.decode() for each in values] if values.dtype == object else values.tolist()
