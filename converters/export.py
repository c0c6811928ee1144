"""Exports a Keras model to a checked file or folder for another engine.

`graphs` builds the network that is exported, `to_tflite`, `to_onnx` and `to_saved_model` write it, and `verify`
compares the result with the Keras model; `to_serving` does all of it for TensorFlow Serving.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from converters import to_tflite
from converters.graphs import build_graph, check_export
from converters.tflite_metadata import add_metadata
from converters.to_onnx import write_onnx
from converters.to_saved_model import write_saved_model
from converters.verify import Comparison, check_agreement, compare
from dekr_tf.data.synthetic import draw_scene
from dekr_tf.errors import InputError
from dekr_tf.files.outputs import atomic_outputs
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.engines import POSES, KerasEngine
from dekr_tf.inference.open_model import HEAD_MEMBER, head_path
from dekr_tf.inference.rescoring import RescoringNet, open_rescoring_net
from dekr_tf.models.folding import fold_offset_head
from dekr_tf.models.pose_model import build_pose_model
from dekr_tf.poses import Poses
from dekr_tf.preprocessing import Preprocessor
from dekr_tf.sidecar import MEMBER, Artifact, Sidecar, to_json, write_sidecar

#: Suffix of the output; a SavedModel is a folder.
SUFFIXES = {"saved_model": "", "tflite": ".tflite", "onnx": ".onnx"}


def export_model(
    model: keras.Model,
    sidecar: Sidecar,
    output: str | Path,
    form: str,
    artifact: Artifact,
    photos: Sequence[np.ndarray],
    *,
    calibrate: bool,
    rescore: RescoringNet | str | Path | None = None,
) -> Comparison:
    """Exports a model, opens the result, and compares it with the Keras model.

    Args:
        model: of `build_dekr`.
        sidecar: its settings.
        output: file or folder to write; `<output>.json` (in a folder: `sidecar.json`) is written with it and, for the
            graph `maps`, the weights of the offset head as `<output>.offset_head.npz` (`offset_head.npz`). A `.tflite`
            file carries both inside as well.
        form: `saved_model`, `tflite` or `onnx`.
        artifact: settings of the export.
        photos: (H, W, 3) uint8 RGB, to compare on.
        calibrate: whether `int8` takes its ranges from these photos.
        rescore: a rescoring net, its path or name, to put into the graph of final poses.

    Returns:
        The comparison with the Keras model.

    Raises:
        InputError: the model cannot be exported like this, or the differences are beyond `TOLERANCES`; then nothing is
            written.
    """
    output = Path(output)
    if form != "saved_model" and output.suffix != SUFFIXES[form]:
        raise InputError(f"expected an output that ends in {SUFFIXES[form]}. Received: {output}")
    if form == "tflite" and not artifact.input_sizes:
        raise InputError("a .tflite file takes inputs of fixed size and needs at least one")
    if form != "tflite" and len(artifact.input_sizes) > 1:
        raise InputError(f"{form}: expected one input size, or none for any. Received: {len(artifact.input_sizes)}")
    if form != "tflite" and artifact.precision != "float32":
        raise InputError(f"{form}: expected float32; other precisions are for tflite. Received: {artifact.precision}")
    if form == "saved_model" and artifact.final:
        raise InputError("saved_model: expected --serving for final poses. Received: --output with --final")
    if rescore is not None and not artifact.final:
        raise InputError("a rescoring net can only become part of a graph of final poses (--final)")
    check_export(model, artifact, calibrate)
    net = None if rescore is None else open_rescoring_net(rescore, sidecar.schema)
    exported = sidecar.model_copy(update={"artifact": artifact})
    # A second graph beside the exported one, which may be fusible and then must not run in TensorFlow.
    expected = keras_detector(model, exported, net)
    with atomic_outputs(output, folder=form == "saved_model") as temporary:
        head = None
        if artifact.graph == "maps":
            content = io.BytesIO()
            np.savez(content, **fold_offset_head(model))
            head = content.getvalue()
        # The SavedModel's signatures take both types of input.
        inside = Artifact(**{**artifact.model_dump(), "input_type": "float32"}) if form == "saved_model" else artifact
        described = sidecar.model_copy(update={"artifact": inside})
        graph = build_graph(model, described, fusible=form != "saved_model", net=net)
        if form == "saved_model":
            write_saved_model(graph, exported, temporary)
        elif form == "onnx":
            size = artifact.input_sizes[0] if artifact.input_sizes else (None, None)
            write_onnx(graph, size, artifact.input_type, temporary)
        else:
            content = to_tflite.convert(graph, artifact.input_sizes, artifact.input_type)
            if artifact.precision != "float32":
                samples = _samples(exported, photos) if calibrate else {}
                content = to_tflite.quantize(content, artifact.precision, samples)
            temporary.write_bytes(add_metadata(content, exported))
            members = {MEMBER: to_json(exported).encode()}
            to_tflite.embed(temporary, members if head is None else {**members, HEAD_MEMBER: head})
        write_sidecar(exported, temporary)
        if head is not None:
            head_path(temporary).write_bytes(head)
        actual = PoseDetector(temporary)
        pairs = []
        # By itself, a detector takes the size that suits a photo best, but all of them must be right.
        for sizes in [(size,) for size in artifact.input_sizes] or [()]:
            pairs += [(_detect(expected, photo, sizes), _detect(actual, photo, sizes)) for photo in photos]
        comparison = compare(pairs)
        check_agreement(comparison, artifact.precision, output)
    return comparison


def keras_detector(model: keras.Model, exported: Sidecar, rescore: RescoringNet | None = None) -> PoseDetector:
    """A detector that feeds the Keras model the same inputs as an exported one, but normalized in float32.

    Args:
        model: of `build_dekr`.
        exported: sidecar with `artifact`.
        rescore: as for `PoseDetector`.
    """
    artifact = Artifact(graph="poses", input_sizes=exported.artifact.input_sizes)
    engine = KerasEngine(build_pose_model(model, exported, flip=exported.artifact.flip), POSES)
    return PoseDetector(engine, exported.model_copy(update={"artifact": artifact}), rescore=rescore)


def _detect(detector: PoseDetector, photo: np.ndarray, sizes: Sequence[tuple[int, int]]) -> Poses:
    """A detector's poses in a photo that is letterboxed into one of these sizes; empty: any size."""
    inputs, placement = Preprocessor(detector.sidecar, fixed_sizes=sizes)(photo)
    return detector.decode(detector.run_network([each[None] for each in inputs]), [placement])[0]


def _samples(exported: Sidecar, photos: Sequence[np.ndarray]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Network inputs of photos, by the signature of a `.tflite` file."""
    sizes = exported.artifact.input_sizes
    samples = {}
    for name, size in zip(to_tflite.signature_names(sizes), sizes, strict=True):
        preprocessor = Preprocessor(exported, fixed_sizes=(size,))
        samples[name] = [{"image": preprocessor(photo)[0][0][None]} for photo in photos]
    return samples


def synthetic_photos(count: int = 4) -> list[np.ndarray]:
    """Images (256, 256, 3) uint8 RGB of synthetic people, to compare on without photos."""
    generator = np.random.default_rng(0)
    return [draw_scene((256, 256), generator).image for _ in range(count)]
