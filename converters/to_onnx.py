"""ONNX files, through tf2onnx."""

from pathlib import Path

import keras
import tensorflow as tf

#: The newest operator set that tf2onnx writes.
OPSET = 18


def write_onnx(graph: keras.Model, size: tuple[int | None, int | None], input_type: str, path: Path) -> None:
    """Writes a network as ONNX, for batches of any number of images.

    Args:
        graph: from `image` (B, H, W, 3) to a dict.
        size: (height, width) of the input; None stands for any.
        input_type: of the image, `float32` or `uint8`.
        path: file to write.
    """
    import onnx
    import tf2onnx

    infer = tf.function(lambda image: graph(image, training=False), autograph=False)
    signature = [tf.TensorSpec((None, *size, 3), input_type, name="image")]
    model, _ = tf2onnx.convert.from_function(infer, input_signature=signature, opset=OPSET)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
