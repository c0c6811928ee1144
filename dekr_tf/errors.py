"""The one exception for bad input: the command line prints its message as a single line and exits with code 2."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, a setting, an annotation, a checkpoint.

    The message says what was expected and where, and ends with what was received.
    """
