"""Reads MoveNet MultiPose Lightning, a `.tflite` file: backbone `mobilenet_v2` and, if separable, the heatmap head."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dekr_tf.config import Config
from dekr_tf.errors import InputError
from dekr_tf.keypoints import COCO
from dekr_tf.models.dekr import build_backbone, build_dekr
from dekr_tf.models.mobilenet import DEPTH_MULTIPLIER, LATERALS, STAGES

#: What the bytes of a `.tflite` file have at their fifth place.
MAGIC = b"TFL3"
#: MoveNet's heads: box sizes, box offsets, centers, heatmaps, keypoint offsets and regression.
HEADS = 6
#: Each head has a depthwise convolution and two of 1x1.
HEAD_CONVOLUTIONS = 3
#: Those of DEKR's separable heatmap head.
HEATMAP_LAYERS = "heatmap_depthwise_conv", "heatmap_pointwise_conv", "heatmap"

_CONVOLUTIONS = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D
_DTYPES = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}


def import_movenet(path: str | Path, config: Config) -> keras.Model:
    """Fills `build_backbone` with MoveNet's weights; with `model.heatmap_block: separable`, the heatmap head too.

    The names in the file do not identify its tensors, so the order of the convolutions does, and their shapes must fit.
    Of MoveNet's heads, DEKR has those of keypoint heatmaps and centers, which become one heatmap head.

    Args:
        path: MoveNet MultiPose Lightning as a `.tflite` of float16 or float32.
        config: an experiment with the backbone `mobilenet_v2`.

    Returns:
        A model from `image` (B, H, W, 3) to the map of the pyramid or, with the head, to `heatmap`.

    Raises:
        InputError: the file is another model, or the config has another backbone, or other keypoints for the head.
    """
    if config.model.backbone != "mobilenet_v2":
        raise InputError(f"{path}: expected model.backbone mobilenet_v2. Received: {config.model.backbone}")
    with_head = config.model.heatmap_block == "separable"
    if with_head and config.schema.names != COCO.names:
        raise InputError(
            f"{path}: MoveNet's heatmaps are those of COCO's keypoints. Received: the skeleton {config.schema.name}"
        )
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
    names = list(_layers_in_order())
    expected = len(names) + HEADS * HEAD_CONVOLUTIONS
    if len(convolutions) != expected:
        raise InputError(
            f"{path}: expected MoveNet MultiPose Lightning with {expected} convolutions. Received: {len(convolutions)}"
        )
    model = build_backbone(config.model)
    if with_head:
        network = build_dekr(config.model, config.schema)
        model = keras.Model(network.input, network.get_layer("heatmap").output, name=config.model.backbone)
        convolutions[len(names) :] = _heatmap_head(convolutions[len(names) :], path)
        names += HEATMAP_LAYERS
    weights = []
    for name, (kernel, bias) in zip(names, convolutions, strict=False):
        layer = model.get_layer(name)
        if kernel.shape != layer.kernel.shape:
            raise InputError(f"{path}: expected shape {layer.kernel.shape} for {name}. Received: {kernel.shape}")
        if not np.isfinite(kernel).all() or not np.isfinite(bias).all():
            raise InputError(f"{path}: expected finite weights for {name}. Received: NaN or infinity")
        if not layer.use_bias and bias.any():
            raise InputError(f"{path}: expected no bias for {name}. Received: one up to {abs(bias).max():.3g}")
        weights.append((layer, [kernel, bias] if layer.use_bias else [kernel]))
    for layer, values in weights:
        layer.set_weights(values)
    return model


def _heatmap_head(
    convolutions: list[tuple[np.ndarray, np.ndarray]], path: str | Path
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The convolutions of DEKR's heatmap head, from those of all heads of MoveNet.

    MoveNet's heads for keypoints and for the center have nothing in common but their input. Side by side they are one
    head: the depthwise filters of both are those of one layer, and kernels of zeros keep what follows apart.
    """
    heads = [
        convolutions[begin : begin + HEAD_CONVOLUTIONS] for begin in range(0, len(convolutions), HEAD_CONVOLUTIONS)
    ]
    # The order of the heads depends on the converter; no other ones have as many outputs.
    by_outputs = {head[-1][0].shape[-1]: head for head in heads}
    try:
        pairs = list(zip(by_outputs[len(COCO)], by_outputs[1], strict=True))
    except KeyError as error:
        raise InputError(f"{path}: expected heads for heatmaps and centers. Received: none with {error}") from error
    (first, first_bias), (second, second_bias) = pairs[0]
    result = [(np.concatenate([first, second], axis=-1), np.concatenate([first_bias, second_bias]))]
    for place, ((first, first_bias), (second, second_bias)) in enumerate(pairs[1:]):
        inputs, outputs = (np.add(first.shape[-2:], second.shape[-2:])).tolist()
        kernel = np.zeros((inputs, outputs), np.float32)
        # After the depthwise layer, the two filters of a channel are neighbors.
        rows = np.s_[::DEPTH_MULTIPLIER], np.s_[1::DEPTH_MULTIPLIER]
        if place:
            rows = np.s_[: first.shape[-2]], np.s_[first.shape[-2] :]
        kernel[rows[0], : first.shape[-1]] = first[0, 0]
        kernel[rows[1], first.shape[-1] :] = second[0, 0]
        result.append((kernel[None, None], np.concatenate([first_bias, second_bias])))
    return result


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
    """Kernel and bias of every convolution in a TFLite model, float32, in the order of its operators.

    Kernels are (y, x, channels, filters), or (y, x, channels, 1) where each channel has a filter of its own.
    """
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
            yield array(op.inputs[1]).transpose(1, 2, 3, 0), array(op.inputs[2])
