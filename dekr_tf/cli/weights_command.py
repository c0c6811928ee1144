"""List weights, and download public ones.

  dekr weights                      list the weights with source, AP and license, and whether they are here already
  dekr weights get NAME ...         download, check, convert and keep

A name then stands for its file: dekr predict photos/ --model dekr_w32_coco --rescore dekr_w32_coco --flip
and likewise in PoseDetector("dekr_w32_coco") and in training.backbone_weights and training.initial_weights.

An interrupted download resumes where it stopped. A file is kept only if its SHA-256 begins with the digits that its
publisher put into its name. The weights are stored in the platform's cache folder, or in the one that --cache or the
environment variable DEKR_TF_CACHE names; the variable counts for the other verbs too.
The authors' own checkpoints are on a cloud drive, which their page https://github.com/HRNet/DEKR links to: download
them with a browser, and give the files to dekr import.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from dekr_tf.errors import InputError
from dekr_tf.files.inputs import exists
from dekr_tf.weights import PRESET, WEIGHTS, Weights, cache_folder, cached_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("action", nargs="?", choices=("list", "get"), default="list", help="default: list")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the weights to get")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of the weights")


def run(arguments: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        InputError: a name is unknown, or weights cannot be downloaded, checked, converted or written.
    """
    folder = cache_folder(arguments.cache)
    if arguments.action == "list":
        if arguments.names:
            raise InputError(f"expected no names after list. Received: {' '.join(arguments.names)}")
        _list(folder)
        return
    unknown = [name for name in arguments.names if name not in WEIGHTS]
    if unknown or not arguments.names:
        raise InputError(f"expected names among {', '.join(WEIGHTS)}. Received: {', '.join(unknown) or 'none'}")
    for name in arguments.names:
        _get(name, WEIGHTS[name], folder)


def _list(folder):
    print(f"{'name':20}{'here':6}{'kind':15}{'MB':>5}  {'published AP':26}{'license':12}source")
    for name, weights in WEIGHTS.items():
        here = "yes" if exists(cached_file(name, weights.kind, folder)) else "no"
        accuracy = weights.accuracy or "-"
        size = f"{weights.megabytes:5.4g}"
        print(f"{name:20}{here:6}{weights.kind:15}{size}  {accuracy:26}{weights.license:12}{weights.source}")
    print(f"{PRESET} comes with the package, and is used where no model is named.")
    print(f"folder: {folder}")
    print("Sizes are of the downloads, about. The AP is what the source publishes; it has not been measured here.")


def _get(name: str, weights: Weights, folder: Path) -> None:
    """Downloads and converts one set of weights into the folder, unless it is there."""
    from dekr_tf.files.download import download

    output = cached_file(name, weights.kind, folder)
    checkpoint = folder / weights.url.rpartition("/")[2]
    with _lock(folder, name):
        if not exists(output):
            print(f"{name}: {weights.url}", flush=True)
            download(weights.url, checkpoint, weights.sha256)
            try:
                _convert(name, weights, checkpoint, folder)
            finally:
                checkpoint.unlink()
    print(f"{name}: {output}")


@contextlib.contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    """Keeps other processes from downloading the same weights meanwhile."""
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        lock.acquire()
    except OSError as error:
        raise InputError(f"cannot write to the cache folder {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _convert(name, weights, checkpoint, folder):
    from converters.from_torch import import_checkpoint
    from dekr_tf.config import Config, parse_settings
    from dekr_tf.models.files import save_model
    from dekr_tf.sidecar import Sidecar
    from dekr_tf.training.rescoring import to_rescoring_net

    config = parse_settings(Config, weights.settings, f"weights {name}")
    if weights.kind == "rescoring net" or weights.with_rescoring:
        net = import_checkpoint(checkpoint, config, rescoring=True, edges=weights.edges)
        if net.name == "rescoring":
            to_rescoring_net(net, config.schema).save(cached_file(name, "rescoring net", folder))
    if weights.kind != "rescoring net":
        model = import_checkpoint(checkpoint, config)
        # The model comes last: if it is there, so is everything else.
        sidecar = Sidecar.from_config(config) if weights.kind == "network" else None
        save_model(model, cached_file(name, weights.kind, folder), sidecar)
