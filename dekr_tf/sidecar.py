"""The JSON file beside a model that says all that inference must know of it."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from dekr_tf.config import Config, DecoderConfig, ModelConfig, PositiveInt, Settings, parse_settings
from dekr_tf.errors import InputError
from dekr_tf.files import atomic_output, read_json
from dekr_tf.keypoints import KeypointSchema

VERSION = 1


class Sidecar(Settings):
    """Settings that travel with a model; written as `<model file>.json`."""

    version: Literal[1] = VERSION
    keypoints: dict[str, Any]
    #: Short side in pixels that the model was trained for.
    input_size: PositiveInt
    model: ModelConfig
    decoder: DecoderConfig
    #: Input pixels per map cell.
    output_stride: Literal[4] = 4
    #: RGB in 0..1 is normalised to (value - mean) / std.
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _keypoints_are_a_skeleton(self):
        # Used once here, so that a broken skeleton is found with the other faults of the file.
        _ = self.schema
        return self

    @cached_property
    def schema(self) -> KeypointSchema:
        """The skeleton."""
        return KeypointSchema.from_dict(self.keypoints)

    @classmethod
    def from_config(cls, config: Config) -> "Sidecar":
        """The part of an experiment's settings that inference needs."""
        return cls(
            keypoints=config.schema.to_dict(),
            input_size=config.input_size,
            model=config.model,
            decoder=config.decoder,
        )


def sidecar_path(model: str | Path) -> Path:
    """Where the sidecar of a model file lies."""
    return Path(f"{model}.json")


def write_sidecar(sidecar: Sidecar, model: str | Path) -> None:
    """Writes the sidecar of a model file."""
    with atomic_output(sidecar_path(model)) as temporary:
        temporary.write_text(sidecar.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_sidecar(model: str | Path) -> Sidecar:
    """Reads the sidecar of a model file.

    Raises:
        InputError: it is missing, broken, or of a newer version than this one.
    """
    path = sidecar_path(model)
    if not path.exists():
        raise InputError(f"{model} has no sidecar; expected its settings in {path}")
    values = read_json(path, "sidecar")
    if not isinstance(values, dict) or values.get("version") != VERSION:
        received = values.get("version") if isinstance(values, dict) else type(values).__name__
        raise InputError(f"sidecar {path}: expected version {VERSION}. Received: {received}")
    return parse_settings(Sidecar, values, f"sidecar {path}")
