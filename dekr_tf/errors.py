"""The project's own exceptions. Only bad input is a `ValueError`.

The command line prints the message of any of them as a single line and exits with code 2.
"""


class DekrError(Exception):
    """Base of all errors that the project reports on purpose; a bug raises something else."""


class InputError(DekrError, ValueError):
    """Something the user gave is wrong: a file, a setting, an annotation, a checkpoint.

    The message says what was expected and where, and ends with what was received.
    """


class ServingError(DekrError):
    """A model server refused a request, could not be reached, or sent an answer that cannot be used.

    Args:
        code: name of gRPC's status code, such as `INVALID_ARGUMENT` for a bad image and `UNAVAILABLE` for a server
            that cannot be reached.
        reason: what the server or the connection said; control characters become spaces, and it is cut at 500
            characters.

    Attributes:
        code: as given.
    """

    def __init__(self, code: str, reason: str):
        # A server's text must not be able to control the terminal.
        reason = "".join(each if each.isprintable() else " " for each in reason)
        super().__init__(f"{code}: {' '.join(reason.split())[:500]}")
        self.code = code


class TrainingError(DekrError):
    """A training run cannot continue: a loss is not finite, a machine is lost, or a file cannot be written."""


class WorkerError(DekrError):
    """Processes that share a job cannot finish it: one after the other died, or they cannot be started."""
