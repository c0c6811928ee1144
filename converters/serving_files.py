"""Files for a model server: its configuration, batching parameters, and a way to start it."""

import os
from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from converters.encoded_images import MAX_IMAGES
from dekr_tf.errors import InputError
from dekr_tf.files.outputs import write_text

#: The file with a model's batching parameters, which --enable_per_model_batching_parameters makes the server read.
BATCHING_FILE = "batching_params.pbtxt"
#: The server needs the operations of the TensorFlow that made the graph.
_IMAGE = f"tensorflow/serving:{tf.__version__}"

_FLAGS = (
    "--model_config_file=/models/models.config",
    "--enable_batching=true",
    "--enable_per_model_batching_parameters=true",
)

#: Small batches and a short wait: a request should not wait long for others. The first figure is that of the largest
#: request, which is split. A request that finds the queue full is refused with UNAVAILABLE, and clients retry.
BATCHING = f"""\
max_batch_size {{ value: {MAX_IMAGES} }}
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: 8 }}
batch_timeout_micros {{ value: 5000 }}
max_enqueued_batches {{ value: 64 }}
"""

_COMPOSE = """\
# docker compose up, in the folder of this file. gRPC is on 8500, REST on 8501, on this machine alone: anybody who can
# reach them can use them. Put authentication and encryption in front before opening them to others.
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


def docker_command(models: str | Path) -> str:
    """The command that serves a folder of models to this machine only."""
    source = f"type=bind,source={os.path.abspath(models)},target=/models,readonly"
    published = " ".join(f"-p 127.0.0.1:{port}:{port}" for port in (8500, 8501))
    return f"docker run --rm {published} --mount '{source}' {_IMAGE} {' '.join(_FLAGS)}"


def write_server_files(folder: Path) -> None:
    """Adds a model to `models.config`, and writes `docker-compose.yaml` unless there is one.

    Args:
        folder: `MODELS/NAME/VERSION` of the model.

    Raises:
        InputError: `models.config` is not a model server's configuration.
    """
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
