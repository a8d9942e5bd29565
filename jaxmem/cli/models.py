"""The zoo: every model that can be named, with its size and its paper."""

import argparse
import sys

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_catalogue_format_option(parser)


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Print the catalogue."""
    from jaxmem.errors import EnvironmentFailure
    from jaxmem_models.registry import RegistrationError, all_models

    try:
        models = all_models()
    except RegistrationError as error:
        raise EnvironmentFailure(str(error)) from None
    if options.format == "json":
        import json

        rows = [
            {
                "name": model.name,
                "family": model.family,
                "task": model.task,
                "parameter_count": model.parameter_count,
                "image_size": model.image_size,
                "sequence_length": model.sequence_length,
                "reference": model.reference,
            }
            for model in models
        ]
        print(json.dumps({"schema": "jaxmem.models/1", "models": rows}, indent=2, ensure_ascii=False))
        return 0
    from jaxmem.report.document import Column, Document, Row, Table, Text
    from jaxmem.report.terminal import print_document

    columns = (
        Column(title="model", align="left"),
        Column(title="parameters"),
        Column(title="image"),
        Column(title="tokens"),
        Column(title="reference", align="left", flexible="shorten"),
    )
    rows = tuple(
        Row(
            cells=(
                Text(model.name),
                Text(f"{model.parameter_count:,}"),
                Text(f"{model.image_size or ''}"),
                Text(f"{model.sequence_length:,}" if model.sequence_length else ""),
                Text(model.reference, "quiet"),
            )
        )
        for model in models
    )
    print_document(Document((Table(columns=columns, rows=rows),)), sys.stdout)
    return 0
