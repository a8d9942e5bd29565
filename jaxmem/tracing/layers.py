"""Closed jaxpr → LayerTable: every equation of the traced program that matters, with its layer, phase and dataflow."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.lowering import Argument
from jaxmem.roles import OPTIMIZER_ROLES
from jaxmem.tracing.divisions import divide
from jaxmem.tracing.equations import Equations, is_literal
from jaxmem.tracing.operation_layers import with_layers


def layer_table(closed_jaxpr: Any, arguments: Sequence[Argument]) -> LayerTable:
    """Read a traced program as plain data.

    Args:
        closed_jaxpr: the ``ClosedJaxpr`` of the whole program, one input variable for each of ``arguments``.
        arguments: the flat argument table of the lowering.
    """
    read = Equations()
    jaxpr = closed_jaxpr.jaxpr
    environment: dict[Any, int] = {}
    argument_values = []
    for index, variable in enumerate(jaxpr.invars):
        environment[variable] = read.add_value(variable.aval, argument=index)
        argument_values.append(environment[variable])
    read.late = {
        value for value, argument in zip(argument_values, arguments, strict=True) if argument.role in OPTIMIZER_ROLES
    }
    for variable in jaxpr.constvars:
        environment[variable] = read.add_value(variable.aval)
    read.inline(jaxpr, environment, scope="", repeat=1)
    outputs = tuple(None if is_literal(atom) else environment[atom] for atom in jaxpr.outvars)
    kept = _without_dead_code(read.operations, outputs)
    operations = tuple(read.operations[index] for index in kept)
    values = _renumber_producers(read.values, operations)
    table = LayerTable(values=values, operations=operations, arguments=tuple(argument_values), outputs=outputs)
    equations = [read.equations[index] for index in kept]
    return with_layers(divide(table, arguments, equations, read.passed), arguments)


def _without_dead_code(operations: Sequence[Operation], outputs: Iterable[int | None]) -> tuple[int, ...]:
    """Indices of the operations that an output depends on; the others are left out, as XLA does."""
    needed = {output for output in outputs if output is not None}
    kept = []
    for index in range(len(operations) - 1, -1, -1):
        if not needed.isdisjoint(operations[index].results):
            needed.update(operations[index].operands)
            kept.append(index)
    return tuple(reversed(kept))


def _renumber_producers(values: Sequence[Value], operations: Sequence[Operation]) -> tuple[Value, ...]:
    producer = {result: index for index, operation in enumerate(operations) for result in operation.results}
    return tuple(_made_by(producer.get(index), value) for index, value in enumerate(values))


def _made_by(operation: int | None, value: Value) -> Value:
    # `dataclasses.replace` takes three times as long; a network has 100,000 of these.
    return Value(
        shape=value.shape,
        dtype=value.dtype,
        itemsize_bits=value.itemsize_bits,
        operation=operation,
        argument=value.argument,
        divided_over=value.divided_over,
        continues=value.continues,
    )
