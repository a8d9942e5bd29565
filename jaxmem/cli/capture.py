"""Compile the program and keep the evidence in one file.

The file (*.jaxmem) holds everything that a report is made from; `jaxmem report FILE` reads it on any machine, without
the program. Its name is printed.
"""

import argparse
from pathlib import Path

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader
from jaxmem.cli.progress import progress
from jaxmem.cli.request import Kind, kind_of, requested
from jaxmem.errors import UsageError
from jaxmem.files import check_writable


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_program_options(parser)
    shared.add_compiler_options(parser)
    shared.add_output_options(parser, file_help="the file to write (default: named after the program)")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Compile, save, and print the names of the files."""
    kind = kind_of(options.program)
    if kind in (Kind.CAPTURE, Kind.REPORT):
        raise UsageError(f"{options.program} is {kind.value} already. Name the program that it was made from.")
    analysis = load_analysis()
    requests = requested(options, analysis)
    if options.output is not None and len(requests) > 1:
        wanted = ", ".join(request.label for request in requests)
        raise UsageError(
            f"-o names one file, but there are {len(requests)} captures: {wanted}. Choose one, e.g. --mode train."
        )
    paths = [options.output or Path(f"{request.file_stem}.jaxmem") for request in requests]
    for path in paths:
        check_writable(path, force=options.force)
    from jaxmem.capture import save

    for request, path in zip(requests, paths, strict=True):
        with progress(request.label, quiet=options.quiet) as tell:
            save(analysis.capture_target(request.target, progress=tell), path, force=options.force)
        print(path)
    return 0
