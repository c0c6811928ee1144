"""Rescoring: a small net predicts the OKS of a pose (paper section 3.3), in NumPy, so that a device can run it.

The net and the poses that it learns from are stored in `.npz` files, each with its skeleton.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dekr_tf.errors import InputError
from dekr_tf.files.outputs import atomic_output
from dekr_tf.keypoints import KeypointSchema
from dekr_tf.poses import Poses
from dekr_tf.weights import resolve

VERSION = 1
#: Least size of a person in pixels, so that features exist even if all keypoints are in one place.
MIN_SIZE = 1.0
LAYERS = ("l1", "l2", "l3")
ARRAYS = tuple(f"{layer}_{part}" for layer in LAYERS for part in ("kernel", "bias"))


def count_features(schema: KeypointSchema) -> int:
    """The number of inputs of a rescoring net: x, y and length of each skeleton edge, and the score of each keypoint.

    Raises:
        InputError: the skeleton has no edges, or no normalization edges to scale them by.
    """
    if not schema.edges or not schema.normalization_edges:
        raise InputError(f"rescoring needs edges and normalization_edges. Received: skeleton {schema.name} without")
    return 3 * len(schema.edges) + len(schema)


def rescoring_features(keypoints: np.ndarray, schema: KeypointSchema) -> np.ndarray:
    """The input features of a rescoring net.

    As in the reference (lib/utils/rescore.py), coordinates are divided by the person's size: the mean length of the
    normalization edges, at least one pixel.

    Args:
        keypoints: (N, K, 3) x, y in pixels of the image, keypoint score.
        schema: the skeleton, whose edges are taken in their order.

    Returns:
        (N, F) float32, F of `count_features`: for each edge x and y of its first keypoint minus its second; lengths of
        the edges; keypoint scores.

    Raises:
        InputError: the skeleton has no edges or no normalization edges.
    """
    count_features(schema)
    keypoints = np.asarray(keypoints, np.float64)

    def vectors(edges):
        first, second = np.transpose(edges)
        return keypoints[:, first, :2] - keypoints[:, second, :2]

    edges = vectors(schema.edges)
    size = np.linalg.norm(vectors(schema.normalization_edges), axis=-1).mean(axis=1)
    edges /= np.maximum(size, MIN_SIZE)[:, None, None]
    lengths = np.linalg.norm(edges, axis=-1)
    parts = edges.reshape(len(keypoints), 2 * len(schema.edges)), lengths, keypoints[..., 2]
    return np.concatenate(parts, axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RescoringNet:
    """Predicts the OKS of poses: two hidden layers with ReLU and one output.

    Attributes:
        schema: the skeleton, with the edges that the features are made of.
        layers: kernel (inputs, outputs) and bias (outputs,) of the three layers, float32.

    Raises:
        InputError: the layers fit neither the skeleton nor each other, or hold values that are not finite.
    """

    schema: KeypointSchema
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __post_init__(self):
        layers = tuple((np.asarray(kernel, np.float32), np.asarray(bias, np.float32)) for kernel, bias in self.layers)
        object.__setattr__(self, "layers", layers)
        inputs = count_features(self.schema)
        for name, (kernel, bias) in zip(LAYERS, layers, strict=True):
            outputs = 1 if name == LAYERS[-1] else bias.size
            if kernel.shape != (inputs, outputs) or bias.shape != (outputs,):
                raise InputError(
                    f"expected {name} to have {inputs} inputs and {outputs} outputs. "
                    f"Received: kernel {kernel.shape}, bias {bias.shape}"
                )
            if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                raise InputError(f"expected finite values in {name}. Received: NaN or infinite values")
            inputs = outputs

    def predict_oks(self, keypoints: np.ndarray) -> np.ndarray:
        """The predicted OKS (N,) float32 of poses (N, K, 3); as a regression, it may lie slightly outside 0..1."""
        values = rescoring_features(keypoints, self.schema)
        for name, (kernel, bias) in zip(LAYERS, self.layers, strict=True):
            values = values @ kernel + bias
            if name != LAYERS[-1]:
                values = np.maximum(values, 0)
        return values[:, 0]

    def rescore(self, poses: Poses) -> Poses:
        """The same poses with pose scores times predicted OKS, sorted again, best first."""
        return replace(poses, scores=self.predict_oks(poses.keypoints) * poses.scores)

    def save(self, path: str | Path) -> None:
        """Writes the net as an `.npz` file.

        Raises:
            InputError: the file cannot be written.
        """
        write_arrays(path, self.schema, dict(zip(ARRAYS, (part for pair in self.layers for part in pair), strict=True)))

    @classmethod
    def load(cls, path: str | Path) -> "RescoringNet":
        """Reads a net that `save` wrote.

        Raises:
            InputError: the file cannot be read, is damaged or incomplete, or is of another version.
        """
        schema, arrays = read_arrays(path, "rescoring net", ARRAYS)
        layers = tuple((arrays[f"{layer}_kernel"], arrays[f"{layer}_bias"]) for layer in LAYERS)
        try:
            return cls(schema, layers)
        except InputError as error:
            raise InputError(f"rescoring net {path}: {error}") from error


def open_rescoring_net(source: str | Path | RescoringNet, schema: KeypointSchema) -> RescoringNet:
    """The net for poses of a skeleton.

    The features are made from the net's own edges, so the skeletons need only agree in the names of their keypoints.

    Args:
        source: a net, the path of one, or a name that `dekr weights` lists.
        schema: the skeleton of the poses.

    Raises:
        InputError: the file cannot be read, or the net is of other keypoints.
    """
    net = source if isinstance(source, RescoringNet) else RescoringNet.load(resolve(source, "rescoring net"))
    if net.schema.names != schema.names:
        where = "rescoring net" if net is source else f"rescoring net {source}"
        raise InputError(
            f"{where}: expected the {len(schema)} keypoints of the model's skeleton {schema.name}. "
            f"Received: the {len(net.schema)} of {net.schema.name}"
        )
    return net


def write_arrays(path: str | Path, schema: KeypointSchema, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays with their skeleton as an `.npz` file.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_output(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, version=VERSION, skeleton=json.dumps(schema.to_dict()), **arrays)


def read_arrays(path: str | Path, kind: str, names: Sequence[str]) -> tuple[KeypointSchema, dict[str, np.ndarray]]:
    """Reads what `write_arrays` wrote.

    Args:
        path: of the file.
        kind: what it holds, for the error.
        names: of the arrays that are needed.

    Returns:
        The skeleton and the float32 arrays by name.

    Raises:
        InputError: the file cannot be read, is damaged, is of another version, or lacks an array.
    """
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as archive:
            content = {name: value for name in archive.files if isinstance(value := archive[name], np.ndarray)}
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror or error}") from error
    except Exception as error:  # On a damaged file, zipfile and NumPy can raise almost any exception.
        raise InputError(f"{kind} {path}: this is no .npz file, or it is damaged: {error}") from error
    version = content["version"].tolist() if "version" in content else None
    if version is not None and version != VERSION:
        raise InputError(f"{kind} {path}: expected version {VERSION}. Received: {version!r:.20}")
    missing = [name for name in ("version", "skeleton", *names) if name not in content]
    if missing:
        raise InputError(
            f"{kind} {path}: expected the arrays {', '.join(names)}, with their skeleton. "
            f"Received: a file without {', '.join(missing)}"
        )
    wrong = [name for name in names if content[name].dtype.kind != "f"]
    if wrong:
        raise InputError(f"{kind} {path}: expected numbers as {wrong[0]}. Received: {content[wrong[0]].dtype}")
    try:
        schema = KeypointSchema.from_dict(json.loads(str(content["skeleton"])))
    except (ValueError, AttributeError) as error:
        raise InputError(f"{kind} {path}: expected a skeleton as JSON. Received: {error}") from error
    return schema, {name: content[name].astype(np.float32) for name in names}
