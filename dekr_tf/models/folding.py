"""The network of `build_dekr` for inference: batch normalization is folded into the convolutions before it."""

import re

import keras
import numpy as np
from keras import ops

from dekr_tf.layers.adaptive_conv import AdaptiveConv2D
from dekr_tf.layers.resize import Upsample

#: Layers of `build_dekr`, one for each size of branches.
FINAL = re.compile(r"offset_g\d+_final")


def fold_maps(model: keras.Model, fusible: bool) -> keras.Model:
    """The network from the image to the heatmap and the backbone's branches, batch normalization folded.

    Args:
        model: of `build_dekr`.
        fusible: see `models.pose_model.build_pose_model`.

    Returns:
        A model from (B, H, W, 3) to a list: heatmap (B, h, w, K + 1), then the maps of `backbone_branches`.

    Raises:
        ValueError: the model has no such layers.
    """
    image = keras.Input(model.input.shape[1:], name="image")
    branches = _fold(model, model.input, backbone_branches(model), fusible)(image)
    entered, begin = branches, backbone_branches(model)
    if any(layer.name == "heatmap_transition_relu" for layer in model.layers):  # A separable head has none.
        entered = transition(branches, *fold_batch_norm(model, "heatmap_transition"), "heatmap_transition")
        begin = model.get_layer("heatmap_transition_relu").output
    heatmap = _fold(model, begin, model.get_layer("heatmap").output, fusible)(entered)
    return keras.Model(image, [heatmap, *branches], name="maps")


def backbone_branches(model: keras.Model) -> list[keras.KerasTensor]:
    """The symbolic outputs of the backbone in a model of `build_dekr`.

    They are HRNet's branches at strides 4, 8, 16 and 32, or the one map of a pyramid at stride 4.
    """
    features = model.get_layer("features")
    if not isinstance(features.input, list):
        return [features.input]
    return [features.input[0], *(model.get_layer(f"features_{i}").input for i in range(1, len(features.input)))]


def _fold(model, inputs, outputs, fusible):
    """A copy of a part of the model, with batch normalization folded into the convolutions.

    Unless it is to be `fusible`, the output of a biased convolution is never added to another map; its negative is
    subtracted instead. TensorFlow (2.21) fuses convolution, bias and addition into one oneDNN kernel, which caches a
    pointer to the other addend's buffer, so that concurrent calls overwrite each other's maps, or freed memory.
    """
    norms = {layer.name for layer in model.layers if layer.name.endswith("_bn")}
    convolved, negated = {}, set()

    def norm_of(layer):
        return layer.name.removesuffix("_conv") + "_bn"

    def copy(layer):
        config = layer.get_config()
        return type(layer).from_config(config | {"use_bias": True} if norm_of(layer) in norms else config)

    def call(layer, *args, **kwargs):
        if layer.name in norms:
            convolved[id(args[0])] = layer.name
            return args[0]
        if isinstance(layer, keras.layers.Add) and not fusible:
            return add_unfused(layer, args[0])
        outputs = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Conv2D) and model.get_layer(layer.name).use_bias:
            convolved[id(outputs)] = layer.name
        return outputs

    def add_unfused(layer, terms):
        first, *others = sorted(terms, key=lambda term: id(term) in convolved)
        for index, term in enumerate(others):
            kind = keras.layers.Add
            if id(term) in convolved:
                negated.add(convolved[id(term)])
                kind = keras.layers.Subtract
            first = kind(dtype=layer.dtype_policy, name=f"{layer.name}_{index}")([first, term])
        return first

    part = keras.models.clone_model(keras.Model(inputs, outputs), clone_function=copy, call_function=call)
    for layer in part.layers:
        if norm_of(layer) in norms:
            kernel, bias = fold_batch_norm(model, layer.name.removesuffix("_conv"))
            layer.set_weights([-kernel, -bias] if norm_of(layer) in negated else [kernel, bias])
        elif layer.weights:
            weights = model.get_layer(layer.name).get_weights()
            layer.set_weights([-weight for weight in weights] if layer.name in negated else weights)
    return part


def transition(branches: list[keras.KerasTensor], kernel: np.ndarray, bias: np.ndarray, name: str) -> keras.KerasTensor:
    """A 1x1 convolution and ReLU of the backbone's branches, as if they were first upsampled and concatenated.

    Upsampling works on each channel alone and the convolution on each cell alone, so they commute: the branches are
    convolved while they are small, and the results upsampled and added.

    Args:
        branches: (B, h / 2^i, w / 2^i, C_i).
        kernel: (1, 1, sum of C_i, F).
        bias: (F,).
        name: of the layers.

    Returns:
        (B, h, w, F).
    """
    terms = []
    start = 0
    for index, branch in enumerate(branches):
        end = start + branch.shape[-1]
        # The first branch, which is added without upsampling, must have no bias: see `_fold`.
        biased = index == min(1, len(branches) - 1)
        conv = keras.layers.Conv2D(len(bias), 1, use_bias=biased, dtype="float32", name=f"{name}_{index}")
        term = conv(branch)
        conv.set_weights([kernel[:, :, start:end], bias] if biased else [kernel[:, :, start:end]])
        upsample = Upsample(2**index, "bilinear", dtype="float32", name=f"{name}_{index}_upsample")
        terms.append(upsample(term) if index else term)
        start = end
    total = keras.layers.Add(name=f"{name}_add")(terms) if len(terms) > 1 else terms[0]
    return keras.layers.ReLU(name=f"{name}_relu")(total)


def fold_offset_head(model: keras.Model) -> dict[str, np.ndarray]:
    """The offset head's weights after its transition, batch normalization folded into the convolutions.

    Args:
        model: of `build_dekr`.

    Returns:
        What `inference.sparse_head.sparse_offsets` takes. For the G branches of k keypoints and C channels, float32
        under `branches{k}/`: `kernel{i}` (G, 9, C, C), `bias{i}` (G, C) and, for adaptive blocks, `offset_kernel{i}`
        (G, 9, C, 6), `offset_bias{i}` (G, 6) of each block i; `final_kernel` (G, C, 2 k), `final_bias` (G, 2 k).
        Besides, int: `sizes`, the ks in the order of the branches' channels; `order`, the keypoint of each pair of
        outputs; `dilation` of plain blocks, zero for adaptive ones.

    Raises:
        ValueError: the model has no such head.
    """
    layers = {layer.name: layer for layer in model.layers}
    finals = {layer.filters // 2: layer for name, layer in layers.items() if FINAL.fullmatch(name)}
    if not finals:
        raise ValueError("no layer is named offset_g1_final or alike")
    keypoints = sum(size * layer.branches for size, layer in finals.items())
    order = layers["offset_order"].order if "offset_order" in layers else range(keypoints)
    weights = {"sizes": np.array(sorted(finals)), "order": np.array(order), "dilation": np.array(0)}
    for size, final in finals.items():
        arrays = {}
        block = 0
        while (name := f"offset_g{size}_block{block}") + "_conv" in layers:
            layer = layers[f"{name}_conv"]
            kernel, bias = fold_batch_norm(model, name, final.branches)
            arrays[f"kernel{block}"] = kernel.reshape(final.branches, 9, *kernel.shape[-2:])
            arrays[f"bias{block}"] = bias
            if isinstance(layer, AdaptiveConv2D):
                kernel = _array(layer.offset_kernel)
                arrays[f"offset_kernel{block}"] = kernel.reshape(final.branches, 9, *kernel.shape[-2:])
                arrays[f"offset_bias{block}"] = _array(layer.offset_bias)
            else:
                weights["dilation"] = np.array(layer.dilation)
            block += 1
        arrays["final_kernel"] = final.output_scale * _array(final.kernel)[:, 0, 0]
        arrays["final_bias"] = final.output_scale * _array(final.bias).reshape(final.branches, 2 * size)
        weights |= {f"branches{size}/{key}": value.astype(np.float32) for key, value in arrays.items()}
    return weights


def branches_of_size(weights: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The folded weights of the branches with `size` keypoints, their names without the prefix."""
    prefix = f"branches{size}/"
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _array(variable):
    return ops.convert_to_numpy(variable).astype(np.float64)


def fold_batch_norm(model: keras.Model, name: str, branches: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of one convolution that equals `{name}_conv` followed by `{name}_bn`.

    Args:
        model: of `build_dekr`.
        name: of the two layers.
        branches: G, for a convolution with a kernel for each branch.

    Returns:
        Kernel (S, S, C, F), or (S, S, C, 1) if depthwise, and bias, float64; of branches (G, ..., F) and (G, F).

    Raises:
        ValueError: the model has no such layers.
    """
    conv = model.get_layer(f"{name}_conv")
    kernel = _array(conv.kernel)
    norm = model.get_layer(f"{name}_bn")
    gamma, beta, mean, variance = map(_array, (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    scale = gamma / np.sqrt(variance + norm.epsilon)
    bias = beta - mean * scale
    if isinstance(conv, keras.layers.DepthwiseConv2D):  # Channels are the last axis but one.
        return kernel * scale[:, None], bias
    if branches is None:
        return kernel * scale, bias
    by_branch = scale.reshape(branches, *[1] * (kernel.ndim - 2), kernel.shape[-1])
    return kernel * by_branch, bias.reshape(branches, -1)
