"""Find people and their keypoints in photos with DEKR; train and evaluate it."""

import argparse
import contextlib
import importlib.util
import os
import platform
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from dekr_tf import __version__
from dekr_tf.errors import DekrError, InputError

T = TypeVar("T")

VERBS = (
    "train",
    "predict",
    "visualize",
    "evaluate",
    "analyze",
    "reproduce",
    "rescore",
    "info",
    "import",
    "weights",
    "export",
    "serve-client",
    "web",
    "benchmark",
    "data",
)

#: The install tier that brings a package; every other package comes with any install.
TIERS = {
    "filelock": "train",
    "keras": "train",
    "matplotlib": "train",
    "pycocotools": "train",
    "tensorboard": "train",
    "tensorflow": "train",
    "litert_quantizer": "export",
    "onnx": "export",
    "onnxruntime": "export",
    "tf2onnx": "export",
    "fsspec": "cluster",
    "ray": "cluster",
    "google": "client",
    "grpc": "client",
    "urllib3": "client",
    "tensorflow_serving": "serving",
    "torch": "torch",
    "jax": "jax",
}


#: The backends of Keras that `dekr train` runs on. Every other verb that needs Keras runs on TensorFlow.
BACKENDS = ("tensorflow", "torch", "jax")


def command_module(verb: str) -> ModuleType:
    """The module of a verb."""
    return importlib.import_module(f"dekr_tf.cli.{verb.replace('-', '_')}_command")


class Parser(argparse.ArgumentParser):
    """Reports errors of the command line in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `dekr`. Each verb module has a docstring, `add_arguments(parser)` and `run(arguments)`."""
    parser = Parser(prog="dekr", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dekr {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        module = command_module(verb)
        subparser = verbs.add_parser(
            verb,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs `dekr`.

    Returns:
        The exit code: 0; 2 for a `DekrError`, a missing package or a failed read or write, reported in one line on
        standard error; 130 and 143 if SIGINT (ctrl-C) or SIGTERM ends the run, after its temporary files are removed;
        141 if nobody reads its output any more.
    """
    # Silences TensorFlow, and FFmpeg inside OpenCV; what fails raises an exception as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        # argparse takes no more words into a list once another positional argument has been read before an option.
        if "overrides" not in arguments or any(word.startswith("-") for word in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        arguments.overrides += rest
    # By itself, SIGTERM would end the program before it can clean up.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with quiet_import("tensorflow"), own_keras_settings(arguments.verb):
            arguments.run(arguments)
        sys.stdout.flush()
    except DekrError as error:
        return _refuse(arguments.verb, str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "dekr_tf", "converters"):
            raise
        tier = f"[{TIERS[package]}]" if package in TIERS else ""
        chosen = package in BACKENDS[1:] and package == os.environ.get("KERAS_BACKEND")
        why = f"KERAS_BACKEND={package}" if chosen else "this"
        # 32-bit ARM has OpenCV from Debian: see setup.py.
        from_debian = package == "cv2" and platform.machine() == "armv7l"
        how = "apt install python3-opencv" if from_debian else f"pip install 'dekr-tf{tier}'"
        return _refuse(arguments.verb, f"{why} needs the package {package}: {how}")
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        _flush_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is not None:
            return _refuse(arguments.verb, f"cannot use {error.filename}: {error.strerror}")
        # Most likely, standard output goes to a file on a full disk.
        _flush_output()
        return _refuse(arguments.verb, f"cannot go on: {error.strerror or error}")
    except UnicodeEncodeError as error:
        # Surrogates are bytes of a file name that are not text, which some libraries refuse.
        if not re.search("[\ud800-\udfff]", error.object):
            raise
        return _refuse(arguments.verb, f"expected file names in UTF-8. Received: {error.object!a}")
    except KeyboardInterrupt as interrupt:
        print(f"dekr {arguments.verb}: interrupted", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def program() -> NoReturn:
    """`main` as a program of its own."""
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text, and a stream's encoding need not have every character.
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def _flush_output() -> None:
    """Drops what standard output does not take, since Python would try to write it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(number, frame):
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def own_keras_settings(verb: str) -> Iterator[None]:
    """Makes Keras start with the settings that the program needs, whatever the user's own `keras.json` says.

    Raises:
        InputError: `KERAS_BACKEND` asks for a backend that cannot train.
    """
    backend = (os.environ.get("KERAS_BACKEND") if verb == "train" else None) or "tensorflow"
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND: expected {', '.join(BACKENDS)}, or nothing. Received: {backend}")
    # The null device contains no keras.json.
    settings = {"KERAS_BACKEND": backend, "KERAS_HOME": os.devnull}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet_import(package: str) -> Iterator[None]:
    """Suppresses what the libraries of `package` print while it is imported, unless that fails.

    TensorFlow's libraries write to file descriptor 2 before any of its settings for messages takes effect.
    """

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != package:
                return None
            sys.meta_path.remove(Finder)
            spec = importlib.util.find_spec(name)
            if spec and spec.loader:
                execute = spec.loader.exec_module
                spec.loader.exec_module = lambda module: hold_standard_error(execute, module)
            return spec

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        if Finder in sys.meta_path:
            sys.meta_path.remove(Finder)


def hold_standard_error(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Calls a function; what reaches file descriptor 2 meanwhile is printed only if a bug makes it fail."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            return call(*arguments, **options)
        except DekrError:
            raise
        except Exception:
            held.seek(0)
            os.write(before, held.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _refuse(verb: str, reason: str) -> int:
    print(f"dekr {verb}: error: {' '.join(reason.split())}", file=sys.stderr)
    return 2
