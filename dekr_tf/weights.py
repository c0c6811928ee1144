"""Weights by name: those that come with the package, and public ones that `dekr weights get` brings to this machine.

A name stands for a file wherever a model, a backbone or a rescoring net is expected. Nothing is downloaded unasked.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import exists

#: The model that comes with the package, and that is used where none is named: weights for Keras, and a LiteRT model.
PRESET = "people_mobilenet"
PRESET_FOLDER = Path(__file__).parent / "presets"
#: The environment variable that moves the cache folder.
CACHE_VARIABLE = "DEKR_TF_CACHE"
OPENMMLAB = "https://download.openmmlab.com/mmpose"
#: What each kind of weights is kept as.
SUFFIXES = {"network": ".keras", "backbone": ".keras", "rescoring net": ".npz"}


@dataclass(frozen=True)
class Weights:
    """Weights that someone has published.

    Attributes:
        kind: what they are of.
        url: of the `.pth` file.
        sha256: the beginning of the file's SHA-256, the eight digits that its name holds.
        megabytes: about the size of the file, estimated by its number of values.
        source: who has published them.
        license: of the source.
        settings: values of `dekr_tf.config.Config` that differ from the defaults.
        accuracy: the AP that the source publishes; it has not been measured here.
        edges: of a rescoring net, whose order of the skeleton's edges it follows.
        with_rescoring: the file of a network holds a rescoring net too.
    """

    kind: Literal["network", "backbone", "rescoring net"]
    url: str
    sha256: str
    megabytes: float
    source: str
    license: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    accuracy: str = ""
    edges: str = "reference"
    with_rescoring: bool = False


def _network(file, sha256, megabytes, accuracy, **settings):
    url = f"{OPENMMLAB}/v1/body_2d_keypoint/dekr/{file}"
    return Weights("network", url, sha256, megabytes, "mmpose", "Apache-2.0", settings, accuracy, with_rescoring=True)


def _pretrained(kind, file, sha256, megabytes, source, **settings):
    url = f"{OPENMMLAB}/pretrain_models/{file}"
    return Weights(kind, url, sha256, megabytes, source, "MIT", settings, edges="mmpose")


# The settings of configs/crowdpose_*.yaml that inference needs.
_CROWDPOSE: dict[str, Any] = {"keypoints": "crowdpose", "decoder": {"multi_scale_damping": 0.8}}
#: From the pages and settings of mmpose (configs/body_2d_keypoint/dekr).
WEIGHTS = {
    "dekr_w32_coco": _network(
        "coco/dekr_hrnet-w32_8xb10-140e_coco-512x512_ac7c17bf-20221228.pth",
        "ac7c17bf",
        120,
        "68.6 on COCO val2017",
    ),
    "dekr_w48_coco": _network(
        "coco/dekr_hrnet-w48_8xb10-140e_coco-640x640_74796c32-20230124.pth",
        "74796c32",
        265,
        "71.4 on COCO val2017",
        input_size=640,
        model={"width": 48},
    ),
    "dekr_w32_crowdpose": _network(
        "crowdpose/dekr_hrnet-w32_8xb10-300e_crowdpose-512x512_147bae97-20221228.pth",
        "147bae97",
        120,
        "66.3 on CrowdPose test",
        **_CROWDPOSE,
    ),
    "dekr_w48_crowdpose": _network(
        "crowdpose/dekr_hrnet-w48_8xb5-300e_crowdpose-640x640_4ea6031e-20230128.pth",
        "4ea6031e",
        265,
        "67.9 on CrowdPose test",
        input_size=640,
        model={"width": 48},
        **_CROWDPOSE,
    ),
    "hrnet_w32_imagenet": _pretrained("backbone", "hrnet_w32-36af842e.pth", "36af842e", 165, "HRNet, by mmpose"),
    "hrnet_w48_imagenet": _pretrained(
        "backbone", "hrnet_w48-8ef0771d.pth", "8ef0771d", 310, "HRNet, by mmpose", model={"width": 48}
    ),
    "rescore_coco": _pretrained("rescoring net", "kpt_rescore_coco-33d58c5c.pth", "33d58c5c", 0.3, "DEKR, by mmpose"),
    "rescore_crowdpose": _pretrained(
        "rescoring net", "kpt_rescore_crowdpose-300c7efe.pth", "300c7efe", 0.3, "DEKR, by mmpose", keypoints="crowdpose"
    ),
}


def cache_folder(folder: str | Path | None = None) -> Path:
    """Where weights are kept: `folder`, else that of `DEKR_TF_CACHE`, else the platform's folder for caches."""
    chosen = folder or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("dekr_tf", appauthor=False)


def cached_file(name: str, kind: str, folder: Path) -> Path:
    """Where weights of `WEIGHTS` lie in a cache folder; a network's rescoring net lies beside it."""
    return folder / f"{name}{SUFFIXES[kind]}"


def resolve(
    source: str | Path, kind: Literal["network", "backbone", "rescoring net"], *, exported: bool = False
) -> str | Path:
    """The file that `source` stands for: of the weights of this name, where there is no file of this name.

    Args:
        source: a path, which comes back as it is, `PRESET` or a name of `WEIGHTS`.
        kind: what is expected.
        exported: whether a model that is not Keras' will do: then the preset's is the one for LiteRT.

    Raises:
        InputError: the name is of another kind of weights, or they are not on this machine yet.
    """
    name = str(source)
    if name == PRESET and kind == "network" and not exists(source):
        return PRESET_FOLDER / f"{PRESET}{'.tflite' if exported else '.weights.npz'}"
    if name not in WEIGHTS or exists(source):
        return source
    weights = WEIGHTS[name]
    if weights.kind != kind and not (kind == "rescoring net" and weights.with_rescoring):
        raise InputError(f"expected the weights of a {kind}. Received: {name}, a {weights.kind}")
    path = cached_file(name, kind, cache_folder())
    if not exists(path):
        raise InputError(f"{name} has not been downloaded to {path}; to get it, run: dekr weights get {name}")
    return path
