"""The networks that are exported, and the checks before an export."""

import keras
import numpy as np

from converters.final_poses import FinalPoses
from dekr_tf.errors import InputError
from dekr_tf.geometry import COARSEST_STRIDE
from dekr_tf.inference.rescoring import RescoringNet
from dekr_tf.models.pose_model import build_pose_model
from dekr_tf.preprocessing import normalization
from dekr_tf.sidecar import Artifact, Sidecar


def build_graph(
    model: keras.Model, sidecar: Sidecar, *, fusible: bool = False, net: RescoringNet | None = None
) -> keras.Model:
    """The network that `sidecar.artifact` describes, for any image size, with the present weights of `model`.

    Args:
        model: of `build_dekr`.
        sidecar: its settings, with `artifact`.
        fusible: for engines other than TensorFlow, see `build_pose_model`.
        net: rescoring net for final poses.

    Returns:
        A functional model from `image` (B, H, W, 3), normalized float32 or uint8 RGB, to a dict: for the graph `poses`,
        that of `build_pose_model` or, for final poses, that of `final_poses.final_poses`; for `maps`, `heatmap`
        (B, H / 4, W / 4, K + 1) and `features` (B, H / 4, W / 4, C), which enter the branches of the offset head.

    Raises:
        InputError: the model is not one of `build_dekr`.
    """
    artifact = sidecar.artifact
    if artifact.graph == "poses":
        network = build_pose_model(model, sidecar, flip=artifact.flip, fusible=fusible)
        if artifact.final:
            network = keras.Model(network.input, FinalPoses(sidecar, net, name="final_poses")(network.output))
    else:
        names = {"heatmap": "heatmap", "features": "offset_transition_relu"}
        network = keras.Model(model.input, {key: model.get_layer(name).output for key, name in names.items()})
    if artifact.input_type == "float32":
        return network
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    scale, shift = normalization(sidecar.mean, sidecar.std)
    normalize = keras.layers.Rescaling(scale.tolist(), shift.tolist(), name="normalize")
    return keras.Model(image, network(normalize(image)))


def check_export(model: keras.Model, artifact: Artifact, calibrated: bool) -> None:
    """Refuses bad exports before the work.

    Raises:
        InputError: a weight is not finite, a size is not a multiple of 32, int8 has no photos for calibration, or the
            graph ends at the maps but has a flip test or final poses.
    """
    for height, width in artifact.input_sizes:
        if height % COARSEST_STRIDE or width % COARSEST_STRIDE:
            raise InputError(f"input size: expected multiples of {COARSEST_STRIDE} pixels. Received: {height}x{width}")
    if artifact.precision == "int8" and not calibrated:
        raise InputError("int8 needs --calibration: photos such as the model will see")
    if artifact.final and artifact.graph == "maps":
        raise InputError("the graph maps cannot contain final poses; the program that reads the maps finds them")
    if artifact.flip and artifact.graph == "maps":
        raise InputError("the graph maps cannot contain a flip test; the program that reads the maps runs it")
    for variable in model.weights:
        values = keras.ops.convert_to_numpy(variable)
        if not np.isfinite(values).all():
            wrong = np.count_nonzero(~np.isfinite(values))
            raise InputError(f"weights {variable.path}: expected finite values. Received: {wrong} that are not")
