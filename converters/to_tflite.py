"""TFLite files: builtin operators only, fixed sizes, in float32, float16 and two kinds of int8."""

import contextlib
import io
import logging
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from dekr_tf.errors import InputError
from dekr_tf.processors import available_processors

#: Tensors of the backbone and, except for its last convolution, of a residual heatmap head. Only these are quantized: a
#: heatmap of 256 levels would have plateaus instead of peaks, coordinates in eight bits would be off by pixels, a
#: feature pyramid adds fine details to sums many times as large, and a separable head has little to gain.
QUANTIZED = r"/(stem_|stage\d_|top_|features|heatmap_(transition|u0))"


def signature_names(sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Names of the signatures for sizes (height, width): `512x832` and so on; `serving_default` for a single one."""
    return ["serving_default"] if len(sizes) == 1 else [f"{height}x{width}" for height, width in sizes]


def convert(graph: keras.Model, sizes: Sequence[tuple[int, int]], input_type: str) -> bytes:
    """A float32 TFLite model of a network, for batches of one.

    Args:
        graph: from `image` (B, H, W, 3) to a dict, for any size.
        sizes: (height, width) of the inputs; each has a signature, and all share the weights.
        input_type: of the image, `float32` or `uint8`.

    Raises:
        InputError: the network needs an operator that LiteRT does not have.
    """
    names = signature_names(sizes)
    archive = keras.export.ExportArchive()
    archive.track(graph)
    for name, size in zip(names, sizes, strict=True):
        archive.add_endpoint(name, graph, [tf.TensorSpec((1, *size, 3), input_type, name="image")])
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # Otherwise the weights stay variables, and batch normalization stays a separate operation.
        converter.experimental_enable_resource_variables = False
        try:
            return converter.convert()
        except Exception as error:  # The converter's own class of errors is not public.
            operators = re.findall(r"(?:Select|Custom) ops: (.*)", str(error))
            if not operators:
                raise
            raise InputError(
                f"expected a network of LiteRT's builtin operators. Received: {', '.join(operators)}"
            ) from error


def quantize(model: bytes, precision: str, calibration: Mapping[str, list[dict]]) -> bytes:
    """A float32 TFLite model with smaller weights.

    Args:
        model: of `convert`.
        precision: `float16`: weights of convolutions; `dynamic_int8`: weights of backbone and heatmap head, except for
            depthwise convolutions, with inputs quantized at run time; `int8`: weights and activations of backbone and
            heatmap head, with ranges from `calibration`.
        calibration: for each signature, inputs by name; needed for `int8`.
    """
    from litert_quantizer import calibrator, qtyping, quantizer

    operator = qtyping.TFLOperationName
    work = quantizer.Quantizer(model)
    ranges = None
    if precision == "float16":
        for convolution in (operator.CONV_2D, operator.DEPTHWISE_CONV_2D):
            work.add_weight_only_config(
                ".*",
                convolution,
                num_bits=16,
                granularity=qtyping.QuantGranularity.TENSORWISE,
                algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
            )
    elif precision == "dynamic_int8":
        # XNNPACK has no depthwise convolution that quantizes its input at run time: if quantized, each would leave the
        # delegate (the network then takes 1.7 times as long). They hold a few percent of the weights.
        work.add_dynamic_config(QUANTIZED, operator.CONV_2D, num_bits=8)
    else:
        work.add_static_config(QUANTIZED, operator.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    # The quantizer prints sizes and progress bars, and warns about a debugging mode that it needs and about every
    # weight that two signatures share.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        _no_warnings(),
    ):
        if precision == "int8":
            # The other mode would keep every activation of the network.
            mode = calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED
            ranges = work.calibrate(calibration, num_threads=available_processors(), mode=mode)
        return bytes(work.quantize(ranges).quantized_model)


def embed(path: Path, members: Mapping[str, bytes]) -> None:
    """Appends files to a `.tflite` file as a zip archive, which LiteRT ignores and `unzip` reads."""
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in members.items():
            # `ZipInfo` has a fixed date, so that the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), content)


@contextlib.contextmanager
def _no_warnings():
    # `catch_warnings` has its argument `action` only since Python 3.11.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
