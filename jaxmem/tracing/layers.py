"""Closed jaxpr → LayerTable: every equation of the traced program with its layer, phase and dataflow.

Calls are inlined. A loop or a branch becomes an entering operation (outer operands → what the body receives), the body's
operations, and a leaving operation (what the body returns → outer results), so that dataflow stays acyclic and linear.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxmem.layer_paths import ScopeLayers
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.lowering import Argument
from jaxmem.roles import OPTIMIZER_ROLES, STATE_ROLES, Phase, Role
from jaxmem.tracing.divisions import DATA_MOVEMENT, divide
from jaxmem.tracing.parameters import digest, whole_numbers

_CALL_JAXPR = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Parameters under which a call-like primitive carries its body."""

_LOOPS = frozenset({"scan", "while", "cond"})


def layer_table(closed_jaxpr: Any, arguments: Sequence[Argument]) -> LayerTable:
    """Read a traced program as plain data.

    Args:
        closed_jaxpr: the ``ClosedJaxpr`` of the whole program, one input variable for each of ``arguments``.
        arguments: the flat argument table of the lowering.
    """
    builder = _Builder()
    jaxpr = closed_jaxpr.jaxpr
    environment: dict[Any, int] = {}
    argument_values = []
    for index, variable in enumerate(jaxpr.invars):
        environment[variable] = builder.add_value(variable.aval, argument=index)
        argument_values.append(environment[variable])
    for variable in jaxpr.constvars:
        environment[variable] = builder.add_value(variable.aval)
    builder.inline(jaxpr, environment, scope="", repeat=1)
    outputs = tuple(None if _is_literal(atom) else environment[atom] for atom in jaxpr.outvars)
    kept = _without_dead_code(builder.operations, outputs)
    operations = tuple(builder.operations[index] for index in kept)
    values = _renumber_producers(builder.values, operations)
    table = LayerTable(values=values, operations=operations, arguments=tuple(argument_values), outputs=outputs)
    table = _with_phases(table, arguments)
    equations = [builder.equations[index] for index in kept]
    return _with_layers(divide(table, arguments, equations, builder.passed), arguments)


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


@dataclass(slots=True)
class _Builder:
    values: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    equations: list[Any] = field(default_factory=list)
    """The equation of each operation."""
    passed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Value that a loop or branch receives or returns → the value that it is on the other side, and the number of leading
    dimensions that it has lost (below 0: won) on the way."""

    def add_value(self, aval: Any, *, argument: int | None = None) -> int:
        shape, dtype, bits = _array_of(aval)
        self.values.append(Value(shape=shape, dtype=dtype, itemsize_bits=bits, argument=argument))
        return len(self.values) - 1

    def add_operation(
        self, equation: Any, scope: str, operands: Iterable[int], results: Iterable[int], repeat: int | None
    ) -> None:
        self.equations.append(equation)
        self.operations.append(
            Operation(
                primitive=equation.primitive.name,
                scope=scope,
                layer="",
                phase=Phase.UNKNOWN,
                operands=tuple(operands),
                results=tuple(results),
                repeat=repeat,
                source=_source(equation),
                sizes=whole_numbers(equation.params),
                same=digest(equation),
            )
        )

    def inline(self, jaxpr: Any, environment: dict[Any, int], *, scope: str, repeat: int | None) -> None:
        for equation in jaxpr.eqns:
            inner_scope = "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)
            primitive = equation.primitive.name
            if primitive in _LOOPS:
                self._inline_loop(equation, environment, scope=inner_scope, repeat=repeat)
            elif (body := _call_body(equation)) is not None:
                self._inline_call(equation, body, environment, scope=inner_scope, repeat=repeat)
            else:
                operands = [environment[atom] for atom in equation.invars if not _is_literal(atom)]
                results = [self.add_value(variable.aval) for variable in equation.outvars]
                environment.update(zip(equation.outvars, results, strict=True))
                self.add_operation(equation, inner_scope, operands, results, repeat)

    def _inline_call(
        self, equation: Any, body: Any, environment: dict[Any, int], *, scope: str, repeat: int | None
    ) -> None:
        inner = self._constants(body)
        for atom, variable in zip(equation.invars, body.jaxpr.invars, strict=True):
            inner[variable] = self.add_value(variable.aval) if _is_literal(atom) else environment[atom]
        name = equation.params.get("name")
        if equation.primitive.name in ("jit", "pjit"):
            scope = "/".join(part for part in (scope, f"jit({name})") if part)
        elif equation.primitive.name in ("checkpoint", "remat2", "remat"):
            scope = "/".join(part for part in (scope, "checkpoint") if part)
        self.inline(body.jaxpr, inner, scope=scope, repeat=repeat)
        for variable, atom in zip(equation.outvars, body.jaxpr.outvars, strict=True):
            environment[variable] = self.add_value(variable.aval) if _is_literal(atom) else inner[atom]

    def _inline_loop(self, equation: Any, environment: dict[Any, int], *, scope: str, repeat: int | None) -> None:
        primitive, parameters = equation.primitive.name, equation.params
        outer = [environment[atom] for atom in equation.invars if not _is_literal(atom)]
        if primitive == "scan":
            bodies = [(parameters["jaxpr"], list(equation.invars), parameters["num_consts"])]
            inner_repeat = None if repeat is None else repeat * parameters["length"]
        elif primitive == "while":
            condition_constants, body_constants = parameters["cond_nconsts"], parameters["body_nconsts"]
            carry = list(equation.invars[condition_constants + body_constants :])
            bodies = [
                (parameters["cond_jaxpr"], list(equation.invars[:condition_constants]) + carry, condition_constants),
                (
                    parameters["body_jaxpr"],
                    list(equation.invars[condition_constants : condition_constants + body_constants]) + carry,
                    body_constants,
                ),
            ]
            inner_repeat = None
        else:
            operands = list(equation.invars[1:])
            bodies = [(branch, operands, len(operands)) for branch in parameters["branches"]]
            inner_repeat = repeat
        leaving: list[int] = []
        returned: list[int | None] = []
        for body, atoms, passed_through in bodies:
            inner = self._constants(body)
            entering = []
            for position, (atom, variable) in enumerate(zip(atoms, body.jaxpr.invars, strict=True)):
                if position < passed_through and not _is_literal(atom):
                    inner[variable] = environment[atom]
                else:
                    inner[variable] = self.add_value(variable.aval)
                    entering.append(inner[variable])
                    if not _is_literal(atom):
                        lost = len(atom.aval.shape) - len(variable.aval.shape)
                        self.passed[inner[variable]] = (environment[atom], lost)
            if entering:
                self.add_operation(equation, scope, outer, entering, inner_repeat)
            self.inline(body.jaxpr, inner, scope=f"{scope}/{primitive}/body", repeat=inner_repeat)
            returned = [None if _is_literal(atom) else inner[atom] for atom in body.jaxpr.outvars]
            leaving.extend(value for value in returned if value is not None)
        results = [self.add_value(variable.aval) for variable in equation.outvars]
        for result, value in zip(results, returned, strict=True):
            if value is not None:
                lost = len(self.values[value].shape) - len(self.values[result].shape)
                self.passed[result] = (value, lost)
        environment.update(zip(equation.outvars, results, strict=True))
        self.add_operation(equation, scope, outer + leaving, results, repeat)

    def _constants(self, body: Any) -> dict[Any, int]:
        return {variable: self.add_value(variable.aval) for variable in body.jaxpr.constvars}


def _call_body(equation: Any) -> Any:
    """The closed jaxpr that a call-like equation runs exactly once on its own operands, or None."""
    for name in _CALL_JAXPR:
        body = equation.params.get(name)
        jaxpr = getattr(body, "jaxpr", body)
        if hasattr(jaxpr, "eqns") and len(jaxpr.invars) == len(equation.invars):
            return body if hasattr(body, "jaxpr") else _Open(jaxpr)
    return None


@dataclass(frozen=True, slots=True)
class _Open:
    """An open jaxpr in the shape of a closed one."""

    jaxpr: Any


def _array_of(aval: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape, dtype name and bits an element as XLA stores them. A typed PRNG key is its ``uint32`` words; a token is empty."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return (0,), "token", 0
    shape = tuple(int(size) for size in aval.shape)
    key_shape = getattr(getattr(dtype, "_impl", None), "key_shape", None)
    if key_shape is not None:
        return shape + tuple(key_shape), "uint32", 32
    name = str(dtype)
    match = re.search(r"int([24])$", name)
    bits = 8 if name == "bool" else int(match[1]) if match else int(dtype.itemsize) * 8
    return shape, name, bits


def _source(equation: Any) -> str:
    """``file:line`` of the user's code that made an equation; empty where JAX does not say."""
    # JAX has no public way from an equation to its frame; losing it costs a column of the report, nothing else.
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(equation.source_info.traceback)
    except (ImportError, AttributeError, TypeError):
        return ""
    return f"{frame.file_name}:{frame.start_line}" if frame is not None else ""


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
    return tuple(replace(value, operation=producer.get(index)) for index, value in enumerate(values))


def _with_phases(table: LayerTable, arguments: Sequence[Argument]) -> LayerTable:
    """Backward is what autodiff transposed; update is what depends on it, or on optimizer state; the rest is forward."""
    late = {
        value for value, argument in zip(table.arguments, arguments, strict=True) if argument.role in OPTIMIZER_ROLES
    }
    operations = []
    for operation in table.operations:
        if "transpose(" in operation.scope:
            phase = Phase.BACKWARD
        elif not late.isdisjoint(operation.operands):
            phase = Phase.UPDATE
        else:
            phase = Phase.FORWARD
        if phase is not Phase.FORWARD:
            late.update(operation.results)
        operations.append(replace(operation, phase=phase))
    return replace(table, operations=tuple(operations))


def _with_layers(table: LayerTable, arguments: Sequence[Argument]) -> LayerTable:
    """Give every operation its layer: the scope that names one, else the parameters that flow in, else its neighbours."""
    finder = ScopeLayers({argument.layer for argument in arguments if argument.layer})
    finder.learn(operation.scope for operation in table.operations)

    # Which state argument's numbers a value holds, through casts and data movement.
    holds: dict[int, Argument] = {
        value: argument
        for value, argument in zip(table.arguments, arguments, strict=True)
        if argument.layer and argument.role in STATE_ROLES
    }
    for operation in table.operations:
        if operation.primitive in DATA_MOVEMENT | {"convert_element_type", "broadcast_in_dim"} and operation.operands:
            held = holds.get(operation.operands[0])
            if held is not None:
                holds[operation.results[0]] = held

    gradient_layer = _gradient_layers(table, arguments)
    layers: list[str] = []
    layer_of: dict[int, str] = {}
    phase_of = {result: operation.phase for operation in table.operations for result in operation.results}
    for operation in table.operations:
        layer = finder.layer(operation.scope)
        if not layer:
            flowing = [holds[operand] for operand in operation.operands if operand in holds]
            if flowing:
                layer = max(flowing, key=lambda argument: argument.elements).layer
        if not layer and operation.phase is Phase.BACKWARD:
            layer = next((gradient_layer[result] for result in operation.results if result in gradient_layer), "")
            if not layer:
                # A transposed operation reads what its own forward operation left for it.
                layer = _largest_layer(
                    table,
                    (operand for operand in operation.operands if phase_of.get(operand) is Phase.FORWARD),
                    layer_of,
                )
        if not layer:
            layer = _largest_layer(table, operation.operands, layer_of)
        layers.append(layer)
        for result in operation.results:
            layer_of[result] = layer
    consumer_layer: dict[int, str] = {}
    for index in range(len(layers) - 1, -1, -1):
        operation = table.operations[index]
        if not layers[index] and operation.phase is not Phase.UPDATE:
            layers[index] = next((consumer_layer[r] for r in operation.results if r in consumer_layer), "")
        if layers[index]:
            for operand in operation.operands:
                consumer_layer[operand] = layers[index]
    operations = tuple(
        replace(operation, layer=layer) for operation, layer in zip(table.operations, layers, strict=True)
    )
    return replace(table, operations=operations)


def _largest_layer(table: LayerTable, values: Iterable[int], layer_of: dict[int, str]) -> str:
    candidates = [value for value in values if layer_of.get(value)]
    return layer_of[max(candidates, key=lambda value: table.values[value].elements)] if candidates else ""


def _gradient_layers(table: LayerTable, arguments: Sequence[Argument]) -> dict[int, str]:
    """Value → layer, for every backward value that becomes the new value of a parameter or moment by elementwise steps.

    Walks back from the outputs that replace state, as long as the number of elements stays that of the parameter.
    """
    found: dict[int, str] = {}
    by_shape: dict[int, list[Argument]] = {}
    for argument in arguments:
        if argument.role is Role.PARAMETERS and argument.layer:
            by_shape.setdefault(argument.elements, []).append(argument)
    state = {
        value: argument
        for value, argument in zip(table.arguments, arguments, strict=True)
        if argument.role in STATE_ROLES and argument.layer
    }
    # Forward over the update: an operation that reads a parameter or its moments elementwise names its gradient.
    owner: dict[int, str] = {}
    for value, argument in state.items():
        owner[value] = argument.layer
    for operation in table.operations:
        if operation.phase is not Phase.UPDATE:
            continue
        named = [owner[operand] for operand in operation.operands if operand in owner]
        if named:
            for result in operation.results:
                owner[result] = named[0]
    # Backward over the update: what is combined with it, element by element, belongs to the same parameter.
    for operation in reversed(table.operations):
        named = next((owner[result] for result in operation.results if result in owner), None)
        if named is None or operation.phase is Phase.FORWARD:
            continue
        size = table.values[operation.results[0]].elements
        elementwise = operation.phase is Phase.UPDATE or operation.primitive in DATA_MOVEMENT | {
            "convert_element_type", "reduce_sum", "add_any", "broadcast_in_dim"
        }  # fmt: skip
        if operation.phase is Phase.BACKWARD:
            for result in operation.results:
                found.setdefault(result, named)
        if not elementwise:
            continue
        for operand in operation.operands:
            if table.values[operand].elements == size and size > 1 and table.values[operand].argument is None:
                owner.setdefault(operand, named)
    return found
