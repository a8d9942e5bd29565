"""The zoo: every model that can be named, with its size and its paper."""

import argparse
import sys

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_format_option(parser)


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Print the catalogue."""
    from jaxmem_models.registry import MODELS

    if options.format == "json":
        import json

        rows = [
            {
                "name": model.name,
                "family": model.family,
                "parameter_count": model.parameter_count,
                "image_size": model.image_size,
                "reference": model.reference,
            }
            for model in MODELS
        ]
        print(json.dumps({"schema": "jaxmem.models/1", "models": rows}, indent=2, ensure_ascii=False))
        return 0
    from jaxmem.report.document import Column, Document, Row, Table, Text
    from jaxmem.report.terminal import print_document

    columns = (
        Column(title="model", align="left"),
        Column(title="parameters"),
        Column(title="image"),
        Column(title="reference", align="left", flexible="shorten"),
    )
    rows = tuple(
        Row(
            cells=(
                Text(model.name),
                Text(f"{model.parameter_count:,}"),
                Text(str(model.image_size)),
                Text(model.reference, "quiet"),
            )
        )
        for model in MODELS
    )
    print_document(Document((Table(columns=columns, rows=rows),)), sys.stdout)
    return 0
