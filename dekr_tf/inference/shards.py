"""Very many photos: workers on Ray find the people shard by shard, and the same call continues a stopped run.

Ray starts the workers, on this machine or on a cluster, gives each a shard at a time, and restarts a worker that died,
with the shard that it had. It is imported only when a run begins; so is fsspec, which reads object stores.
"""

import contextlib
import glob
import hashlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from dekr_tf import __version__
from dekr_tf.config import Config
from dekr_tf.errors import InputError, WorkerError
from dekr_tf.files.images import SUFFIXES, decode_image, find_images, read_image
from dekr_tf.files.inputs import exists, is_file, read_json
from dekr_tf.files.outputs import check_outputs, write_text
from dekr_tf.inference.detector import PoseDetector
from dekr_tf.inference.open_model import model_files
from dekr_tf.processors import available_processors
from dekr_tf.sidecar import Sidecar
from dekr_tf.weights import resolve

#: Photos per shard. A worker that dies, or a run that is stopped, loses its results for an unfinished shard.
SHARD_SIZE = 500
#: The file that records what the shards in its folder were made from.
MANIFEST = "manifest.json"
#: Suffix of a file that lists photos.
LIST_SUFFIX = ".txt"
#: How often Ray gives a shard to a new worker before the run ends. While a worker starts, one death may cost two tries.
RETRIES = 8


def list_photos(sources: Iterable[str | os.PathLike]) -> list[str]:
    """The photos that files, folders, patterns and lists stand for, on this machine or in object stores.

    Args:
        sources: each as for `files.images.find_images`; or such an address with a protocol that fsspec knows, as
            `s3://bucket/photos/` or `s3://bucket/*.jpg`; or a `.txt` file with a path or an address in each line. A
            photo in a list need not exist.

    Returns:
        Paths and addresses, each once: in the order of the sources, those of a list in its order, others sorted.

    Raises:
        InputError: a source stands for no photo or cannot be read, or the package for a protocol is not installed.
    """
    photos: dict[str, None] = {}
    for source in map(os.fspath, sources):
        if source.lower().endswith(LIST_SUFFIX):
            found = _listed(source)
        elif _is_address(source):
            found = _stored(source)
        else:
            found = [path.as_posix() for path in find_images([source])]
        if not found:
            raise InputError(f"expected an image file, a folder of images, a pattern or a list. Received: {source}")
        photos.update(dict.fromkeys(found))
    _check_protocols(photos)
    return list(photos)


def label_photos(
    detector: PoseDetector, photos: Iterable[str], folder: str = ""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Finds the people in each photo.

    Args:
        detector: of any model.
        photos: paths and addresses, see `list_photos`.
        folder: that paths are relative to. Default: the current one.

    Returns:
        For each photo that can be used, `file_name` and `poses`, entries of `Poses.to_coco`, best first; and for each
        other photo `file_name` and `reason`.
    """
    found, bad = [], []
    for photo in photos:
        try:
            poses = detector(_read_photo(photo, folder))
        except InputError as error:
            bad.append({"file_name": photo, "reason": " ".join(str(error).split())})
        else:
            found.append({"file_name": photo, "poses": poses.to_coco()})
    return found, bad


def predict_shards(
    photos: Sequence[str],
    folder: str | os.PathLike,
    model: str | os.PathLike,
    *,
    workers: int | None = None,
    shard_size: int = SHARD_SIZE,
    config: Config | None = None,
    rescore: str | os.PathLike | None = None,
    **options: Any,
) -> int:
    """Finds the people in very many photos, with workers that Ray runs, and writes them in shards.

    The folder gets, for shard 3 of 12 (the first is 0), `poses-00003-of-00012.jsonl` and, if some of its photos cannot
    be used, `bad-00003-of-00012.jsonl`: each photo has one line in one of the two, as `label_photos` returns it, in the
    order of `photos`. A shard is written whole or not at all. `manifest.json` records what the shards were made from.
    The same call makes the missing ones.

    Ray starts on this machine, or joins the cluster that the environment variable `RAY_ADDRESS` names, unless the
    program already runs it. All machines must find the model and the photos under the same paths.

    Args:
        photos: of `list_photos`.
        folder: see above.
        model: path of a model file or a name, as for `PoseDetector`. Each worker opens it once.
        workers: processes at once. Default: one for each processor of the machine or the cluster. They share the
            processors equally, as threads of their engines.
        shard_size: photos per shard.
        config: of the experiment, for a model file without settings.
        rescore: path or name of a rescoring net.
        options: other options of `PoseDetector` that are JSON values: `input_size`, `flip`, `dense`, `scales`, `match`
            and `nms_threshold`.

    Returns:
        How many of the photos cannot be used.

    Raises:
        InputError: the folder has shards of other photos or settings, or other files; it cannot be written; the model
            cannot be opened; a number is not positive; or there are more workers than processors.
        WorkerError: Ray lost the workers of a shard again and again, or cannot start them.
    """
    # A missing package is reported before anything is written.
    importlib.import_module("ray")
    for name, value in (("workers", workers), ("shard size", shard_size)):
        if value is not None and value < 1:
            raise InputError(f"{name}: expected 1 or more. Received: {value}")
    folder = Path(folder)
    check_outputs([folder / MANIFEST], [*model_files(model), rescore])
    manifest = {
        "dekr_tf": __version__,
        # Relative paths mean other photos elsewhere.
        "photos": _digest(os.fsencode(each if _is_address(each) else os.path.abspath(each)) for each in photos),
        "shard_size": shard_size,
        "model": _digest(path.read_bytes() for path in model_files(model) if is_file(path)),
        "config": Sidecar.from_config(config).model_dump(mode="json") if config else None,
        "rescore": _digest([Path(resolve(rescore, "rescoring net")).read_bytes()]) if rescore else None,
        **options,
    }
    _check_manifest(folder, manifest)
    shards = [photos[start : start + shard_size] for start in range(0, len(photos), shard_size)]
    names = [f"{number:05}-of-{len(shards):05}.jsonl" for number in range(len(shards))]
    missing = [number for number, name in enumerate(names) if not exists(folder / f"poses-{name}")]
    if missing:
        options |= {"config": config, "rescore": _anywhere(rescore) if rescore else None}
        with (
            _ray(workers) as ours,
            _errors_of_workers(),
            _start_workers(workers, len(missing), _anywhere(model), options, ours) as pool,
            _progress(shards, missing) as progress,
        ):
            write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            for number, found, bad in _labeled(pool, {number: shards[number] for number in missing}):
                # A shard counts as finished once its poses are there, so they come last.
                (folder / f"bad-{names[number]}").unlink(missing_ok=True)
                if bad:
                    write_text(folder / f"bad-{names[number]}", bad)
                write_text(folder / f"poses-{names[number]}", found)
                progress.update(len(shards[number]))
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("bad-*.jsonl"))


class _Worker:
    """Finds people in a separate process.

    Args:
        model: see `predict_shards`.
        folder: that paths of photos are relative to.
        options: of `PoseDetector`.
    """

    def __init__(self, model: str, folder: str, options: dict[str, Any]):
        self._model, self._folder, self._options = model, folder, options

    @cached_property
    def _detector(self) -> PoseDetector:
        threads = self._options["threads"]
        cv2.setNumThreads(threads)
        # TensorFlow reads these when it is imported, which the detector does if it needs it.
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)
        return PoseDetector(self._model, **self._options)

    def open(self) -> None:
        """Opens the model. In the constructor, Ray would turn its error into one of its own."""
        _ = self._detector

    def label(self, number: int, photos: Sequence[str]) -> tuple[int, str, str]:
        """The number of a shard, and the two results of `label_photos` for its photos, as lines of JSON."""
        found, bad = label_photos(self._detector, photos, self._folder)
        return number, _lines(found), _lines(bad)


@contextlib.contextmanager
def _start_workers(
    workers: int | None, shards: int, model: str, options: dict[str, Any], ours: bool
) -> Iterator[list[Any]]:
    """Yields Ray actors that have opened the model, at most one per shard; they divide the processors equally."""
    import ray

    # Of the machine or the cluster that Ray runs on.
    processors = int(ray.cluster_resources()["CPU"])
    count = min(workers or processors, shards)
    if count > processors:
        raise InputError(f"workers: expected at most {processors}, one for each processor. Received: {workers}")
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES, scheduling_strategy="SPREAD")(_Worker)
    options = {**options, "threads": processors // count}
    pool = [actor.remote(model, os.getcwd(), options) for _ in range(count)]
    try:
        for opened in [worker.open.remote().future() for worker in pool]:
            opened.result()
        yield pool
    finally:
        # With our own Ray, they end along with it, and without Ray's messages.
        for worker in [] if ours else pool:
            ray.kill(worker)


def _labeled(pool: Sequence[Any], shards: Mapping[int, Sequence[str]]) -> Iterator[tuple[int, str, str]]:
    """Gives each worker a shard at a time, and yields their results as they come.

    `ray.get`, and with it Ray's `ActorPool`, would turn every signal that ends the program into an interrupt.
    """
    free, waiting, running = list(pool), iter(shards.items()), {}
    while True:
        for worker, shard in zip(free, waiting, strict=False):
            running[worker.label.remote(*shard).future()] = worker
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        free = [running.pop(each) for each in done]
        yield from (each.result() for each in done)


@contextlib.contextmanager
def _ray(workers: int | None) -> Iterator[bool]:
    """Starts Ray, or uses the one that the program already runs; yields whether it is ours."""
    import ray

    if ray.is_initialized():
        yield False
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = {"num_cpus": max(workers or 1, available_processors()), "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **(local if address == "local" else {}))
    except Exception as error:  # Ray raises many kinds, and plain `Exception` if a loaded machine takes too long.
        ray.shutdown()
        raise WorkerError(f"cannot start Ray, or join that at {address}: {_line(error)}") from error
    try:
        # Ray replaces the handler.
        if signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)
        yield True
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Turns Ray's errors into ours."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error, InputError):
            raise InputError(str(error.cause)) from error
        raise
    except RayError as error:
        raise WorkerError(f"workers cannot go on, but the same call continues. {_line(error)}") from error


def _progress(shards: Sequence[Sequence[str]], missing: Sequence[int]) -> tqdm:
    total = sum(map(len, shards))
    made = total - sum(len(shards[number]) for number in missing)
    return tqdm(total=total, initial=made, unit="photo", disable=not sys.stderr.isatty())


def _check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises InputError if a folder has other files than shards of the same photos and settings."""
    if exists(folder / MANIFEST):
        written, expected = read_json(folder / MANIFEST, "manifest"), json.loads(json.dumps(manifest))
        if not isinstance(written, dict):
            raise InputError(f"manifest {folder / MANIFEST}: expected a mapping. Received: {written}")
        others = [key for key in {**expected, **written} if expected.get(key) != written.get(key)]
        if others:
            raise InputError(
                f"expected the photos and settings that {folder / MANIFEST} was written for, or another folder. "
                f"Received: another {', '.join(others)}"
            )
    elif exists(folder) and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"expected a new or empty folder, or one with a {MANIFEST}. Received: {folder}")


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()


def _lines(values: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(value)}\n" for value in values)


def _anywhere(source: str | os.PathLike) -> str:
    """A path that is valid in any folder; a name of weights is unchanged."""
    return os.path.abspath(source) if exists(source) else os.fspath(source)


def _is_address(photo: str) -> bool:
    return "://" in photo


def _read_photo(photo: str, folder: str) -> np.ndarray:
    if _is_address(photo):
        return decode_image(_stored_content(photo), photo, exif_orientation=True)
    return read_image(Path(folder, photo), exif_orientation=True)


def _stored_content(address: str) -> bytes:
    import fsspec

    try:
        store, path = fsspec.url_to_fs(address)
        return store.cat_file(path)
    except ImportError:
        # A missing package would make all photos bad.
        raise
    except Exception as error:  # Every store has its own exceptions.
        raise InputError(f"cannot read {address}: {_reason(error)}") from error


def _stored(source: str) -> list[str]:
    """The addresses of the photos that an address of an object store stands for."""
    import fsspec

    try:
        store, path = fsspec.url_to_fs(source)
        if glob.has_magic(path):
            found = [each for each, info in store.glob(path, detail=True).items() if info["type"] == "file"]
        elif store.isdir(path):
            files = [info["name"] for info in store.ls(path, detail=True) if info["type"] == "file"]
            found = [each for each in files if os.path.splitext(each)[1].lower() in SUFFIXES]
        else:
            found = [path] if store.exists(path) else []
        return sorted(map(store.unstrip_protocol, found))
    except Exception as error:
        raise InputError(f"cannot read {source}: {_reason(error)}") from error


def _listed(source: str) -> list[str]:
    """The lines of a list."""
    try:
        content = _stored_content(source) if _is_address(source) else Path(source).read_bytes()
    except (OSError, ImportError) as error:
        raise InputError(f"cannot read {source}: {_reason(error)}") from error
    # A name need not be text.
    lines = content.decode("utf-8-sig", "surrogateescape").split("\n")
    return [line for line in (each.rstrip("\r") for each in lines) if line]


def _check_protocols(photos: Iterable[str]) -> None:
    """Raises InputError if no installed package reads one of the addresses."""
    protocols = sorted({photo.partition("://")[0] for photo in photos if _is_address(photo)})
    for protocol in protocols:
        import fsspec

        try:
            fsspec.get_filesystem_class(protocol.rpartition("::")[2])
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot read addresses with {protocol}://: {error}") from error


def _line(error: Exception) -> str:
    text = "".join(each if each.isprintable() else " " for each in str(error))
    return " ".join(text.split())[:300]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__} {error}"
