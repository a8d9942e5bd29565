"""Compiles the programs of this folder for every platform, and keeps their captures.

Run from this folder with the compilers installed:

    JAX_PLATFORMS=cpu python make_captures.py [program ...]

Captures that are there stay as they are, so that later versions are tested on what earlier ones wrote; name a program to
compile it anew. Then ``pytest tests/golden --update-golden`` writes the reports, whose difference you read.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

import jax

from jaxmem.capture import Capture, save
from jaxmem.compilers import compile_lowering
from jaxmem.devices import find_device
from jaxmem.program import Program
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table

DEVICES = ("cpu", "h100-sxm", "tpu-v5e")
FOLDERS_OF_THIS_MACHINE = r"^.*/(site-packages/|(?=jaxmem/))"


def main() -> None:
    """Make what is missing, or what is named."""
    jax.config.update("jax_traceback_in_locations_limit", 1)
    jax.config.update("jax_hlo_source_file_canonicalization_regex", FOLDERS_OF_THIS_MACHINE)
    names: dict = {"__name__": "programs"}
    # Compiled by hand, so that the file's name has no folder.
    exec(compile(Path("programs.py").read_text(), "programs.py", "exec"), names)
    for build in names["PROGRAMS"]:
        for device in DEVICES:
            path = Path(f"{build.__name__}.{device}.jaxmem")
            if not path.exists() or build.__name__ in sys.argv[1:]:
                save(capture_of(build(), device), path, force=True)
                print(path)


def capture_of(program: Program, device: str) -> Capture:
    """Compiled for a device, without a path of this machine in it."""
    target = find_device(device)
    traced = trace(program, platforms=(target.platform,))
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    operations = tuple(
        replace(operation, source=re.sub(FOLDERS_OF_THIS_MACHINE, "", operation.source))
        for operation in table.operations
    )
    return compile_lowering(traced.lowering, replace(table, operations=operations), target)


if __name__ == "__main__":
    main()
