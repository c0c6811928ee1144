"""Metadata and install tiers; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "dekr_tf/__init__.py").read_text(encoding="utf-8")).group(1)

# The build without GPU code exists for one platform only.
TENSORFLOW_CPU = [
    'tensorflow-cpu>=2.20; sys_platform == "linux" and platform_machine == "x86_64"',
    'tensorflow>=2.20; sys_platform != "linux" or platform_machine != "x86_64"',
]
TRAIN = [
    "filelock>=3.12",
    "keras>=3.12,<4",
    "matplotlib>=3.8",
    "platformdirs>=4",
    "pycocotools>=2.0.8",
    "tensorboard>=2.20",
]
CLIENT = ["grpcio>=1.64", "protobuf>=5.28", "urllib3>=2.2"]
EXPORT = ["litert-quantizer>=0.11", "tf2onnx>=1.17", "onnxruntime>=1.20"]

setup(
    name="dekr-tf",
    version=VERSION,
    description="DEKR bottom-up multi-person pose estimation in TensorFlow and Keras 3, for edge deployment",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["dekr_tf*", "converters*"]),
    package_data={"dekr_tf": ["py.typed"]},
    # What a device needs: decoding in NumPy and the LiteRT runtime, no TensorFlow.
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "pydantic>=2.8",
        "pyyaml>=6",
        "tqdm>=4.66",
        'ai-edge-litert>=2.1; platform_machine != "armv7l"',
        # 32-bit Raspberry Pi: the last runtime made for it, which needs the old NumPy.
        'tflite-runtime>=2.14; platform_machine == "armv7l"',
        'numpy<2; platform_machine == "armv7l"',
    ],
    extras_require={
        # `tensorflow` runs on a CPU, and on a GPU whose CUDA libraries are installed.
        "train": [*TRAIN, "tensorflow>=2.20"],
        "train-cpu": [*TRAIN, *TENSORFLOW_CPU],
        "train-gpu": [*TRAIN, "tensorflow[and-cuda]>=2.20"],
        "export": EXPORT,
        # What asks a served model, without TensorFlow.
        "client": CLIENT,
        # TensorFlow Serving's messages, which need TensorFlow. They are made for the package `tensorflow`: beside
        # `tensorflow-cpu`, install them without what they ask for, as the Makefile does.
        "serving": [*CLIENT, "tensorflow-serving-api>=2.20"],
        # For writing the reference's checkpoints. Not part of `dev`, as PyPI's build for Linux brings gigabytes of CUDA
        # libraries; the Makefile installs one without, and tests that need it are skipped where it is missing.
        "torch": ["torch>=2.6"],
        # Another backend of Keras to train on.
        "jax": ["jax>=0.5"],
        "dev": [
            *TRAIN,
            *TENSORFLOW_CPU,
            *EXPORT,
            *CLIENT,
            "hypothesis>=6.100",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
        ],
    },
    entry_points={"console_scripts": ["dekr=dekr_tf.cli.main:program"]},
)
