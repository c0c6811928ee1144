"""Lets Keras load models with classes of this package after `import dekr_tf` alone, which does not load Keras.

Keras finds such a class by its registered name, and only once its module has been imported. So this module registers
stand-ins under these names when Keras is imported; asked for an object, a stand-in imports the class.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder

#: The module of each class that is registered with Keras.
MODULES = {
    "AdaptiveConv2D": "dekr_tf.layers.adaptive_conv",
    "AppendMirrored": "dekr_tf.layers.append_mirrored",
    "BranchConv2D": "dekr_tf.layers.branch_conv",
    "Upsample": "dekr_tf.layers.resize",
    "EpochSchedule": "dekr_tf.training.schedules",
    "FindCenters": "dekr_tf.layers.find_centers",
    "FusedAdam": "dekr_tf.training.optimizer",
    "FusedBatchNorm": "dekr_tf.layers.batch_norm",
    "OrderKeypoints": "dekr_tf.models.dekr",
    "PoseEstimator": "dekr_tf.training.estimator",
    "PoseNetwork": "dekr_tf.models.dekr",
    "ReadPoses": "dekr_tf.layers.read_poses",
    "ReplicaLossScale": "dekr_tf.training.optimizer",
    "SliceChannels": "dekr_tf.models.dekr",
    "SparseOffsetHead": "dekr_tf.layers.sparse_offset_head",
}


def register_with_keras() -> None:
    """Registers the stand-ins, now or when Keras is imported."""
    if sys.modules.get("keras"):
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


class _KerasFinder(MetaPathFinder):
    """Finds Keras by the other finders, and registers the stand-ins once it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module):
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = execute_and_register
        return spec


def _register():
    import keras

    registered = keras.saving.get_custom_objects()
    for name in MODULES:
        registered.setdefault(f"dekr_tf>{name}", _stand_in(name))


def _stand_in(name):
    class StandIn:
        @classmethod
        def from_config(cls, config):
            # The import puts the class in place of the stand-in.
            return getattr(importlib.import_module(MODULES[name]), name).from_config(config)

    return StandIn
