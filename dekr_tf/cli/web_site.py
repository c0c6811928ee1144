"""The static site of `dekr web`: the page, LiteRT.js and models in one folder."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import dekr_tf
from dekr_tf.errors import InputError
from dekr_tf.files.inputs import exists, is_file, read_json
from dekr_tf.files.outputs import atomic_outputs
from dekr_tf.sidecar import Sidecar, embedded_settings, read_sidecar, sidecar_path
from dekr_tf.weights import cache_folder, resolve

#: Paths in the site for the files of npm packages. The page does not use LiteRT.js's build for operators split between
#: WebGPU and WASM, so it is left out.
LITERT = {
    "@litertjs/core/package.json": "litert/package.json",
    "@litertjs/core/dist/index.js": "litert/core.js",
    "@litertjs/wasm-utils/dist/bundle.js": "litert/wasm-utils.js",
    **{
        f"@litertjs/core/wasm/litert_wasm{build}_internal.{suffix}": f"litert/wasm/litert_wasm{build}_internal.{suffix}"
        for build in ("", "_compat", "_threaded")
        for suffix in ("js", "wasm")
    },
}


def check_models(models: Sequence[Path]) -> dict[str, Path]:
    """The models of a site by their graph.

    Args:
        models: `.tflite` files; a name of weights stands for its file.

    Raises:
        InputError: one of them is not a `.tflite` file of `dekr export` with its settings inside, or two have the same
            graph.
    """
    by_graph = {}
    for path in (Path(resolve(model, "network", exported=True)) for model in models):
        graph = _sidecar_inside(path).artifact.graph
        if graph in by_graph:
            raise InputError(f"expected one model for each graph. Received: {by_graph[graph]} and {path}, both {graph}")
        by_graph[graph] = path
    return by_graph


def write_site(models: dict[str, Path], output: Path) -> None:
    """Writes the site, which appears under its name when it is complete.

    Args:
        models: of `check_models`.
        output: a new or empty folder.

    Raises:
        InputError: the folder cannot be written, or npm cannot install LiteRT.js.
    """
    source = web_folder()
    with atomic_outputs(output, folder=True) as site:
        packages = npm_packages(source)
        shutil.copytree(source / "page", site)
        shutil.copytree(source / "src", site / "dekr-pose", ignore=shutil.ignore_patterns("*.d.ts"))
        for package_file, name in LITERT.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(packages / package_file, site / name)
        for graph, path in models.items():
            (site / "models" / graph).mkdir(parents=True)
            shutil.copyfile(path, site / "models" / graph / path.name)
        listed = [{"graph": graph, "file": path.name} for graph, path in models.items()]
        (site / "models.json").write_text(json.dumps(listed), encoding="utf-8")


def web_folder() -> Path:
    """The folder `web` of the project: inside the package if that is installed, beside it in a checkout."""
    package = Path(dekr_tf.__file__).parent
    return next(folder for folder in (package / "web", package.parent / "web") if (folder / "page").is_dir())


def npm_packages(source: Path) -> Path:
    """The folder with the npm packages that `package-lock.json` names, which npm installs once into the cache.

    Args:
        source: folder with `package.json` and `package-lock.json`, whose checksums npm verifies.

    Raises:
        InputError: npm is missing, or fails.
    """
    lock = source / "package-lock.json"
    folder = cache_folder() / f"web-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not exists(folder):
        npm = shutil.which("npm")
        if npm is None:
            raise InputError("the page needs LiteRT.js, which npm installs: expected npm (on Debian: apt install npm)")
        with atomic_outputs(folder, folder=True) as temporary:
            temporary.mkdir()
            for path in (source / "package.json", lock):
                shutil.copy(path, temporary)
            # This installs peer dependencies, but not those for development.
            command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            run = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
            if run.returncode:
                raise InputError(f"npm cannot install LiteRT.js: {' '.join(run.stderr.split())[:300]}")
    return folder / "node_modules"


def _sidecar_inside(path: Path) -> Sidecar:
    """The settings that the page will read from a model."""
    if not is_file(path) or path.suffix != ".tflite":
        raise InputError(f"expected a .tflite file, which dekr export writes. Received: {path}")
    sidecar = read_sidecar(path)
    beside = sidecar_path(path)
    if exists(beside) and read_json(beside, "sidecar") != embedded_settings(path):
        raise InputError(f"{path}: expected the settings that are inside it, which the page reads. Received: {beside}")
    if sidecar.artifact is None:
        raise InputError(f"{path}: expected a model that dekr export wrote. Received: a sidecar of a Keras model")
    return sidecar
