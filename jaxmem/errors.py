"""The errors jaxmem raises on purpose, each with the exit code of the command line.

A message says what happened, what was found and where, and what to do. It is shown without a traceback.
"""


class JaxmemError(Exception):
    """Base of every error that jaxmem raises on purpose. ``exit_code`` is what the command ends with."""

    exit_code = 4


class UsageError(JaxmemError):
    """The request itself is wrong: an unknown option, model or device, a number that is none, an existing output file."""

    exit_code = 2


class InputError(JaxmemError):
    """An input was not understood: a program that cannot be imported, a broken capture or dump."""

    exit_code = 3


class InvariantError(JaxmemError):
    """A sum that must close did not. This is a defect of jaxmem: the message asks for the capture."""

    exit_code = 4

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Internal check failed: {what}\n"
            "This is a defect of jaxmem, not of your program. Please report it with the capture "
            "(`jaxmem capture PROGRAM -o program.jaxmem` writes it)."
        )


class EnvironmentFailure(JaxmemError):
    """The surroundings failed: a missing extra, a compiler that died or ran out of time, a full disk."""

    exit_code = 5
