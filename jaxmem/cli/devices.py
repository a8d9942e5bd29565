"""The devices: what can be named with -d, how much memory each has, and what is installed to compile for it.

No device need be in this machine. A card that is not listed is described in a file, -d path/to/card.toml:

  name = "rtx-4080"
  kind = "NVIDIA GeForce RTX 4080"
  compute_capability = "8.9"
  multiprocessors = 76
  memory = "16 GiB"               # as CUDA reports it
  memory_bandwidth = "716.8 GB"   # a second
  l2_cache = "64 MiB"
  clock_ghz = 2.505
  source = "NVIDIA's data sheet"

On a machine with the card, --save-attached writes such a file with XLA's own, exact description.
"""

import argparse
import sys
from pathlib import Path

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_catalogue_format_option(parser)
    parser.add_argument(
        "--save-attached", metavar="FILE", type=Path, help="describe the card in this machine in a file"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Print the catalogue, or write the file of the attached card."""
    if options.save_attached is not None:
        from jaxmem.devices import attached_device, save_card
        from jaxmem.files import check_writable

        check_writable(options.save_attached, force=options.force)
        save_card(attached_device(), options.save_attached, force=options.force)
    elif options.format == "json":
        _print_json()
    else:
        _print_text()
    return 0


def _print_json() -> None:
    import json

    from jaxmem.codec import encode
    from jaxmem.devices import PLATFORMS, catalogue, obstacle, pip_line

    devices = [
        {key: value for key, value in encode(device)[0].items() if key not in ("target", "attached")}
        for device in catalogue()
    ]
    compilers = [
        {"platform": platform, "available": obstacle(platform) is None, "install": pip_line(platform)}
        for platform in PLATFORMS
    ]
    answer = {"schema": "jaxmem.devices/1", "devices": devices, "compilers": compilers}
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def _print_text() -> None:
    from jaxmem.devices import PLATFORMS, Device, catalogue, obstacle
    from jaxmem.report.document import Cell, Column, Document, Heading, Missing, Paragraph, Part, Row, Size, Table, Text
    from jaxmem.report.terminal import print_document
    from jaxmem.unknown import Unknown

    def size(value: int | Unknown) -> Cell:
        return Missing(value.reason) if isinstance(value, Unknown) else Size(value)

    def row(device: Device) -> Row:
        kind = f"{device.kind} (derived)" if device.derived else device.kind
        return Row(cells=(Text(device.name), Text(kind), size(device.memory_bytes), size(device.usable_bytes)))

    columns = (
        Column(title="device", align="left"),
        Column(title="kind", align="left", flexible="shorten"),
        Column(title="memory"),
        Column(title="usable"),
    )
    parts: list[Part] = []
    for platform in PLATFORMS:
        devices = [device for device in catalogue() if device.platform == platform]
        problem = obstacle(platform)
        state = Text("ready to compile.", "good") if problem is None else Text(problem, "warning")
        parts += [Heading(platform), Paragraph((state,)), Table(columns=columns, rows=tuple(map(row, devices)))]
    parts += [
        Paragraph(
            (Text("attached: the device that JAX sees in this machine. file.toml: a card of your own (--help)."),)
        ),
        Paragraph(
            (
                Text(
                    "Usable: on a card, what JAX's allocator takes by default; on a TPU, the compiler's own limit. "
                    "Derived: XLA has no description of the card, so it is put together from NVIDIA's tables. "
                    "The source of each number: --format json.",
                    "quiet",
                ),
            )
        ),
    ]
    print_document(Document(tuple(parts)), sys.stdout)
