"""The JSON Schema of --format json: `jaxmem schema report`; without a name, which there are."""

import argparse
import sys

from jaxmem.cli.analysis_protocol import AnalysisLoader


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="report, estimate, fit, ...: whose JSON")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Print one schema, or the names of all."""
    from jaxmem.result.schema import NAMES, published

    if options.name is not None:
        sys.stdout.write(published(options.name))
        return 0
    for name, schema in NAMES.items():
        print(f"{name:10}{schema}")
    return 0
