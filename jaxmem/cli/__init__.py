"""The command line. `main` parses, calls a command and turns every error into its exit code; nowhere else does.

A command is a module with a docstring (its help), ``add_options(parser)`` and ``run(options, analysis) -> exit code``.
Asking for help imports neither JAX nor rich nor protobuf: commands import what they need when they run.
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from jaxmem import __version__
from jaxmem.cli import capture, compare, devices, diff, estimate, fit, models, oom, report, schema
from jaxmem.cli.analysis_protocol import Analysis, load_analysis
from jaxmem.errors import JaxmemError, UsageError

COMMANDS = (
    ("report", report),
    ("estimate", estimate),
    ("fit", fit),
    ("compare", compare),
    ("diff", diff),
    ("oom", oom),
    ("capture", capture),
    ("models", models),
    ("devices", devices),
    ("schema", schema),
)

DONE, ANSWER_IS_NO, USAGE, INPUT, DEFECT, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_DESCRIPTION = "How many bytes a JAX program needs, where every one of them goes, and whether it fits."
_EPILOG = """\
PROGRAM is a model of the zoo (vgg16), package.module:attribute, path/to/file.py:attribute,
a saved capture (*.jaxmem), a saved report (*.json) or an XLA dump (*.hlo.pb, a folder).

exit codes: 0 done · 1 the answer is no · 2 usage · 3 an input was not understood ·
            4 a defect of jaxmem · 5 the environment failed · 130 interrupted
"""


def main(arguments: Sequence[str] | None = None, *, analysis: Analysis | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; by default those of the process.
        analysis: what does the work; by default `jaxmem.analysis`, imported when a command first needs it.
    """
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments), analysis)
        sys.stdout.flush()
        return code
    except JaxmemError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`).
        _abandon_stdout()
        return DONE
    except OSError as error:
        _abandon_stdout()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f" ({error.filename})" if error.filename else ""
        advice = " Free some space, or write somewhere else." if full else ""
        return _fail(f"the system refused: {error.strerror or error}{where}.{advice}", ENVIRONMENT)
    except MemoryError:
        return _fail("this machine ran out of memory.", ENVIRONMENT)
    except Exception:
        traceback.print_exc()
        return _fail("an error that jaxmem did not expect. It is a defect: please report the lines above.", DEFECT)


def _run(arguments: list[str], analysis: Analysis | None) -> int:
    parser = _parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return USAGE
    names = [name for name, _ in COMMANDS]
    if not arguments[0].startswith("-") and arguments[0] not in names:
        raise UsageError(f"There is no command {arguments[0]!r}. {_nearest(arguments[0], names)}")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:  # so argparse ends --help and --version
        return int(end.code or 0)
    return options.run(options, load_analysis if analysis is None else lambda: analysis)


def _nearest(name: str, names: list[str]) -> str:
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Commands: {', '.join(names)}."


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are errors like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:].rstrip('.')}. See: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="jaxmem", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"jaxmem {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS:
        summary = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=summary.splitlines()[0],
            description=summary,
            formatter_class=layout,
            allow_abbrev=False,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser


def _fail(message: str, code: int) -> int:
    from jaxmem.report.spelling import visible  # only a failure needs it

    # Names in it come from programs and files of other people.
    print("jaxmem:", "\n".join(map(visible, message.split("\n"))), file=sys.stderr)
    return code


def _abandon_stdout() -> None:
    """What is still buffered cannot be written either: without this, Python complains about it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # stdout is no file of the system, so nothing is pending there
