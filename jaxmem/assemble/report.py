"""Capture → Report: one compiled program read, attributed, and laid beside its formula."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jaxmem.assemble.estimate import ACTIVATIONS, estimates
from jaxmem.assemble.facts import NO_TABLE, device_facts, notes, other_memories, versions, xla_numbers
from jaxmem.attribution import Account, Attribution, Dataflow, Facts, attribute, take_account
from jaxmem.capture import Capture
from jaxmem.errors import InputError
from jaxmem.formula import Formula, derive_formula
from jaxmem.hidden import hidden_need
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION
from jaxmem.need import code_bytes
from jaxmem.profile import Buffer, MemoryProfile, profile_memory
from jaxmem.reconcile import compiled_rows, reconcile
from jaxmem.result import (
    BufferRow,
    BufferTable,
    Compared,
    Hidden,
    HiddenFusion,
    LayerRow,
    LedgerRow,
    Report,
    Schedule,
)
from jaxmem.roles import OPTIMIZER_ROLES, Phase, Role
from jaxmem.unknown import Unknown
from jaxmem.verdict import judge
from jaxmem.xla import read_hlo_proto


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """The compiled side, read and attributed."""

    profile: MemoryProfile
    facts: Facts
    attributions: dict[int, Attribution]
    account: Account


def read_report(capture: Capture, *, origin: str = "the capture") -> Report:
    """Everything jaxmem knows about one compiled program.

    Args:
        capture: what the compile left behind.
        origin: what to call it in error messages.

    Raises:
        InputError: the module in the capture is damaged, or has no buffer assignment.
        InvariantError: a sum that must close does not.
    """
    module, assignment = read_hlo_proto(capture.hlo_proto, origin=origin)
    if assignment is None:
        raise InputError(f"The module in {origin} has no buffer assignment. Capture the program again.")
    profile = profile_memory(module, assignment, platform=capture.device.platform)
    facts = Facts(Dataflow(module), capture.arguments, capture.outputs)
    attributions = attribute(profile, facts)
    compiled = _Compiled(
        profile=profile, facts=facts, attributions=attributions, account=take_account(profile, attributions)
    )
    hidden = _hidden(compiled, capture)
    formula = (
        derive_formula(
            capture.layer_table,
            capture.arguments,
            capture.outputs,
            capture.program,
            platform=capture.device.platform,
            threads=capture.host.threads,
        )
        if capture.layer_table is not None
        else None
    )
    program_code_bytes = code_bytes(capture, assignment)
    ledger = _ledger(capture, compiled, formula, hidden, program_code_bytes)
    reserved_bytes = profile.reserved_bytes + program_code_bytes
    required_bytes = reserved_bytes + (hidden.bytes or 0)
    rows = {buffer.id: _buffer_row(buffer, compiled) for buffer in profile.buffers}
    live = [rows[identifier] for identifier in profile.live_at_peak]
    return Report(
        program=capture.program,
        device=device_facts(capture.device, capture.device_count),
        versions=versions(capture),
        xla=xla_numbers(capture),
        live_peak_bytes=profile.live_peak_bytes,
        reserved_bytes=reserved_bytes,
        hidden=hidden,
        required_bytes=required_bytes,
        required_is_lower_bound=hidden.bytes is None,
        roles=_roles(ledger),
        ledger=ledger,
        unexplained_bytes=_unexplained(ledger),
        estimates=estimates(formula, required_bytes),
        layers=_layers(ledger, formula),
        peak_buffers=tuple(sorted(live, key=lambda row: (-row.bytes, row.allocation, row.offset))),
        buffers=BufferTable.from_rows(rows.values()),
        schedule=_schedule(profile),
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


def _hidden(compiled: _Compiled, capture: Capture) -> Hidden:
    if (hidden := _HIDDEN.get(capture.device.platform)) is not None:
        recorded = AUTOTUNE_RESULTS_OPTION in dict(capture.compiler_options)
        planned = "planned as 0 bytes"
        where_not = f"{planned} where no result was recorded"
        return replace(hidden, reason=hidden.reason.replace(planned, where_not)) if recorded else hidden
    need = hidden_need(compiled.profile.module, threads=capture.host.threads)
    layer = {
        fusion.instruction_id: next(
            (
                compiled.facts.layer[node]
                for index, _ in compiled.profile.module.instructions[fusion.instruction_id].shape.leaves()
                if (node := compiled.facts.dataflow.node_at.get((fusion.instruction_id, index))) is not None
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
    capture: Capture, compiled: _Compiled, formula: Formula | None, hidden: Hidden, program_code_bytes: int
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


def _roles(ledger: Iterable[LedgerRow]) -> dict[Role, int]:
    """The rows of the ledger are one role each; their compiled side is the account."""
    sums: dict[Role, int] = {}
    for row in ledger:
        role = Role(row.term.replace(" ", "_"))
        sums[role] = sums.get(role, 0) + row.compiled_bytes
    return sums


def _unexplained(ledger: Iterable[LedgerRow]) -> int | Unknown:
    total = 0
    for row in ledger:
        unexplained = row.unexplained_bytes
        if isinstance(unexplained, Unknown):
            return unexplained
        total += unexplained
    return total


def _layers(ledger: Sequence[LedgerRow], formula: Formula | None) -> tuple[LayerRow, ...]:
    groups = {
        "parameters": frozenset({Role.PARAMETERS}),
        "gradients": frozenset({Role.GRADIENTS}),
        "optimizer": OPTIMIZER_ROLES,
        "activations": ACTIVATIONS,
    }
    layers = list(dict.fromkeys(row.layer for row in ledger if row.layer))
    if formula is not None:
        order = {layer: place for place, layer in enumerate(dict.fromkeys(leaf.layer for leaf in formula.leaves))}
        layers.sort(key=lambda layer: order.get(layer, len(order)))
    rows = []
    for layer in layers:
        compared = {}
        for name, roles in groups.items():
            own = [row for row in ledger if row.layer == layer and Role(row.term.replace(" ", "_")) in roles]
            expected = 0
            for row in own:
                expected += row.formula_bytes if isinstance(row.formula_bytes, int) else 0
            compared[name] = Compared(
                formula_bytes=expected if formula is not None else NO_TABLE,
                compiled_bytes=sum(row.compiled_bytes for row in own),
            )
        rows.append(LayerRow(layer=layer, **compared))
    return tuple(rows)


def _schedule(profile: MemoryProfile) -> Schedule:
    return Schedule(
        length=len(profile.schedule),
        peak_position=profile.peak_position,
        live_at_peak=tuple(i for i, buffer in enumerate(profile.buffers) if buffer.id in profile.live_at_peak),
        allocation=tuple(allocation.index for allocation in profile.allocations),
        allocation_bytes=tuple(allocation.size for allocation in profile.allocations),
    )


def _buffer_row(buffer: Buffer, compiled: _Compiled) -> BufferRow:
    attribution = compiled.attributions[buffer.id]
    instruction = compiled.profile.instruction(buffer)
    shape = instruction.shape.subshape(buffer.leaf[1])
    node = attribution.node
    origin = (
        compiled.facts.dataflow.nodes[compiled.facts.dataflow.origins[node]].instruction if node is not None else None
    )
    frames = compiled.profile.module.source(origin or instruction) or compiled.profile.module.source(instruction)
    return BufferRow(
        bytes=buffer.size_bytes,
        logical_bytes=buffer.logical_bytes,
        role=attribution.role,
        layer=attribution.layer,
        phase=attribution.phase if node is not None else Phase.UNKNOWN,
        instruction=instruction.name,
        opcode=instruction.opcode,
        shape=shape.dimensions,
        dtype=shape.element_type,
        source=f"{frames[0].file}:{frames[0].line}" if frames else "",
        start=buffer.start,
        end=buffer.end,
        allocation=buffer.allocation,
        offset=buffer.offset,
        rule=attribution.rule,
    )
