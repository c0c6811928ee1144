import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

import dekr_tf
from dekr_tf.cli.main import VERBS, build_parser, command_module, main, quiet_import
from dekr_tf.errors import InputError, ServingError, TrainingError
from dekr_tf.files.outputs import atomic_output


def exit_code(argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    return stop.value.code


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    assert exit_code([verb, "--help"]) == 0
    output = capsys.readouterr().out
    docstring = command_module(verb).__doc__
    assert docstring.strip() in output
    assert f"dekr {verb}" in output


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help(verb):
    verbs = next(action for action in build_parser()._actions if action.dest == "verb")
    parsers = [verbs.choices[verb]]
    for parser in parsers:
        for action in parser._actions:
            # A verb may have verbs of its own.
            if isinstance(action.choices, dict):
                parsers.extend(action.choices.values())
            else:
                assert action.help, f"{parser.prog} {action.dest}"


def test_help_lists_the_verbs(capsys):
    assert exit_code(["--help"]) == 0
    output = capsys.readouterr().out
    for verb in VERBS:
        assert command_module(verb).__doc__.splitlines()[0][:30] in output


def test_version(capsys):
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"dekr {dekr_tf.__version__}\n"


@pytest.mark.parametrize("argv", [[], ["fly"], ["--fast"], ["evaluate", "--speed", "2"], ["evaluate"]])
def test_a_command_line_that_does_not_fit_gives_one_line(argv, capsys):
    assert exit_code(argv) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith("dekr")
    assert ": error: " in errors


def run_evaluate(monkeypatch, failure):
    def fail(arguments):
        raise failure

    monkeypatch.setattr("dekr_tf.cli.evaluate_command.run", fail)
    return main(["evaluate", "--results", "a", "--annotations", "b"])


def test_bad_input_gives_one_line(monkeypatch, capsys):
    assert run_evaluate(monkeypatch, InputError("expected a file\nof poses. Received: none")) == 2
    assert capsys.readouterr() == ("", "dekr evaluate: error: expected a file of poses. Received: none\n")


@pytest.mark.parametrize("error", [ServingError("UNAVAILABLE", "no answer"), TrainingError("UNAVAILABLE: no answer")])
def test_other_failures_give_one_line_too(error, monkeypatch, capsys):
    assert run_evaluate(monkeypatch, error) == 2
    assert capsys.readouterr() == ("", "dekr evaluate: error: UNAVAILABLE: no answer\n")


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch):
    with pytest.raises(ValueError, match="shapes differ"):
        run_evaluate(monkeypatch, ValueError("shapes differ"))


def test_an_interrupt_is_said(monkeypatch, capsys):
    assert run_evaluate(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "dekr evaluate: interrupted\n"


def test_a_run_that_is_terminated_cleans_up(tmp_path, monkeypatch, capsys):
    def terminated(arguments):
        with atomic_output(tmp_path / "poses.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("dekr_tf.cli.evaluate_command.run", terminated)
    assert main(["evaluate", "--results", "a", "--annotations", "b"]) == 143
    assert capsys.readouterr().err == "dekr evaluate: interrupted\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_had_enough():
    program = (
        "import sys, dekr_tf.cli.evaluate_command as verb\n"
        "from dekr_tf.cli.main import main\n"
        "verb.run = lambda arguments: print('a', flush=True)\n"
        "sys.exit(main(['evaluate', '--results', 'a', '--annotations', 'b']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("module", "package", "install"),
    [
        ("tensorflow", "tensorflow", "dekr-tf[train]"),
        ("keras.src.ops", "keras", "dekr-tf[train]"),
        ("onnxruntime", "onnxruntime", "dekr-tf[export]"),
        ("jax", "jax", "dekr-tf[jax]"),
        ("cv2", "cv2", "dekr-tf"),
    ],
)
def test_a_missing_package_is_said_with_what_installs_it(monkeypatch, capsys, module, package, install):
    assert run_evaluate(monkeypatch, ModuleNotFoundError(f"No module named {module!r}", name=module)) == 2
    expected = f"dekr evaluate: error: this needs the package {package}: pip install '{install}'\n"
    assert capsys.readouterr() == ("", expected)


def test_opencv_comes_from_debian_on_32_bit_arm(monkeypatch, capsys):
    monkeypatch.setattr("platform.machine", lambda: "armv7l")
    assert run_evaluate(monkeypatch, ModuleNotFoundError("No module named 'cv2'", name="cv2")) == 2
    expected = "dekr evaluate: error: this needs the package cv2: apt install python3-opencv\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize("module", ["dekr_tf.gone", "converters.gone", None])
def test_a_missing_module_of_our_own_is_a_mistake_of_the_program(monkeypatch, module):
    with pytest.raises(ModuleNotFoundError):
        run_evaluate(monkeypatch, ModuleNotFoundError("gone", name=module))


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("pycocotools", ["evaluate", "--results", "a.json", "--annotations", "b.json"]),
        ("keras", ["info", "--config", "a.yaml"]),
        ("tensorflow", ["info", "--config", "a.yaml"]),
    ],
)
def test_a_verb_without_its_package(tmp_path, package, words):
    (tmp_path / "a.yaml").touch()
    program = f"import sys; sys.modules[{package!r}] = None; from dekr_tf.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *words]
    # The folder of the project, since `-c` puts the current one first.
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(dekr_tf.__file__))}
    environment.pop("DEKR_TF_CACHE", None)
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.count("\n") == 1
    assert "'dekr-tf[train]'" in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yaml"]


KERAS_PROGRAM = """
import sys, dekr_tf.cli.main as command_line
verb = command_line.command_module(sys.argv[1])
def show(arguments):
    import keras
    print(keras.backend.backend(), keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon())
verb.run = show
sys.exit(command_line.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "backend", "verb", "expected"),
    [
        ('{"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1}', None, "info", "tensorflow"),
        ('{"backend": "jax"}', None, "train", "tensorflow"),
        ('{"floatx": "float7"}', "", "train", "tensorflow"),
        ("no json", "jax", "info", "tensorflow"),
        ("{}", "torch", "train", "torch"),
    ],
)
def test_the_user_s_settings_of_keras_change_nothing(tmp_path, settings, backend, verb, expected):
    pytest.importorskip(expected)
    (tmp_path / "keras.json").write_text(settings)
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment |= {"KERAS_HOME": str(tmp_path)} | ({} if backend is None else {"KERAS_BACKEND": backend})
    words = [verb, "--config", "a.yaml", *(["--output", "run"] if verb == "train" else [])]
    run = subprocess.run(
        [sys.executable, "-c", KERAS_PROGRAM, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, f"{expected} float32 channels_last 1e-07\n"), run.stderr
    assert (tmp_path / "keras.json").read_text() == settings


def test_a_backend_that_cannot_train(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.yaml").touch()
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    assert main(["train", "--config", str(tmp_path / "a.yaml"), "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "dekr train: error: KERAS_BACKEND: expected tensorflow, torch, jax, or nothing. Received: numpy\n"
    )
    assert os.environ["KERAS_BACKEND"] == "numpy"


def test_a_backend_that_is_not_installed(monkeypatch, capsys):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'jax'", name="jax")

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr("dekr_tf.cli.train_command.run", fail)
    assert main(["train", "--config", "a.yaml", "--output", "run"]) == 2
    assert capsys.readouterr().err == (
        "dekr train: error: KERAS_BACKEND=jax needs the package jax: pip install 'dekr-tf[jax]'\n"
    )


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    """Makes a package that writes to file descriptor 2 while it is imported, and then runs a line."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(line):
        (tmp_path / "noisy_package").mkdir()
        (tmp_path / "noisy_package" / "__init__.py").write_text(f"import os\nos.write(2, b'oneDNN is on\\n')\n{line}\n")

    yield make
    sys.modules.pop("noisy_package", None)


def test_a_quiet_import_prints_nothing(noisy, capfd):
    noisy("VALUE = 3")
    finders = list(sys.meta_path)
    with quiet_import("noisy_package"):
        from noisy_package import VALUE

        assert sys.meta_path == finders
        os.write(2, b"ours\n")
    assert VALUE == 3
    assert capfd.readouterr() == ("", "ours\n")


def test_a_quiet_import_that_fails_prints_all(noisy, capfd):
    noisy("raise ImportError('no libcudart')")
    with pytest.raises(ImportError, match="no libcudart"), quiet_import("noisy_package"):
        importlib.import_module("noisy_package")
    assert capfd.readouterr() == ("", "oneDNN is on\n")


def test_a_quiet_import_of_what_is_not_there(capfd):
    finders = list(sys.meta_path)
    with pytest.raises(ModuleNotFoundError, match="absent_package") as caught, quiet_import("absent_package"):
        importlib.import_module("absent_package")
    assert caught.value.name == "absent_package"
    with quiet_import("absent_package"):
        pass
    assert sys.meta_path == finders
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_system_gives_one_line(monkeypatch, capsys):
    assert run_evaluate(monkeypatch, PermissionError(13, "Permission denied", "photos")) == 2
    assert run_evaluate(monkeypatch, OSError("no HDF5 file")) == 2
    assert capsys.readouterr().err.splitlines() == [
        "dekr evaluate: error: cannot use photos: Permission denied",
        "dekr evaluate: error: cannot go on: no HDF5 file",
    ]


def test_a_name_that_is_no_text_gives_one_line(monkeypatch, capsys):
    assert run_evaluate(monkeypatch, UnicodeEncodeError("utf-8", "stra\udcdfe", 4, 5, "surrogates not allowed")) == 2
    assert capsys.readouterr().err == "dekr evaluate: error: expected file names in UTF-8. Received: 'stra\\udcdfe'\n"
    with pytest.raises(UnicodeEncodeError):
        run_evaluate(monkeypatch, UnicodeEncodeError("ascii", "straße", 4, 5, "ordinal not in range(128)"))


def run_program(line, stdout):
    program = (
        "import os, sys, dekr_tf.cli.evaluate_command as verb\n"
        "from dekr_tf.cli.main import program\n"
        f"verb.run = lambda arguments: {line}\n"
        "sys.argv = ['dekr', 'evaluate', '--results', 'a', '--annotations', 'b']\n"
        "program()"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        [sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, env=environment, check=False
    )


def test_a_stream_that_cannot_print_a_name():
    run = run_program("print('stra\\u00dfe', os.fsdecode(b'stra\\xdfe'))", subprocess.PIPE)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"stra\\xdfe stra\\udcdfe\n", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_standard_output_on_a_full_disk():
    with open("/dev/full", "wb") as full:
        run = run_program("print('a')", full)
    assert (run.returncode, run.stderr) == (2, b"dekr evaluate: error: cannot go on: No space left on device\n")
