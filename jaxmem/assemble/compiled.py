"""The compiled side of a report, from whatever it was read: rows by role, by layer, and buffer by buffer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from jaxmem.assemble.estimate import ACTIVATIONS, NO_TABLE
from jaxmem.attribution import Account, Attribution, Facts
from jaxmem.formula import Formula
from jaxmem.profile import Buffer, MemoryProfile
from jaxmem.result import BufferRow, BufferTable, Compared, LayerRow, LedgerRow, Schedule
from jaxmem.roles import OPTIMIZER_ROLES, Phase, Role
from jaxmem.source_lines import short_sources
from jaxmem.unknown import Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The compiled side, read and attributed."""

    profile: MemoryProfile
    facts: Facts
    attributions: dict[int, Attribution]
    account: Account


def role_sums(ledger: Iterable[LedgerRow]) -> dict[Role, int]:
    """The rows of the ledger are one role each; their compiled side is the account."""
    sums: dict[Role, int] = {}
    for row in ledger:
        role = Role(row.term.replace(" ", "_"))
        sums[role] = sums.get(role, 0) + row.compiled_bytes
    return sums


def unexplained_sum(ledger: Iterable[LedgerRow]) -> int | Unknown:
    """What the rows leave unexplained; unknown where one of them does not know."""
    total = 0
    for row in ledger:
        unexplained = row.unexplained_bytes
        if isinstance(unexplained, Unknown):
            return unexplained
        total += unexplained
    return total


def layer_rows(
    ledger: Sequence[LedgerRow], formula: Formula | None, *, no_formula: Unknown = NO_TABLE
) -> tuple[LayerRow, ...]:
    """The ledger by layer; ``no_formula`` says why there is none."""
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
    of_layer: dict[str, list[tuple[Role, LedgerRow]]] = {}
    for row in ledger:
        of_layer.setdefault(row.layer, []).append((Role(row.term.replace(" ", "_")), row))
    rows = []
    for layer in layers:
        compared = {}
        for name, roles in groups.items():
            own = [row for role, row in of_layer[layer] if role in roles]
            expected = 0
            for row in own:
                expected += row.formula_bytes if isinstance(row.formula_bytes, int) else 0
            compared[name] = Compared(
                formula_bytes=expected if formula is not None else no_formula,
                compiled_bytes=sum(row.compiled_bytes for row in own),
            )
        rows.append(LayerRow(layer=layer, **compared))
    return tuple(rows)


def buffer_rows(compiled: Compiled) -> tuple[tuple[BufferRow, ...], BufferTable]:
    """The buffers alive at the peak, largest first, and all of them."""
    profile = compiled.profile
    short = short_sources()
    rows = {buffer.id: _buffer_row(buffer, compiled, short) for buffer in profile.buffers}
    live = [rows[identifier] for identifier in profile.live_at_peak]
    return tuple(sorted(live, key=lambda row: (-row.bytes, row.allocation, row.offset))), BufferTable.from_rows(
        rows.values()
    )


def schedule_of(profile: MemoryProfile) -> Schedule:
    """What a map of the memory over the step needs besides the buffers."""
    return Schedule(
        length=len(profile.schedule),
        peak_position=profile.peak_position,
        live_at_peak=tuple(i for i, buffer in enumerate(profile.buffers) if buffer.id in profile.live_at_peak),
        allocation=tuple(allocation.index for allocation in profile.allocations),
        allocation_bytes=tuple(allocation.size for allocation in profile.allocations),
    )


def _buffer_row(buffer: Buffer, compiled: Compiled, short: Callable[[str], str]) -> BufferRow:
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
        source=short(f"{frames[0].file}:{frames[0].line}") if frames else "",
        start=buffer.start,
        end=buffer.end,
        allocation=buffer.allocation,
        offset=buffer.offset,
        rule=attribution.rule,
    )
