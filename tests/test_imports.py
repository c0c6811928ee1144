"""Which room may import which, and that what a device needs loads no TensorFlow."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dekr_tf"
FOUNDATION = {
    "config",
    "errors",
    "geometry",
    "keypoints",
    "oks",
    "poses",
    "preprocessing",
    "processors",
    "registration",
    "sidecar",
    "weights",
}
#: What each room may import besides itself and the foundation. `files` is the ground that the foundation stands on, and
#: every room may use it.
ALLOWED = {
    "files": set(),
    "foundation": set(),
    "serving": set(),
    "layers": set(),
    "models": {"layers"},
    "data": set(),
    "inference": set(),
    "evaluation": set(),
    "visualization": set(),
    "training": {"layers", "models", "data", "inference", "evaluation", "visualization"},
    "converters": {"layers", "models", "data", "inference", "evaluation", "training"},
    "cli": {
        "serving",
        "layers",
        "models",
        "data",
        "inference",
        "evaluation",
        "visualization",
        "training",
        "converters",
    },
}
#: Inside functions only: the Keras engine needs the classes of a model's layers when it loads one, and an estimator
#: exports itself.
ALLOWED_LATE = {"inference": {"layers", "models"}, "training": {"converters"}}
#: What must load where there is no TensorFlow.
LIGHT = ("files", "serving", "inference", "evaluation", "visualization", "cli")
#: Modules of other rooms that must, too.
LIGHT_MODULES = ("dekr_tf.data.samples",)


def files_of(room):
    if room == "foundation":
        return sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__main__")
    return sorted((ROOT / room if room == "converters" else PACKAGE / room).rglob("*.py"))


def parsed(path):
    """The syntax tree of a file without what only type checkers read."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node):
            return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    return Drop().visit(ast.parse(path.read_text(encoding="utf-8")))


def imported_rooms(tree):
    """Rooms that a syntax tree imports; `import dekr_tf` alone gives none."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: expected an absolute import"
            names = [node.module] if node.module not in (None, "dekr_tf") else [f"dekr_tf.{a.name}" for a in node.names]
        else:
            continue
        for package, *rest in (name.split(".") for name in names):
            if package == "converters":
                rooms.add(package)
            elif package == "dekr_tf" and rest and rest[0] != "__version__":
                rooms.add(rest[0])
    return rooms


def imported_modules(path):
    """Names of modules that a file imports, and of what it imports from them, which may be modules."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def without_functions(tree):
    """The part of a module that runs when it is imported."""

    class Drop(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Drop().visit(tree)


def test_every_room_has_its_rule():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms | {"foundation", "converters"} == set(ALLOWED)
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"} == FOUNDATION


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_one_way(room):
    for path in files_of(room):
        early = imported_rooms(without_functions(parsed(path)))
        late = imported_rooms(parsed(path)) - early
        allowed = FOUNDATION | {"files", room} | ALLOWED[room]
        assert early <= allowed, f"{path.relative_to(ROOT)} imports {early - allowed}"
        allowed = allowed | ALLOWED_LATE.get(room, set())
        assert late <= allowed, f"{path.relative_to(ROOT)} imports {late - allowed} inside a function"


def test_no_modules_import_each_other():
    """Neither when they are imported nor later, however long the way around."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ALLOWED
        for path in files_of(room)
    }
    imported = {name: imported_modules(path) & paths.keys() - {name} for name, path in paths.items()}
    while imported:
        free = {name for name, others in imported.items() if not others & imported.keys()}
        assert free, f"circles among {sorted(imported)}"
        imported = {name: others for name, others in imported.items() if name not in free}


def test_what_a_device_needs_loads_no_tensorflow():
    names = ["dekr_tf", *(f"dekr_tf.{name}" for name in sorted(FOUNDATION)), *LIGHT_MODULES]
    for room in LIGHT:
        paths = [path.relative_to(ROOT).with_suffix("") for path in files_of(room) if path.stem != "__init__"]
        names += [".".join(path.parts) for path in paths]
    program = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, json.dumps(names)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    loaded = set(json.loads(run.stdout))
    assert {"dekr_tf", "numpy"} <= loaded
    assert not loaded & {"tensorflow", "keras", "torch", "jax"}
