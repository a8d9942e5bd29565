"""The compiled side of a report, from whatever it was read: rows by role, by layer, and buffer by buffer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxmem.assemble.estimate import ACTIVATIONS, NO_TABLE
from jaxmem.attribution import Account, Attribution, Facts
from jaxmem.formula import Formula
from jaxmem.profile import MemoryProfile
from jaxmem.result import BufferRow, BufferTable, Compared, LayerRow, LedgerRow, Schedule
from jaxmem.roles import OPTIMIZER_ROLES, Role
from jaxmem.source_lines import short_sources
from jaxmem.unknown import Unknown
from jaxmem.xla.hlo import Instruction, Metadata


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
    """The buffers alive at the peak, largest first, and all of them: these by columns, there are many."""
    profile = compiled.profile
    buffers, live = profile.buffers, profile.live_at_peak
    attributions = [compiled.attributions[buffer.id] for buffer in buffers]
    instructions = [profile.instruction(buffer) for buffer in buffers]
    shapes = [
        instruction.shape.subshape(buffer.leaf[1]) for buffer, instruction in zip(buffers, instructions, strict=True)
    ]
    table = BufferTable(
        bytes=tuple([buffer.size_bytes for buffer in buffers]),
        logical_bytes=tuple([buffer.logical_bytes for buffer in buffers]),
        role=tuple([attribution.role for attribution in attributions]),
        layer=tuple([attribution.layer for attribution in attributions]),
        phase=tuple([attribution.phase for attribution in attributions]),
        instruction=tuple([instruction.name for instruction in instructions]),
        opcode=tuple([instruction.opcode for instruction in instructions]),
        shape=tuple([shape.dimensions for shape in shapes]),
        dtype=tuple([shape.element_type for shape in shapes]),
        source=_sources(compiled, instructions),
        start=tuple([buffer.start for buffer in buffers]),
        end=tuple([buffer.end for buffer in buffers]),
        allocation=tuple([buffer.allocation for buffer in buffers]),
        offset=tuple([buffer.offset for buffer in buffers]),
        rule=tuple([attribution.rule for attribution in attributions]),
    )
    at_peak = [table.row(number) for number, buffer in enumerate(buffers) if buffer.id in live]
    return tuple(sorted(at_peak, key=lambda row: (-row.bytes, row.allocation, row.offset))), table


def _sources(compiled: Compiled, instructions: Iterable[Instruction]) -> tuple[str, ...]:
    """For each buffer the line of source that its numbers come from, else the one that its instruction comes from."""
    module, dataflow, short = compiled.profile.module, compiled.facts.dataflow, short_sources()

    lines: dict[Metadata, str] = {}

    def line(instruction: Instruction) -> str:
        found = lines.get(instruction.metadata)
        if found is None:
            frames = module.source(instruction)
            found = lines[instruction.metadata] = short(f"{frames[0].file}:{frames[0].line}") if frames else ""
        return found

    found = []
    for buffer, instruction in zip(compiled.profile.buffers, instructions, strict=True):
        node = compiled.attributions[buffer.id].node
        origin = dataflow.nodes[dataflow.origins[node]].instruction if node is not None else instruction
        found.append(line(origin) or line(instruction))
    return tuple(found)


def schedule_of(profile: MemoryProfile) -> Schedule:
    """What a map of the memory over the step needs besides the buffers."""
    return Schedule(
        length=len(profile.schedule),
        peak_position=profile.peak_position,
        live_at_peak=tuple(i for i, buffer in enumerate(profile.buffers) if buffer.id in profile.live_at_peak),
        allocation=tuple(allocation.index for allocation in profile.allocations),
        allocation_bytes=tuple(allocation.size for allocation in profile.allocations),
    )
