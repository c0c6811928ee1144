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
    "pycocotools>=2.0.8",
    "tensorboard>=2.20",
]
CLUSTER = ["fsspec>=2024.6", "ray>=2.60"]
CLIENT = ["grpcio>=1.64", "protobuf>=5.28", "urllib3>=2.2"]
DOCS = ["mkdocs-material>=9.6,<10"]
EXPORT = ["litert-quantizer>=0.11", "tf2onnx>=1.17", "onnxruntime>=1.20"]

setup(
    name="dekr-tf",
    version=VERSION,
    description="DEKR bottom-up multi-person pose estimation in TensorFlow and Keras 3, for edge deployment",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["dekr_tf*", "converters*"]), "dekr_tf.web"],
    # In a checkout the page of `dekr web` lies at the top; `cli.web_site.web_folder` knows both places.
    package_dir={"dekr_tf.web": "web"},
    package_data={"dekr_tf": ["py.typed", "presets/*"], "dekr_tf.web": ["package*.json", "page/*", "src/*"]},
    # For a device: decoding in NumPy and the LiteRT runtime, no TensorFlow.
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "platformdirs>=4",
        "pydantic>=2.8",
        "pyyaml>=6",
        "tqdm>=4.66",
        'ai-edge-litert>=2.1; platform_machine != "armv7l"',
        # 32-bit Raspberry Pi: the last runtime built for it, which needs NumPy 1.
        'tflite-runtime>=2.14; platform_machine == "armv7l"',
        'numpy<2; platform_machine == "armv7l"',
    ],
    extras_require={
        # `tensorflow` runs on a CPU, or on a GPU if the CUDA libraries are installed.
        "train": [*TRAIN, "tensorflow>=2.20"],
        "train-cpu": [*TRAIN, *TENSORFLOW_CPU],
        "train-gpu": [*TRAIN, "tensorflow[and-cuda]>=2.20"],
        "export": EXPORT,
        # Workers that find people in very many photos, and object stores to read these from.
        "cluster": CLUSTER,
        # The client of a served model, without TensorFlow.
        "client": CLIENT,
        # TensorFlow Serving's messages. They depend on the package `tensorflow`: to use them with `tensorflow-cpu`,
        # install them without their dependencies, as the Makefile does.
        "serving": [*CLIENT, "tensorflow-serving-api>=2.20"],
        # For writing the reference's checkpoints. Not part of `dev`, because PyPI's build for Linux has gigabytes of
        # CUDA libraries; the Makefile installs a build without them. Without PyTorch, tests skip what needs it.
        "torch": ["torch>=2.6"],
        # Another backend of Keras to train on.
        "jax": ["jax>=0.5"],
        # The site of `make docs`.
        "docs": DOCS,
        "dev": [
            *TRAIN,
            *TENSORFLOW_CPU,
            *EXPORT,
            *CLIENT,
            *CLUSTER,
            *DOCS,
            "codespell>=2.4",
            "hypothesis>=6.100",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
        ],
    },
    entry_points={"console_scripts": ["dekr=dekr_tf.cli.main:program"]},
)
