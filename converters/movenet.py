"""Reads the backbone of MoveNet MultiPose Lightning, a `.tflite` file, into the backbone `mobilenet_v2`."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.models.dekr import build_backbone
from dekr_tf.models.mobilenet import LATERALS, STAGES

#: What the bytes of a `.tflite` file have at their fifth place.
MAGIC = b"TFL3"
#: MoveNet's heads: centers, box sizes, box offsets, heatmaps, keypoint offsets and regression, three convolutions each.
HEAD_CONVOLUTIONS = 18

_CONVOLUTIONS = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D
_DTYPES = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}


def import_movenet(path: str | Path, config: Config) -> keras.Model:
    """Fills `build_backbone` with MoveNet's weights and leaves MoveNet's heads behind.

    The names in the file do not identify its tensors, so the order of the convolutions does, and their shapes must fit.

    Args:
        path: MoveNet MultiPose Lightning as a `.tflite` of float16 or float32.
        config: an experiment with the backbone `mobilenet_v2`.

    Raises:
        InputError: the file is another model, or the config has another backbone.
    """
    if config.model.backbone != "mobilenet_v2":
        raise InputError(f"{path}: expected model.backbone mobilenet_v2. Received: {config.model.backbone}")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if content[4:8] != MAGIC:
        raise InputError(f"{path}: expected a .tflite file. Received: bytes of another format")
    try:
        convolutions = list(_convolutions(content))
    except Exception as error:  # On damaged bytes, flatbuffers can raise almost any exception.
        raise InputError(f"{path}: expected a .tflite file with float weights. Received: {error}") from error
    backbone = build_backbone(config.model)
    names = list(_layers_in_order())
    if len(convolutions) != len(names) + HEAD_CONVOLUTIONS:
        raise InputError(
            f"{path}: expected MoveNet MultiPose Lightning with {len(names) + HEAD_CONVOLUTIONS} convolutions. "
            f"Received: {len(convolutions)}"
        )
    weights = []
    for name, (stored, bias) in zip(names, convolutions, strict=False):
        layer = backbone.get_layer(name)
        # (filters, y, x, channels), but (1, y, x, channels) where each channel has a kernel of its own.
        kernel = stored.transpose(1, 2, 3, 0)
        if kernel.shape != layer.kernel.shape:
            raise InputError(f"{path}: expected shape {layer.kernel.shape} for {name}. Received: {kernel.shape}")
        if not np.isfinite(kernel).all() or not np.isfinite(bias).all():
            raise InputError(f"{path}: expected finite weights for {name}. Received: NaN or infinity")
        if not layer.use_bias and bias.any():
            raise InputError(f"{path}: expected no bias for {name}. Received: one up to {abs(bias).max():.3g}")
        weights.append((layer, [kernel, bias] if layer.use_bias else [kernel]))
    for layer, values in weights:
        layer.set_weights(values)
    return backbone


def _layers_in_order() -> Iterator[str]:
    """The convolutions of the backbone in the order in which MoveNet's graph has them."""
    yield "stem_conv"
    for stage, (blocks, _, expansion, _) in enumerate(STAGES, start=1):
        for block in range(blocks):
            parts = ("depthwise", "project") if expansion == 1 else ("expand", "depthwise", "project")
            yield from (f"stage{stage}_block{block}_{part}_conv" for part in parts)
        if stage in LATERALS:
            yield f"pyramid_{list(LATERALS).index(stage)}_lateral_conv"
    yield "top_conv"
    yield f"pyramid_{len(LATERALS)}_lateral_conv"
    for index in reversed(range(len(LATERALS))):
        yield from (f"pyramid_{index}_{part}_conv" for part in ("depthwise", "pointwise"))


def _convolutions(content: bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of every convolution in a TFLite model, float32, in the order of its operators."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    dequantize = schema.BuiltinOperator.DEQUANTIZE
    stored = {op.outputs[0]: op.inputs[0] for op in graph.operators if codes[op.opcodeIndex] == dequantize}

    def array(index):
        tensor = graph.tensors[stored.get(index, index)]
        values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), _DTYPES[tensor.type])
        return values.reshape(tensor.shape).astype(np.float32)

    for op in graph.operators:
        if codes[op.opcodeIndex] in _CONVOLUTIONS:
            yield array(op.inputs[1]), array(op.inputs[2])
