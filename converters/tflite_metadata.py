"""TFLite metadata inside a `.tflite` file, which describe its input and outputs to tools such as Netron.

`PoseDetector` reads the sidecar instead: these metadata have no place for skeletons and thresholds. The tables follow
`metadata_schema.fbs` of github.com/tensorflow/tflite-support. That project's package has no build for Python 3.12 or
later, so this module writes the tables itself, by the numbers of their fields.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from dekr_tf.sidecar import Sidecar

#: Name of the metadata in a model, and what their bytes begin with.
NAME, IDENTIFIER = "TFLITE_METADATA", b"M001"
#: Alignment of weights outside the flatbuffer, in bytes.
_ALIGNMENT = 16
#: Values of unions and enumerations: the type of a content or process unit, and the color space.
_FEATURE, _IMAGE, _NORMALIZATION, _RGB = 1, 2, 1, 1


def add_metadata(model: bytes, sidecar: Sidecar) -> bytes:
    """A TFLite model with metadata that describe it.

    Args:
        model: of `to_tflite.convert` or `quantize`.
        sidecar: its settings, with `artifact`.
    """
    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    descriptions = _descriptions(sidecar)
    subgraphs = []
    for signature in sorted(content.signatureDefs, key=lambda each: each.subgraphIndex):
        names = {each.tensorIndex: each.name.decode() for each in [*signature.inputs, *signature.outputs]}
        graph = content.subgraphs[signature.subgraphIndex]
        inputs, outputs = (
            [_tensor(names[index], descriptions[names[index]], sidecar) for index in indices]
            for indices in (graph.inputs, graph.outputs)
        )
        subgraphs.append({0: signature.signatureKey.decode(), 2: inputs, 3: outputs})
    builder = flatbuffers.Builder()
    about = f"Finds people and their {len(sidecar.schema)} keypoints: {', '.join(sidecar.schema.names)}."
    builder.Finish(_write(builder, {0: "DEKR", 1: about, 3: subgraphs, 7: "1.0.0"}), file_identifier=IDENTIFIER)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(builder.Output(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = NAME, len(content.buffers)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]
    return _pack(content, model)


def _pack(content, model):
    """The bytes of a model that has grown, with the weights that the quantizer put after the flatbuffer of `model`."""
    packed = flatbuffer_utils.convert_object_to_bytearray(content)
    outside = [each for each in content.buffers if each.offset]
    if not outside:
        return bytes(packed)
    start = min(each.offset for each in outside)
    moved = -(-len(packed) // _ALIGNMENT) * _ALIGNMENT
    for each in outside:
        each.offset += moved - start
    # Offsets have a fixed size, so the length stays the same.
    packed = flatbuffer_utils.convert_object_to_bytearray(content)
    return bytes(packed).ljust(moved, b"\0") + model[start:]


def _descriptions(sidecar):
    """Descriptions of a graph's input and outputs, by name."""
    artifact = sidecar.artifact
    pixels = "x and y in pixels of the input"
    image = "RGB, 0 to 255" if artifact.input_type == "uint8" else "RGB, 0 to 255, normalized"
    descriptions = {"image": f"{image}; the photo as large as fits, centered, the rest 0 before normalization"}
    if artifact.final:
        return descriptions | {
            "keypoints": f"For each person, best first: {pixels}, and score of each keypoint; zero after the last one",
            "scores": "Pose scores, highest first; zero after the last person",
            "num_poses": "Number of people",
        }
    return descriptions | {
        "keypoints": f"For each candidate, before pose NMS: {pixels} of each keypoint",
        "keypoint_scores": "Score of each keypoint",
        "center_scores": "Score of each candidate's center, highest first; zero where there is no candidate",
        "heatmap": "At a stride of 4 pixels: score of each keypoint, and last of a person's center",
        "features": "At a stride of 4 pixels: what enters the branches of the offset head",
    }


def _tensor(name, description, sidecar):
    """TensorMetadata: name, description, content (a union: type and value), process units."""
    if name != "image":
        return {0: name, 1: description, 3: {0: _FEATURE, 1: {}}}
    fields = {0: name, 1: description, 3: {0: _IMAGE, 1: {0: _RGB}}}
    if sidecar.artifact.input_type == "float32":
        mean, std = ([255.0 * value for value in values] for values in (sidecar.mean, sidecar.std))
        fields[4] = [{0: _NORMALIZATION, 1: {0: mean, 1: std}}]
    return fields


def _write(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes a string, a table (a dict from field numbers to values) or a list of one kind; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        fields = {number: each if isinstance(each, int) else _write(builder, each) for number, each in value.items()}
        builder.StartObject(max(fields, default=-1) + 1)
        for number, field in fields.items():
            if isinstance(value[number], int):
                builder.PrependInt8Slot(number, field, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(number, field, 0)
        return builder.EndObject()
    if isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    items = [_write(builder, each) for each in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return builder.EndVector()
