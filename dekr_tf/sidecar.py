"""The JSON file that travels with a model and holds every setting that inference needs."""

import json
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from dekr_tf.config import Config, DecoderConfig, ModelConfig, PositiveInt, Settings, parse_settings
from dekr_tf.errors import InputError
from dekr_tf.files.inputs import exists, is_folder, read_json
from dekr_tf.files.outputs import write_text
from dekr_tf.geometry import OUTPUT_STRIDE
from dekr_tf.keypoints import KeypointSchema

VERSION = 1

#: Name of the sidecar inside a folder, and inside a file that carries it.
MEMBER = "sidecar.json"
#: The file in a `.keras` archive that holds the model's config, and in it our sidecar.
KERAS_CONFIG = "config.json"


#: What the public weights of a backbone were trained on: RGB in 0..1 is normalized to (value - mean) / std.
NORMALIZATION = {
    "hrnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3),
    "mobilenet_v2": ((0.5,) * 3, (0.5,) * 3),
}


class Artifact(Settings):
    """Inputs and outputs of a model exported for another engine than Keras."""

    #: `poses`: from image to candidate poses; `maps`: to the heatmap and the features that enter the offset head.
    graph: Literal["poses", "maps"]
    precision: Literal["float32", "float16", "dynamic_int8", "int8"] = "float32"
    #: (height, width) of the inputs that it takes, multiples of 32; empty: any.
    input_sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    #: `float32`: normalized RGB; `uint8`: RGB in 0..255, which the graph normalizes.
    input_type: Literal["float32", "uint8"] = "float32"
    #: The flip test is part of the graph.
    flip: bool = False
    #: Pose NMS, pose scores and, if one was exported with it, the rescoring net are part of the graph `poses`, which
    #: then outputs people instead of candidates.
    final: bool = False


class Sidecar(Settings):
    """Settings that travel with a model."""

    version: Literal[1] = VERSION
    keypoints: dict[str, Any]
    #: Short side in pixels that the model was trained for.
    input_size: PositiveInt
    model: ModelConfig
    decoder: DecoderConfig
    #: Input pixels per map cell.
    output_stride: Literal[4] = OUTPUT_STRIDE
    #: RGB in 0..1 is normalized to (value - mean) / std.
    mean: tuple[float, float, float] = NORMALIZATION["hrnet"][0]
    std: tuple[float, float, float] = NORMALIZATION["hrnet"][1]
    #: None for a Keras model.
    artifact: Artifact | None = None

    @model_validator(mode="after")
    def _keypoints_are_a_skeleton(self):
        # Built once here, so that a broken skeleton is reported with the other faults of the file.
        _ = self.schema
        return self

    @cached_property
    def schema(self) -> KeypointSchema:
        """The skeleton."""
        return KeypointSchema.from_dict(self.keypoints)

    @classmethod
    def from_config(cls, config: Config) -> "Sidecar":
        """The part of an experiment's settings that inference needs."""
        mean, std = NORMALIZATION[config.model.backbone]
        return cls(
            keypoints=config.schema.to_dict(),
            input_size=config.input_size,
            model=config.model,
            decoder=config.decoder,
            mean=mean,
            std=std,
        )


def sidecar_path(model: str | Path) -> Path:
    """The path of a model's sidecar: beside a file, inside a folder."""
    return Path(model) / MEMBER if is_folder(model) else Path(f"{model}.json")


def to_json(sidecar: Sidecar) -> str:
    """The text of a sidecar's file."""
    return sidecar.model_dump_json(indent=2, exclude_none=True) + "\n"


def write_sidecar(sidecar: Sidecar, model: str | Path) -> None:
    """Writes the sidecar of a model."""
    write_text(sidecar_path(model), to_json(sidecar))


def read_sidecar(model: str | Path) -> Sidecar:
    """Reads the sidecar of a model: the file beside it, or else the copy inside it.

    Raises:
        InputError: it is missing, broken, or of another version than `VERSION`.
    """
    path = sidecar_path(model)
    if exists(path):
        values = read_json(path, "sidecar")
    else:
        values = embedded_settings(model)
        if values is None:
            raise InputError(f"{model} has no sidecar; expected its settings in {path}")
    if not isinstance(values, dict) or values.get("version") != VERSION:
        received = values.get("version") if isinstance(values, dict) else type(values).__name__
        raise InputError(f"sidecar {path}: expected version {VERSION}. Received: {received}")
    return parse_settings(Sidecar, values, f"sidecar {path}")


def embedded_settings(model: str | Path) -> Any:
    """The content of the sidecar that a file carries, unchecked; None if it carries none."""
    try:
        with zipfile.ZipFile(model) as archive:
            if KERAS_CONFIG in archive.namelist():
                return json.loads(archive.read(KERAS_CONFIG))["config"]["sidecar"]
            return json.loads(archive.read(MEMBER))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return None
