"""The formula of a program on the machine that compiles it: everywhere the same one, told of the same machine."""

from collections.abc import Sequence

from jaxmem.capture import Capture, Host
from jaxmem.formula import Formula, derive_formula
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument, Output, ProgramFacts


def formula_of(capture: Capture) -> Formula | None:
    """The formula of what was compiled, for the machine that compiled it; None where no operations are known."""
    if capture.layer_table is None:
        return None
    return formula_on(
        capture.host,
        capture.layer_table,
        capture.arguments,
        capture.outputs,
        capture.program,
        platform=capture.device.platform,
    )


def formula_on(
    host: Host,
    table: LayerTable,
    arguments: Sequence[Argument],
    outputs: Sequence[Output],
    program: ProgramFacts,
    *,
    platform: str,
) -> Formula:
    """The formula of a traced program, compiled on ``host`` for ``platform``."""
    return derive_formula(
        table, arguments, outputs, program, platform=platform, threads=host.threads, features=host.cpu_features
    )
