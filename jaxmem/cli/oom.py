"""Explain an out-of-memory message, or the dump that a failed compile left.

FILE is a text with the error in it (a log will do), a folder that xla_dump_to named, or a file of it; without FILE, or with
-, the text is read from standard input: `python train.py 2>&1 | jaxmem oom`.
"""

import argparse
import sys
from pathlib import Path

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader
from jaxmem.cli.output import check_output, hand_over
from jaxmem.errors import InputError
from jaxmem.files import read_bounded

_LIMIT_BYTES = 256 * 2**20
"""The longest log that is read."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="a text, a dump, or - (default: -)")
    parser.add_argument("-d", "--device", metavar="NAME", help="what a dump was compiled for")
    group = shared.add_output_options(parser, file_help="write the answer to a file instead of stdout")
    shared.add_format_option(group)
    group.add_argument("-v", "--verbose", action="store_true", help="every buffer")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Read, explain, print."""
    check_output(options)
    from jaxmem.devices import find_device
    from jaxmem.oom import explain_dump, explain_message

    device = None if options.device is None else find_device(options.device)
    path = Path(options.file)
    if options.file != "-" and (path.is_dir() or path.name.endswith((".pb", ".pb.gz"))):
        hand_over(explain_dump(path, device), options)
    else:
        hand_over(explain_message(_text(options.file, options.quiet)), options)
    return 0


def _text(file: str, quiet: bool) -> str:
    if file == "-":
        if sys.stdin.isatty() and not quiet:
            print("jaxmem: paste the message, then end with Ctrl-D:", file=sys.stderr)
        data = getattr(sys.stdin, "buffer", sys.stdin).read(_LIMIT_BYTES + 1)
        if len(data) > _LIMIT_BYTES:
            raise InputError(
                f"The text is larger than {_LIMIT_BYTES >> 20} MiB. Pass the part with the error: tail -n 10000."
            )
    else:
        data = read_bounded(file, limit_bytes=_LIMIT_BYTES)
    return data.decode(errors="replace") if isinstance(data, bytes) else data
