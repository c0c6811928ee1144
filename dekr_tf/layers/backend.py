"""What differs between Keras backends: row gathers, upsampling, batch normalization, compiled functions, replicas.

Everything else in layers and models uses `keras.ops`.
"""

import keras
from keras import ops

from dekr_tf.errors import InputError

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    def gather_rows(rows, indices):
        """Rows (N, C) at indices (M,) int32, all legal -> (M, C)."""
        # A plain gather on the first axis: the form that every TensorFlow runtime and delegate knows.
        return tf.gather(rows, indices)

    def scatter_add_rows(rows, indices, updates):
        """Adds updates (M, C) to rows (N, C) at indices (M,) int32, all legal -> (N, C)."""
        return tf.tensor_scatter_nd_add(rows, indices[:, None], updates)

    def upsample(images, factor, interpolation):
        """Upsamples (B, H, W, C): `nearest` by a power of two, or `bilinear` with half-pixel centers by any factor."""

        if interpolation == "bilinear":
            # `keras.ops.image.resize` compares the size with numbers, which fails while the size is not known yet.
            _, height, width, _ = ops.shape(images)
            return tf.image.resize(images, (height * factor, width * factor), interpolation)

        @tf.custom_gradient
        def with_gradient(images):
            upsampled = images
            for _ in range(factor.bit_length() - 1):
                # As fast as nearest-neighbor resizing, which LiteRT's CPU delegate does not take.
                upsampled = tf.nn.depth_to_space(tf.concat([upsampled] * 4, axis=-1), 2)
            return upsampled, lambda upstream: factor**2 * ops.average_pool(upstream, factor, factor)

        return with_gradient(images)

    def normalize_by_batch(x, gamma, beta, epsilon):
        """(B, H, W, C) normalized by its own moments, then times gamma (C,) plus beta (C,).

        Returns:
            That, the mean (C,) and the unbiased variance (C,), both float32.
        """
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.convert_to_tensor(gamma),
            offset=tf.convert_to_tensor(beta),
            mean=[],
            variance=[],
            epsilon=epsilon,
            is_training=True,
        )[:3]

    def room_for(count, largest):
        """A length of at least `count`, one of a few up to `largest`, so that `compiled` functions see few shapes."""
        sizes = [step << power for power in range(7, 28) for step in (2, 3)]
        return ops.minimum(tf.gather(sizes, tf.searchsorted(sizes, [count])[0]), largest)

    def compiled(function):
        """`function` compiled with XLA, even inside a graph that is not.

        The loops of the adaptive convolution run several times faster when fused, and a fused loop keeps no
        temporaries.
        """
        return tf.function(function, jit_compile=True, autograph=False)

    def branch_parts(branches):
        """The number of parts that the branches are computed in.

        On a CPU each branch is one: its maps fit into a core's cache, and TensorFlow runs as many branches at once as
        there are cores. A GPU is faster with all of them together.
        """
        return 1 if tf.config.list_logical_devices("GPU") else branches

    def for_each_branch(function):
        """`function`, whose arrays all have branches as first axis, run once for each of `branch_parts`."""

        def run(*arrays):
            if branch_parts(arrays[0].shape[0]) == 1:
                return function(*arrays)
            results = [
                function(*(each[branch : branch + 1] for each in arrays)) for branch in range(arrays[0].shape[0])
            ]
            return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *results)

        return run

    def replica_count():
        """The number of replicas of `tf.distribute` that share a batch."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    def sum_over_replicas(values):
        """`values`, each summed over the replicas that share a batch; every replica gets the sums."""
        context = tf.distribute.get_replica_context()
        if replica_count() == 1 or context is None:
            return values
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

    def several_machines():
        """Whether the replicas are on more than one machine."""
        return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)

else:

    def gather_rows(rows, indices):
        """Rows (N, C) at indices (M,) int32, all legal -> (M, C)."""
        return ops.take(rows, indices, axis=0)

    def scatter_add_rows(rows, indices, updates):
        """Adds updates (M, C) to rows (N, C) at indices (M,) int32, all legal -> (N, C)."""
        return rows + ops.segment_sum(updates, indices, num_segments=rows.shape[0])

    def upsample(images, factor, interpolation):
        """Upsamples (B, H, W, C): `nearest` by a power of two, or `bilinear` with half-pixel centers by any factor."""
        size = images.shape[1] * factor, images.shape[2] * factor
        return ops.image.resize(images, size, interpolation=interpolation, data_format="channels_last")

    def normalize_by_batch(x, gamma, beta, epsilon):
        """(B, H, W, C) normalized by its own moments, then times gamma (C,) plus beta (C,).

        Returns:
            That, the mean (C,) and the unbiased variance (C,), both float32.
        """
        full = ops.cast(x, "float32")
        mean, variance = ops.moments(full, axes=(0, 1, 2))
        count = ops.size(x) // x.shape[-1]
        outputs = ops.batch_normalization(full, mean, variance, -1, beta, gamma, epsilon)
        return ops.cast(outputs, x.dtype), mean, variance * (count / (count - 1))

    def room_for(count, largest):
        """A length of at least `count`: on JAX `largest`, since compiled steps need lengths known in advance."""
        return largest if keras.backend.backend() == "jax" else max(int(count), 1)

    def compiled(function):
        """`function` itself: the other backends compile the step around it."""
        return function

    def branch_parts(branches):
        """1: the other backends are for accelerators, which are faster with all branches together."""
        return 1

    def for_each_branch(function):
        """`function` itself: the other backends are for accelerators, which are faster with all branches together."""
        return function

    def replica_count():
        """1: only TensorFlow has replicas."""
        return 1

    def sum_over_replicas(values):
        """`values` themselves: only TensorFlow has replicas."""
        return values

    def several_machines():
        """False: only TensorFlow has replicas."""
        return False


def check_keras_settings() -> None:
    """Makes sure that Keras' defaults are those that the networks are written for: channels last, float32.

    Raises:
        InputError: `keras.json` or a call of Keras' functions has set others.
    """
    for name, expected in (("image_data_format", "channels_last"), ("floatx", "float32")):
        received = getattr(keras.config, name)()
        if received != expected:
            raise InputError(f"expected {expected} as {name} of Keras (keras.json). Received: {received}")
