"""Capture → Report: one compiled program read, attributed, and laid beside its formula."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from jaxmem.assemble.compiled import Compiled, buffer_rows, layer_rows, role_sums, schedule_of, unexplained_sum
from jaxmem.assemble.estimate import NO_TABLE, estimates
from jaxmem.assemble.facts import notes, other_memories, versions, xla_numbers
from jaxmem.assemble.formula import formula_of
from jaxmem.assemble.headings import device_facts, program_facts
from jaxmem.attribution import Dataflow, Facts, attribute, take_account
from jaxmem.capture import Capture
from jaxmem.errors import InputError
from jaxmem.formula import Formula
from jaxmem.hidden import hidden_need
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION
from jaxmem.need import code_bytes
from jaxmem.pause import collecting_paused
from jaxmem.profile import profile_memory
from jaxmem.reconcile import compiled_rows, reconcile
from jaxmem.result import (
    Hidden,
    HiddenFusion,
    LedgerRow,
    Report,
)
from jaxmem.verdict import judge
from jaxmem.xla import read_hlo_proto


def read_report(
    capture: Capture, *, origin: str = "the capture", formula: Callable[[], Formula | None] | None = None
) -> Report:
    """Everything jaxmem knows about one compiled program.

    Args:
        capture: what the compile left behind.
        origin: what to call it in error messages.
        formula: that of the capture, where it was derived elsewhere, while the compiler worked; None derives it here.

    Raises:
        InputError: the module in the capture is damaged, or has no buffer assignment.
        InvariantError: a sum that must close does not.
    """
    with collecting_paused():
        return _read_report(capture, origin, formula or partial(formula_of, capture))


def _read_report(capture: Capture, origin: str, derive: Callable[[], Formula | None]) -> Report:
    module, assignment = read_hlo_proto(capture.hlo_proto, origin=origin)
    if assignment is None:
        raise InputError(f"The module in {origin} has no buffer assignment. Capture the program again.")
    profile = profile_memory(module, assignment, platform=capture.device.platform)
    facts = Facts(Dataflow(module), capture.arguments, capture.outputs)
    attributions = attribute(profile, facts)
    compiled = Compiled(
        profile=profile, facts=facts, attributions=attributions, account=take_account(profile, attributions)
    )
    hidden = _hidden(compiled, capture)
    formula = derive()
    program_code_bytes = code_bytes(capture, assignment)
    ledger = _ledger(capture, compiled, formula, hidden, program_code_bytes)
    reserved_bytes = profile.reserved_bytes + program_code_bytes
    required_bytes = reserved_bytes + (hidden.bytes or 0)
    peak_buffers, buffers = buffer_rows(compiled)
    return Report(
        program=program_facts(capture.program),
        device=device_facts(capture.device, capture.device_count),
        versions=versions(capture),
        xla=xla_numbers(capture),
        live_peak_bytes=profile.live_peak_bytes,
        reserved_bytes=reserved_bytes,
        hidden=hidden,
        required_bytes=required_bytes,
        required_is_lower_bound=hidden.bytes is None,
        roles=role_sums(ledger),
        ledger=ledger,
        unexplained_bytes=unexplained_sum(ledger),
        estimates=estimates(formula, required_bytes),
        layers=layer_rows(ledger, formula),
        peak_buffers=peak_buffers,
        buffers=buffers,
        schedule=schedule_of(profile),
        other_memories=other_memories(assignment, capture.device.platform),
        verdict=judge(capture, required_bytes=required_bytes, reserved_bytes=reserved_bytes),
        notes=notes(capture, hidden),
    )


_HIDDEN = {
    "cuda": Hidden(
        bytes=None,
        reason="compiled without the card, XLA leaves out what it would measure or load there: workspace of cuDNN's "
        "convolutions (planned as 0 bytes), the program's code, the CUDA context, NCCL's buffers.",
    ),
    "tpu": Hidden(bytes=0, reason="the TPU compiler plans all memory of a program; its code is counted."),
}
"""What is hidden where no library runs inside the program."""


def _hidden(compiled: Compiled, capture: Capture) -> Hidden:
    if (hidden := _HIDDEN.get(capture.device.platform)) is not None:
        recorded = AUTOTUNE_RESULTS_OPTION in dict(capture.compiler_options)
        planned = "planned as 0 bytes"
        where_not = f"{planned} where no result was recorded"
        return replace(hidden, reason=hidden.reason.replace(planned, where_not)) if recorded else hidden
    need = hidden_need(compiled.profile.module, capture.host)
    layer = {
        fusion.instruction_id: next(
            (
                compiled.facts.layer[node]
                for index, _ in compiled.profile.module.instructions[fusion.instruction_id].shape.leaves
                if (node := compiled.facts.dataflow.node_at((fusion.instruction_id, index))) is not None
            ),
            "",
        )
        for fusion in need.fusions
    }
    return Hidden(
        bytes=need.bytes,
        reason=need.reason,
        fusions=tuple(
            HiddenFusion(instruction=fusion.name, layer=layer[fusion.instruction_id], bytes=fusion.inside_bytes)
            for fusion in need.fusions
        ),
    )


def _ledger(
    capture: Capture, compiled: Compiled, formula: Formula | None, hidden: Hidden, program_code_bytes: int
) -> tuple[LedgerRow, ...]:
    if formula is None:
        return compiled_rows(
            compiled.account, hidden_bytes=hidden.bytes or 0, code_bytes=program_code_bytes, reason=NO_TABLE
        )
    return reconcile(
        formula,
        compiled.account,
        compiled.profile,
        compiled.facts,
        compiled.attributions,
        capture.arguments,
        capture.outputs,
        hidden_bytes=hidden.bytes or 0,
        hidden_fusions=[fusion.instruction for fusion in hidden.fusions],
        code_bytes=program_code_bytes,
    )
