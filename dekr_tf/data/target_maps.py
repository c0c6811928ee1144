"""Target encoder, second half: draws the maps that the network is trained on from the arrays of `target_encoder`.

For a batch, inside the training step. Paper section 4.1; in the reference, lib/dataset/target_generators. Written with
`keras.ops`, in float32 whatever the policy of the model.
"""

from keras import ops

from dekr_tf.config import TargetConfig

#: Least value of a Gaussian's profile on its patch: the product of two is still above zero in float32.
_FAINTEST = 1e-18


def draw_targets(labels, config: TargetConfig):
    """Heatmaps and offset maps with the loss weight of every value.

    Heatmaps hold a Gaussian at each usable keypoint and center, of value exp(-d^2 / (2 sigma^2)) on a patch that
    reaches 3 sigma + 1 beyond it; where patches overlap the larger value counts. Their weight is 1 on patches of the
    same channel and `background_weight` elsewhere, times the mask. With `unlabeled_keypoints: ignore` it is 0 in the
    boxes of people whose keypoint of the channel has no label, except on patches of others. Offset maps are grid minus
    keypoint in map pixels, x then y, where a person wins the cell; their weight is 1 / sqrt(person size). Both are 0
    elsewhere.

    Args:
        labels: from `TargetEncoder`, batched: `cells`, `fractions` (B, P, K + 1, 2), `usable` (B, P, K + 1),
            `offset_weights` (B, P), `wins` (B, P, 2 radius, 2 radius, K), `valid_mask` (B, h, w); to
            ignore unlabeled keypoints also `unlabeled` (B, P, K) and `boxes` (B, P, 4).
        config: the Gaussians, the background's weight and the treatment of unlabeled keypoints.

    Returns:
        float32 maps: `heatmap` and `heatmap_weight` (B, h, w, K + 1), `offset` and `offset_weight` (B, h, w, 2 K).
    """
    cells, fractions = (ops.cast(labels[name], "float32") for name in ("cells", "fractions"))
    mask = ops.cast(labels["valid_mask"], "float32")
    heatmap = _heatmaps(cells, fractions, labels["usable"], mask.shape[1:], config)
    background = config.background_weight
    if config.unlabeled_keypoints == "ignore":
        background = ops.where(_ignored(labels, mask.shape[1:]), 0.0, background)
    weight = ops.where(heatmap > 0, 1.0, background) * mask[..., None]
    offset, offset_weight = _offsets(cells, fractions, labels, ops.shape(mask))
    return {"heatmap": heatmap, "heatmap_weight": weight, "offset": offset, "offset_weight": offset_weight}


def _heatmaps(cells, fractions, usable, map_size, config: TargetConfig):
    height, width = map_size
    num_keypoints = usable.shape[-1] - 1
    sigmas = ops.convert_to_tensor([config.heatmap_sigma] * num_keypoints + [config.center_sigma], "float32")
    # A Gaussian is the product of a row and a column.
    rows = _profiles(cells[..., 0], fractions[..., 0], sigmas, width) * ops.cast(usable, "float32")[..., None]
    columns = _profiles(cells[..., 1], fractions[..., 1], sigmas, height)
    # All people at once would take the memory of 30 heatmaps; the image with the most people ends the loop.
    people = ops.max(ops.sum(ops.cast(ops.any(usable, axis=-1), "int32"), axis=1))

    def draw_person(person, heatmap):
        row, column = ops.take(rows, person, axis=1), ops.take(columns, person, axis=1)
        return ops.maximum(heatmap, row[:, :, None] * column[..., None])

    # Channels come last only in the end: a row of pixels makes longer vectors than the channels of a pixel do.
    empty = ops.zeros((ops.shape(usable)[0], num_keypoints + 1, height, width), "float32")
    return ops.transpose(ops.fori_loop(0, people, draw_person, empty), (0, 2, 3, 1))


def _profiles(cells, fractions, sigmas, length: int):
    """(B, P, K + 1, length): exp(-d^2 / (2 sigma^2)) along one axis, 0 beyond the patch."""
    steps = ops.arange(length, dtype="float32") - cells[..., None]
    fractions, sigmas = fractions[..., None], sigmas[:, None]
    low, high = ops.floor(fractions - 3 * sigmas - 1), ops.ceil(fractions + 3 * sigmas + 2)
    values = ops.exp(-0.5 * ops.square((steps - fractions) / sigmas))
    return ops.where((steps >= low) & (steps < high), ops.maximum(values, _FAINTEST), 0.0)


def _ignored(labels, map_size):
    """(B, h, w, K + 1) bool: inside the box of a person without a label for the channel, never for the center."""
    height, width = map_size
    columns, rows = (
        (labels["boxes"][..., axis, None] <= ops.arange(length, dtype="int32"))
        & (ops.arange(length, dtype="int32") <= labels["boxes"][..., axis + 2, None])
        for axis, length in ((0, width), (1, height))
    )
    inside = ops.cast(rows[..., None] & columns[:, :, None], "float32")
    unlabeled = ops.cast(ops.pad(labels["unlabeled"], ((0, 0), (0, 0), (0, 1))), "float32")
    return ops.einsum("bpyx,bpk->byxk", inside, unlabeled) > 0


def _offsets(cells, fractions, labels, shape):
    batch, height, width = shape
    wins = ops.cast(labels["wins"], "float32")[..., None]
    num_people, side, num_keypoints = wins.shape[1], wins.shape[2], wins.shape[4]
    # Rows and columns of every person's square on the map.
    steps = ops.arange(side, dtype="float32") - side // 2
    columns, rows = (cells[:, :, -1, axis, None] + steps for axis in (0, 1))
    grid = ops.stack(
        [
            ops.broadcast_to(columns[:, :, None, :], (batch, num_people, side, side)),
            ops.broadcast_to(rows[:, :, :, None], (batch, num_people, side, side)),
        ],
        axis=-1,
    )
    points = [values[:, :, None, None, :-1] for values in (cells, fractions)]
    offsets = (grid[..., None, :] - points[0] - points[1]) * wins
    weights = labels["offset_weights"][:, :, None, None, None, None] * wins
    values = ops.concatenate([offsets, weights], axis=-1)
    # Cells beyond the border have no winner, so their zeros may be added anywhere.
    rows, columns = (
        ops.cast(ops.clip(grid[..., axis], 0, length - 1), "int32") for axis, length in ((1, height), (0, width))
    )
    indices = (ops.arange(batch)[:, None, None, None] * height + rows) * width + columns
    # Every value of the maps has at most one winner, so their sum is exact.
    maps = ops.segment_sum(
        ops.reshape(values, (-1, 3 * num_keypoints)), ops.reshape(indices, (-1,)), num_segments=batch * height * width
    )
    maps = ops.reshape(maps, (batch, height, width, num_keypoints, 3))
    offset = ops.reshape(maps[..., :2], (batch, height, width, 2 * num_keypoints))
    weight = ops.repeat(maps[..., 2], 2, axis=-1)
    return offset, weight
