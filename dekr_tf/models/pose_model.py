"""One network from image to poses, for inference: the offset head is evaluated at the centers only."""

import re

import keras
import numpy as np
from keras import ops

from dekr_tf.errors import InputError
from dekr_tf.geometry import OUTPUT_STRIDE
from dekr_tf.keypoints import warn_without_flip_pairs
from dekr_tf.layers.adaptive_conv import AdaptiveConv2D
from dekr_tf.layers.backend import gather_rows
from dekr_tf.layers.resize import Enlarge
from dekr_tf.layers.sparse_offset_head import SparseOffsetHead, padded_channels
from dekr_tf.models.dekr import OrderKeypoints
from dekr_tf.sidecar import Sidecar

#: Layers of `build_dekr`, one for each size of branches.
FINAL = re.compile(r"offset_g\d+_final")


def build_pose_model(
    model: keras.Model,
    sidecar: Sidecar,
    image_size: tuple[int | None, int | None] = (None, None),
    *,
    batch_size: int | None = None,
    flip: bool = False,
    heatmap_output: bool = False,
    fusible: bool = False,
) -> keras.Model:
    """Builds the network from image to candidate poses, with the weights that `model` has now.

    Backbone and heatmap head are the model's own layers. The offset head (paper section 3.1) is evaluated at the best
    centers only, where it gives what the dense head gives; its batch normalisation becomes part of the convolutions.

    Args:
        model: of `build_dekr`.
        sidecar: its settings; of these, skeleton and decoder count.
        image_size: (height, width) of the input, multiples of 32; by default any.
        batch_size: number of images; by default any.
        flip: flip test: each image is also looked at mirrored, and the two are averaged.
        heatmap_output: with the heatmap among the outputs, for multi-scale test and matching.
        fusible: for engines other than TensorFlow, which may fuse convolutions with the additions behind them.
            TensorFlow makes a kernel of these that only one thread at a time may call, so by default there are
            subtractions of negatives in their place, with the same result to the bit.

    Returns:
        A functional model from `image` (B, H, W, 3), normalised RGB, to a dict of float32 arrays for the
        N = `decoder.max_people` best centers, highest first: `keypoints` (B, N, K, 2), x and y in input pixels;
        `keypoint_scores` (B, N, K), center score times heat value; `center_scores` (B, N). Where fewer centers are
        above the threshold, the others are zero in all three. With `heatmap_output` also `heatmap` (B, h, w, K + 1),
        with flip test the mean of the two.

    Raises:
        InputError: the model is not one of `build_dekr`, or has another skeleton.
    """
    schema, decoder = sidecar.schema, sidecar.decoder
    if flip:
        warn_without_flip_pairs(schema, "the flip test", "do without it")
    try:
        weights = fold_offset_head(model)
        entrance = _fold_batch_norm(model, "offset_transition")
        maps = _fold_maps(model, fusible)
    except ValueError as error:
        raise InputError(f"expected a network of build_dekr. Received: {model.name}, {error}") from error

    channels = maps.outputs[0].shape[-1]
    if channels != len(schema) + 1:
        raise InputError(f"skeleton {schema.name}: expected {len(schema) + 1} heatmap channels. Received: {channels}")

    image = keras.Input((*image_size, 3), batch_size=batch_size, name="image")
    heatmap, *features = maps(AppendMirrored(name="append_mirrored")(image) if flip else image)
    centers = FindCenters(decoder.max_people, decoder.center_threshold, flip, name="find_centers")
    rows, columns, scores = centers(heatmap)
    offsets = []
    start = 0
    for size in weights["sizes"]:
        part = branches_of_size(weights, size)
        branches, channels, outputs = part["final_kernel"].shape
        padded = padded_channels(channels)
        end = start + branches * channels
        enter = [_pad_branches(each[..., start:end], branches, padded) for each in entrance]
        blocks = sum(name.startswith("kernel") for name in part)
        sparse = SparseOffsetHead(
            branches,
            padded,
            outputs,
            blocks,
            int(weights["dilation"]),
            dtype="float32",
            name=f"sparse_offset_g{size}",
        )
        offsets.append(sparse(_transition(features, *enter, f"sparse_transition_g{size}"), rows, columns))
        sparse.load(part)
        start = end
    offset = keras.layers.Concatenate(name="offset_branches")(offsets) if len(offsets) > 1 else offsets[0]
    if list(weights["order"]) != sorted(weights["order"]):
        offset = OrderKeypoints(weights["order"].tolist(), dtype="float32", name="offset_order")(offset)
    poses = ReadPoses(schema.flip_indices if flip else None, name="read_poses")
    outputs = poses(heatmap, offset, rows, columns, scores)
    if heatmap_output:
        if flip:
            plain, mirrored = ops.split(heatmap, 2, axis=0)
            mirrored = ops.take(ops.flip(mirrored, axis=2), [*schema.flip_indices, len(schema)], axis=3)
            heatmap = (plain + mirrored) / 2.0
        outputs = {**outputs, "heatmap": heatmap}
    return keras.Model(image, outputs, name="dekr_poses")


def _fold_maps(model, fusible):
    """The network from the image to the heatmap and the backbone's branches, batch normalisation folded."""
    head, heatmap = (model.get_layer(name) for name in ("heatmap_transition_relu", "heatmap"))
    image = keras.Input(model.input.shape[1:], name="image")
    branches = _fold(model, model.input, backbone_branches(model), fusible)(image)
    entered = _transition(branches, *_fold_batch_norm(model, "heatmap_transition"), "heatmap_transition")
    heatmap = _fold(model, head.output, heatmap.output, fusible)(entered)
    return keras.Model(image, [heatmap, *branches], name="maps")


def backbone_branches(model: keras.Model) -> list[keras.KerasTensor]:
    """Where the backbone ends in a model of `build_dekr`, symbolic.

    HRNet's branches at strides 4, 8, 16 and 32; of a pyramid the one map at stride 4.
    """
    features = model.get_layer("features")
    if not isinstance(features.input, list):
        return [features.input]
    return [features.input[0], *(model.get_layer(f"features_{i}").input for i in range(1, len(features.input)))]


def _fold(model, inputs, outputs, fusible):
    """A copy of a part of the model, batch normalisation folded into the convolutions.

    Unless it is to be `fusible`, what a convolution with a bias gives is not added to something else, but its negative
    subtracted: TensorFlow makes one oneDNN kernel of convolution, bias and addition, and that kernel (2.21) keeps the
    other summand's memory in itself, so that calls of several threads overwrite each other's maps, or freed memory.
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
        return layer(*args, **kwargs)

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
            kernel, bias = _fold_batch_norm(model, layer.name.removesuffix("_conv"))
            layer.set_weights([-kernel, -bias] if norm_of(layer) in negated else [kernel, bias])
        elif layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return part


def _transition(branches, kernel, bias, name):
    """A 1x1 convolution and ReLU of the backbone's branches, enlarged to one size and side by side.

    Enlarging works on each channel alone and the convolution on each cell, so they may change places: the branches are
    convolved while they are small, and the results enlarged and added.

    Args:
        branches: (B, h / 2^i, w / 2^i, C_i).
        kernel: (1, 1, sum of C_i, F).
        bias: (F,).
        name: of the layers.
    """
    terms = []
    start = 0
    for index, branch in enumerate(branches):
        end = start + branch.shape[-1]
        # The bias is not with the branch that is added as it is: see `_fold`.
        biased = index == min(1, len(branches) - 1)
        conv = keras.layers.Conv2D(len(bias), 1, use_bias=biased, dtype="float32", name=f"{name}_{index}")
        term = conv(branch)
        conv.set_weights([kernel[:, :, start:end], bias] if biased else [kernel[:, :, start:end]])
        enlarge = Enlarge(2**index, "bilinear", dtype="float32", name=f"{name}_{index}_enlarge")
        terms.append(enlarge(term) if index else term)
        start = end
    total = keras.layers.Add(name=f"{name}_add")(terms) if len(terms) > 1 else terms[0]
    return keras.layers.ReLU(name=f"{name}_relu")(total)


def fold_offset_head(model: keras.Model) -> dict[str, np.ndarray]:
    """The offset head's weights after its transition, batch normalisation folded into the convolutions.

    Args:
        model: of `build_dekr`.

    Returns:
        What `inference.sparse_head.sparse_offsets` takes. For the G branches of k keypoints and C channels, float32
        under `branches{k}/`: `kernel{i}` (G, 9, C, C), `bias{i}` (G, C) and, of adaptive blocks, `offset_kernel{i}`
        (G, 9, C, 6), `offset_bias{i}` (G, 6) of each block i; `final_kernel` (G, C, 2 k), `final_bias` (G, 2 k).
        Besides, int: `sizes`, the ks in the order of the branches' channels; `order`, the keypoint of each pair of
        outputs; `dilation` of plain blocks, zero of adaptive ones.

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
            kernel, bias = _fold_batch_norm(model, name, final.branches)
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
    """Of folded weights, those of the branches of `size` keypoints."""
    prefix = f"branches{size}/"
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _array(variable):
    return ops.convert_to_numpy(variable).astype(np.float64)


def _fold_batch_norm(model, name, branches=None):
    """Kernel and bias of `{name}_conv` followed by `{name}_bn`; with `branches`, by branch: (G, ..., F) and (G, F)."""
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


def _pad_branches(array, branches, padded):
    """(..., G C) -> (..., G padded), zeros behind the channels of each branch."""
    split = array.reshape(*array.shape[:-1], branches, -1)
    split = np.pad(split, [(0, 0)] * (split.ndim - 1) + [(0, padded - split.shape[-1])])
    return split.reshape(*array.shape[:-1], branches * padded)


@keras.saving.register_keras_serializable("dekr_tf")
class AppendMirrored(keras.layers.Layer):
    """Images (B, H, W, 3) and, behind them, their mirrored copies: (2 B, H, W, 3).

    The copies are shifted left by the stride minus one, so that their cells fall on the same pixels; the columns that
    this leaves over repeat what they held (`inference.decoder.mirror_input`).
    """

    def call(self, images):
        shift = OUTPUT_STRIDE - 1
        mirrored = ops.flip(images, axis=2)
        mirrored = ops.concatenate([mirrored[:, :, shift:], mirrored[:, :, -shift:]], axis=2)
        return ops.concatenate([images, mirrored], axis=0)


@keras.saving.register_keras_serializable("dekr_tf")
class FindCenters(keras.layers.Layer):
    """The best cells of the center map (paper section 3.3; the arithmetic of `inference.decoder.find_centers`).

    Args:
        max_people: N.
        threshold: a center must be above it.
        mirrored: the second half of the batch are the maps of mirrored images, to be averaged with the first half.

    Input: heatmap (B, h, w, K + 1). Output: rows and columns, float32 whole numbers (B, N), and scores (B or B / 2,
    N), highest first, zero where there are no more. Cells for mirrored maps are mirrored.
    """

    def __init__(self, max_people, threshold, mirrored=False, **kwargs):
        super().__init__(**kwargs)
        self.max_people = max_people
        self.threshold = threshold
        self.mirrored = mirrored

    def call(self, heatmap):
        center_map = heatmap[..., -1:]
        if self.mirrored:
            plain, other = ops.split(center_map, 2, axis=0)
            center_map = (plain + ops.flip(other, axis=2)) / 2.0
        images, height, width, _ = ops.shape(center_map)
        scores = ops.where(center_map == _pool(center_map), center_map, self.threshold)
        scores = ops.reshape(scores, (images, height * width))
        # A small map may have fewer cells than people are asked for.
        scores = ops.pad(scores, ((0, 0), (0, self.max_people)), constant_values=self.threshold)
        scores, cells = ops.top_k(scores, self.max_people)
        found = scores > self.threshold
        cells = ops.where(found, ops.cast(cells, "int32"), 0)
        rows = ops.floor_divide(cells, width)
        columns = ops.cast(cells - rows * width, "float32")
        rows = ops.cast(rows, "float32")
        if self.mirrored:
            rows = ops.concatenate([rows, rows], axis=0)
            columns = ops.concatenate([columns, ops.cast(width - 1, "float32") - columns], axis=0)
        return rows, columns, ops.where(found, scores, 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "max_people": self.max_people,
            "threshold": self.threshold,
            "mirrored": self.mirrored,
        }


def _pool(center_map):
    """The highest value around each cell of (B, h, w, 1): of 3x3 cells, more on large maps."""
    _, height, width, _ = ops.shape(center_map)
    pooled = _highest_of_nine(center_map)
    for sides in (400, 600):
        larger = height + width > sides
        if isinstance(larger, bool):
            pooled = _highest_of_nine(pooled) if larger else pooled
        else:
            pooled = ops.where(larger, _highest_of_nine(pooled), pooled)
    return pooled


def _highest_of_nine(center_map):
    return ops.max_pool(center_map, 3, 1, "same", data_format="channels_last")


@keras.saving.register_keras_serializable("dekr_tf")
class ReadPoses(keras.layers.Layer):
    """From offsets at the centers to keypoints and scores (arithmetic of `inference.decoder`).

    Args:
        flip_indices: with flip test, the K keypoints that mirrored ones become; then the second half of heatmap,
            offset, rows and columns is that of mirrored images.

    Input: heatmap (B, h, w, K + 1), offset (B, N, 2 K), rows, columns and center scores (B, N), zero where there is no
    center. Output: dict of `keypoints`, `keypoint_scores` and `center_scores`, see `build_pose_model`.
    """

    def __init__(self, flip_indices=None, **kwargs):
        super().__init__(**kwargs)
        self.flip_indices = None if flip_indices is None else list(flip_indices)

    def call(self, heatmap, offset, rows, columns, scores):
        images, _, width, channels = ops.shape(heatmap)
        people, count = ops.shape(rows)[1], channels - 1
        offset = ops.reshape(offset, (images, people * count, 2))
        cells = ops.stack([columns, rows], axis=-1)
        cells = ops.reshape(ops.repeat(cells, count, axis=1), (images, people * count, 2))
        x, y = ops.split(cells - offset, 2, axis=-1)
        x, y = (ops.reshape(each, (images, people, count)) for each in (x, y))
        if self.flip_indices is not None:
            (x, other_x), (y, other_y) = ops.split(x, 2, axis=0), ops.split(y, 2, axis=0)
            other_x, other_y = (ops.take(each, self.flip_indices, axis=2) for each in (other_x, other_y))
            x = (x + (ops.cast(width - 1, "float32") - other_x)) / 2.0
            y = (y + other_y) / 2.0
        x, y = x * float(OUTPUT_STRIDE), y * float(OUTPUT_STRIDE)
        heat = self._heat_values(heatmap, x, y)
        found = scores[..., None]
        keypoints = ops.where(found[..., None] == 0.0, 0.0, ops.stack([x, y], axis=-1))
        return {"keypoints": keypoints, "keypoint_scores": found * heat, "center_scores": scores}

    def _heat_values(self, heatmap, x, y):
        """The heatmap's value at keypoints x, y (B, N, K) in input pixels, of their four cells."""
        images, height, width, channels = ops.shape(heatmap)
        values = ops.reshape(heatmap, (images * height * width * channels, 1))
        top, bottom, fraction_y = _cells_about(y, height)
        left, right, fraction_x = _cells_about(x, width)
        sources = [(0, list(range(channels - 1)), False)]
        if self.flip_indices is not None:
            images = images // 2
            sources.append((images, self.flip_indices, True))
        total = 0.0
        for first_image, keypoint_channels, mirrored in sources:
            first = (ops.arange(images, dtype="int32") + first_image) * (height * width * channels)
            first = first[:, None, None] + ops.convert_to_tensor(keypoint_channels, "int32")

            def read(row, column, first=first, mirrored=mirrored):
                column = width - 1 - column if mirrored else column
                index = (row * width + column) * channels + first
                return ops.reshape(gather_rows(values, ops.reshape(index, (-1,))), ops.shape(index))

            above = read(top, left) * (1.0 - fraction_x) + read(top, right) * fraction_x
            below = read(bottom, left) * (1.0 - fraction_x) + read(bottom, right) * fraction_x
            total = total + above * (1.0 - fraction_y) + below * fraction_y
        return total / float(len(sources))

    def compute_output_shape(self, heatmap_shape, offset_shape, rows_shape, columns_shape, scores_shape):
        count = heatmap_shape[-1] - 1
        return {
            "keypoints": (*scores_shape, count, 2),
            "keypoint_scores": (*scores_shape, count),
            "center_scores": scores_shape,
        }

    def get_config(self):
        return {**super().get_config(), "flip_indices": self.flip_indices}


def _cells_about(position, cells):
    """The cell before and the cell behind the pixel of a position, int32, and how far between them the pixel is.

    Args:
        position: x or y in input pixels, (B, N, K).
        cells: columns or rows of the map.
    """
    stride = float(OUTPUT_STRIDE)
    pixel = ops.clip(ops.floor(position), 0.0, ops.cast(cells, "float32") * stride - 1.0)
    cell = ops.floor(pixel / stride)
    before = ops.cast(cell, "int32")
    return before, ops.minimum(before + 1, cells - 1), pixel / stride - cell
