"""Serves a folder of `dekr export --serving` with KServe instead of TensorFlow Serving.

Copy this file into a container. It needs nothing of ours:

  pip install 'kserve==0.21.*' tensorflow
  python kserve_server.py models/dekr/1 --model_name dekr --http_port 8080

Then `dekr serve-client photos/ --url http://localhost:8080 --name dekr` finds the people in photos.
"""

import argparse
import asyncio
import base64
import re

import kserve
import orjson
import tensorflow as tf
from kserve.errors import InvalidInput

SIGNATURE = "serving_default"


class Dekr(kserve.Model):
    """Finds people in image files, and answers as TensorFlow Serving's REST API does.

    Args:
        name: under which clients ask for the model.
        folder: a version of it, MODELS/NAME/VERSION.

    Raises:
        ValueError: the folder holds something else.
    """

    def __init__(self, name, folder):
        super().__init__(name)
        self.folder = folder
        self.load()

    def load(self):
        """Opens the folder; KServe sends no requests before."""
        try:
            self.model = tf.saved_model.load(self.folder)
            inputs = self.model.signatures[SIGNATURE].structured_input_signature[1]
        except (OSError, KeyError, tf.errors.OpError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"expected a folder of dekr export --serving. Received: {self.folder}, {reason}"
            ) from error
        if list(inputs) != ["image_bytes"]:
            raise ValueError(f"expected a model that takes image_bytes. Received: {self.folder}, with {list(inputs)}")
        self.ready = True
        return self.ready

    async def predict(self, payload, headers=None):
        """Answers one request, {"instances": [{"b64": FILE}, ...]}, with {"predictions": [POSES, ...]}."""
        files = image_files(payload)
        # In a thread, so that the server goes on answering whether it lives.
        return {"predictions": await asyncio.to_thread(self._find, files)}

    def _find(self, files):
        try:
            outputs = self.model.signatures[SIGNATURE](image_bytes=tf.constant(files, tf.string))
        except tf.errors.InvalidArgumentError as error:
            # The graph's own words, from among those of TensorFlow.
            assertion = re.search(r"assertion failed: \[(.*)\]", error.message)
            raise InvalidInput(assertion[1] if assertion else error.message) from None
        columns = {name: plain(value.numpy()) for name, value in outputs.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def image_files(payload):
    """The content of each image file in a request.

    Raises:
        InvalidInput: KServe answers with status 400 and the reason.
    """
    # KServe parses only what says that it is JSON; curl does not say so by itself.
    if isinstance(payload, bytes):
        try:
            payload = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"expected JSON. Received: {error}") from None
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        raise InvalidInput('expected {"instances": [{"b64": FILE}, ...]}')
    if payload.get("signature_name", SIGNATURE) != SIGNATURE:
        raise InvalidInput(f"expected the signature {SIGNATURE}. Received: {payload['signature_name']}")
    files = []
    for index, instance in enumerate(payload["instances"]):
        try:
            files.append(base64.b64decode(instance.get("image_bytes", instance)["b64"], validate=True))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InvalidInput(f'instance {index}: expected {{"b64": FILE}}, the file in Base64') from None
    return files


def plain(values):
    """What JSON can hold of an array."""
    return [each.decode() for each in values] if values.dtype == object else values.tolist()


def main():
    """Reads the command line and serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Serve a model of `dekr export --serving` with KServe.")
    parser.add_argument("folder", help="a version of the model, MODELS/NAME/VERSION")
    parser.add_argument("--model_name", default="dekr", help="name that clients ask for (default: %(default)s)")
    parser.add_argument("--http_port", type=int, default=8080, help="port, on all interfaces (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        model = Dekr(arguments.model_name, arguments.folder)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    # KServe's gRPC speaks another protocol than TensorFlow Serving's; its worker processes cannot share a loaded model.
    kserve.ModelServer(http_port=arguments.http_port, enable_grpc=False, workers=1).start([model])


if __name__ == "__main__":
    main()
