"""Parameters that are divided among the devices and whole where they are used.

A device that holds the nth part of a parameter of w bytes gathers the other parts before an operation of the forward pass
reads it: for so long it holds w bytes besides its own w/n, in a buffer of its own. What it has when it does not need them
follows from the division alone (`jaxmem.tracing.divisions`), and so does the size of what is gathered; when it is gathered is
the backend's habit:

- CUDA: a collective begins as soon as its operands are there and is waited for as late as possible (XLA,
  ``gpu_hlo_schedule.cc``, ``PostprocessorToScheduleAsEarlyOrLateAsPossible``). An argument is there from the start, so all
  parameters are gathered at the beginning, each until the last operation of the forward pass that reads it. Where a divided
  parameter meets an array of its own size that the program computes, the scale of a batch norm its variance, each device
  computes its part, and the result is gathered. Gathers that follow one another are combined (``AllGatherCombiner``), so
  that the parameters that are read after such an operation wait for it.
- CPU and TPU: right before the first operation that reads it, until the last one of the forward pass.

The backward pass may gather a parameter once more, or the gradient that it is multiplied with, whichever the partitioner
finds cheaper; neither is in the formula.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from jaxmem.formula.equal import MOVEMENT
from jaxmem.formula.leaves import Leaf
from jaxmem.formula.ranges import LiveRanges
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.lowering import Argument
from jaxmem.roles import STATE_ROLES, Phase, Role

_BEGIN_AT_ONCE = frozenset({"cuda"})
"""Platforms whose collectives begin as soon as their operands are there."""

_SAME_ARRAY = MOVEMENT | frozenset({"convert_element_type", "broadcast_in_dim"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """One parameter while it is whole on every device: ``start`` and ``end`` are positions in the formula's order."""

    path: str
    layer: str
    elements: int
    itemsize_bits: int
    divided_over: int
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole parameter."""
        return (self.elements * self.itemsize_bits + 7) // 8


def gathered_parameters(
    table: LayerTable, arguments: Sequence[Argument], ranges: LiveRanges, *, platform: str
) -> tuple[Gathered, ...]:
    """The parameters that a device must gather, each as long as the forward pass needs it. Linear in the program's size."""
    wanted = {
        value: argument
        for value, argument in zip(table.arguments, arguments, strict=True)
        if argument.role in STATE_ROLES and table.values[value].divided_over > 1
    }
    if not wanted:
        return ()
    source = _same_array(table, wanted)
    read: dict[int, list[int]] = {}
    in_parts: list[int] = []
    for position, index in enumerate(ranges.order):
        operation = table.operations[index]
        if operation.phase is not Phase.FORWARD:
            continue
        for operand in operation.operands:
            if operand not in source:
                continue
            if _is_done_in_parts(table, operation, operand, source, ranges):
                in_parts.append(position)
                continue
            read.setdefault(source[operand], []).append(position)

    def waits_for(position: int) -> int:
        before = bisect_left(in_parts, position)
        return in_parts[before - 1] + 1 if before else 0

    return tuple(
        Gathered(
            path=wanted[value].path,
            layer=wanted[value].layer,
            elements=prod(table.values[value].shape),
            itemsize_bits=table.values[value].itemsize_bits,
            divided_over=table.values[value].divided_over,
            start=waits_for(positions[0]) if platform in _BEGIN_AT_ONCE else positions[0],
            end=positions[-1],
        )
        for value, positions in read.items()
    )


def _same_array(table: LayerTable, wanted: Iterable[int]) -> dict[int, int]:
    """Each parameter, and whatever the forward pass makes of it that is only moved, cast or broadcast → the parameter.

    A mere movement has no place in the order of the schedule, so all operations are asked.
    """
    source = {value: value for value in wanted}
    for operation in table.operations:
        if operation.phase is Phase.FORWARD and operation.primitive in _SAME_ARRAY:
            for operand in operation.operands:
                if operand in source:
                    source.update((result, source[operand]) for result in operation.results)
    return source


def _is_done_in_parts(
    table: LayerTable, operation: Operation, divided: int, source: Mapping[int, int], ranges: LiveRanges
) -> bool:
    """Whether an operation combines a divided parameter with an array of its size that depends on the inputs."""
    return any(
        table.values[other].shape == table.values[divided].shape
        for other in operation.operands
        if other not in source and table.values[other].argument is None and not ranges.constant[other]
    )


def with_peak_of(table: LayerTable, ranges: LiveRanges, gathered: Sequence[Gathered]) -> LiveRanges:
    """The same schedule; its peak is where the most bytes exist, gathered parameters included."""
    if not gathered:
        return ranges
    change = [0] * (len(ranges.order) + 1)
    for index, value in enumerate(table.values):
        if ranges.exists[index]:
            change[ranges.start[index]] += value.logical_bytes
            change[ranges.end[index] + 1] -= value.logical_bytes
    for one in gathered:
        change[one.start] += one.size_bytes
        change[one.end + 1] -= one.size_bytes
    live, most, peak = 0, -1, ranges.peak
    for position, difference in enumerate(change[:-1]):
        live += difference
        if live > most:
            most, peak = live, position
    return replace(ranges, peak=peak)


def gathered_leaves(ranges: LiveRanges, gathered: Sequence[Gathered]) -> list[Leaf]:
    """The leaves of the formula that speak of gathered parameters."""
    leaves = []
    for one in gathered:
        counted = one.start <= ranges.peak <= one.end
        leaves.append(
            Leaf(
                role=Role.COLLECTIVES,
                layer=one.layer,
                name=f"{one.path}, gathered",
                primitive="all_gather",
                phase=Phase.FORWARD,
                elements=one.elements,
                itemsize_bits=one.itemsize_bits,
                bytes=one.size_bytes,
                counted=counted,
                why=f"whole for the forward pass, from the parts of {one.divided_over} devices"
                if counted
                else "whole for the forward pass, before or after the peak",
                path=one.path,
            )
        )
    return leaves
