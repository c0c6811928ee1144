"""The operations that differ between Keras backends: row gather and scatter-add, resizing, compiling a function.

Everything else in layers and models is `keras.ops`.
"""

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    def gather_rows(rows, indices):
        """Rows (N, C) at indices (M,) int32, all legal -> (M, C)."""
        # A plain gather on the first axis: the form that every TensorFlow runtime and delegate knows.
        return tf.gather(rows, indices)

    def scatter_add_rows(rows, indices, updates):
        """Adds updates (M, C) to rows (N, C) at indices (M,) int32, all legal -> (N, C)."""
        return tf.tensor_scatter_nd_add(rows, indices[:, None], updates)

    def resize(images, size, interpolation):
        """Resizes (B, H, W, C) to `size` (height, width), half-pixel centers."""
        # `keras.ops.image.resize` compares the size with numbers, which fails while the size is not known yet.
        return tf.image.resize(images, size, interpolation)

    def compiled(function):
        """`function` compiled with XLA, whatever the graph around it does.

        The loops of the adaptive convolution run several times faster fused, and a fused loop keeps no temporaries.
        """
        return tf.function(function, jit_compile=True, autograph=False)

else:

    def gather_rows(rows, indices):
        """Rows (N, C) at indices (M,) int32, all legal -> (M, C)."""
        return ops.take(rows, indices, axis=0)

    def scatter_add_rows(rows, indices, updates):
        """Adds updates (M, C) to rows (N, C) at indices (M,) int32, all legal -> (N, C)."""
        return rows + ops.segment_sum(updates, indices, num_segments=rows.shape[0])

    def resize(images, size, interpolation):
        """Resizes (B, H, W, C) to `size` (height, width), half-pixel centers."""
        return ops.image.resize(images, size, interpolation=interpolation, data_format="channels_last")

    def compiled(function):
        """`function` itself: the other backends compile the step around it."""
        return function
