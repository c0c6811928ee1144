import importlib

import pytest

import dekr_tf
from dekr_tf.cli.main import VERBS, build_parser, main
from dekr_tf.errors import InputError


def exit_code(argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    return stop.value.code


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    assert exit_code([verb, "--help"]) == 0
    output = capsys.readouterr().out
    docstring = importlib.import_module(f"dekr_tf.cli.{verb}_command").__doc__
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
        assert importlib.import_module(f"dekr_tf.cli.{verb}_command").__doc__.splitlines()[0][:30] in output


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


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch):
    with pytest.raises(ValueError, match="shapes differ"):
        run_evaluate(monkeypatch, ValueError("shapes differ"))


def test_an_interrupt_is_said(monkeypatch, capsys):
    assert run_evaluate(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "dekr evaluate: interrupted\n"
