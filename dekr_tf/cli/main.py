"""Find people and their keypoints in photos with DEKR, train it, and measure it."""

import argparse
import importlib
import os
import sys

from dekr_tf import __version__
from dekr_tf.errors import InputError

VERBS = ("train", "predict", "evaluate", "info", "import", "data")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `dekr`. Each verb module has a docstring, `add_arguments(parser)` and `run(arguments)`."""
    parser = Parser(prog="dekr", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dekr {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        module = importlib.import_module(f"dekr_tf.cli.{verb}_command")
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
    """Runs `dekr`. Returns the exit code: 0, or 2 for bad input, said in one line on standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except InputError as error:
        print(f"dekr {arguments.verb}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dekr {arguments.verb}: interrupted", file=sys.stderr)
        return 130
    return 0
