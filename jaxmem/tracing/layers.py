"""Closed jaxpr → LayerTable: every equation of the traced program with its layer, phase and dataflow.

Calls are inlined. A loop or a branch becomes an operation for each array that its body receives, the body's operations, and
one for each array that it returns, so that dataflow stays acyclic and linear.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
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
    builder.late = {
        value for value, argument in zip(argument_values, arguments, strict=True) if argument.role in OPTIMIZER_ROLES
    }
    for variable in jaxpr.constvars:
        environment[variable] = builder.add_value(variable.aval)
    builder.inline(jaxpr, environment, scope="", repeat=1)
    outputs = tuple(None if _is_literal(atom) else environment[atom] for atom in jaxpr.outvars)
    kept = _without_dead_code(builder.operations, outputs)
    operations = tuple(builder.operations[index] for index in kept)
    values = _renumber_producers(builder.values, operations)
    table = LayerTable(values=values, operations=operations, arguments=tuple(argument_values), outputs=outputs)
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
    late: set[int] = field(default_factory=set)
    """Values that depend on the backward pass or on optimizer state, and that state itself."""
    sources: dict[int, str] = field(default_factory=dict)
    """Where an equation was made, by the identity of its traceback: equations that were made by one line share it."""

    def add_value(self, aval: Any, *, argument: int | None = None, continues: int | None = None) -> int:
        shape, dtype, bits = _array_of(aval)
        self.values.append(Value(shape=shape, dtype=dtype, itemsize_bits=bits, argument=argument, continues=continues))
        return len(self.values) - 1

    def add_operation(
        self,
        equation: Any,
        scope: str,
        operands: Iterable[int],
        results: Iterable[int],
        repeat: int | None,
        *,
        primitive: str = "",
        hands_on: int = 0,
    ) -> None:
        operands, results = tuple(operands), tuple(results)
        phase = self._phase(scope, operands[: hands_on or None])
        if phase is not Phase.FORWARD:
            self.late.update(results)
        self.equations.append(equation)
        self.operations.append(
            Operation(
                primitive=primitive or equation.primitive.name,
                scope=scope,
                layer="",
                phase=phase,
                operands=operands,
                results=results,
                repeat=repeat,
                source=self._source(equation.source_info.traceback),
                # What enters and leaves a loop has none of the loop's parameters, and is no one's equal.
                sizes=() if primitive else whole_numbers(equation.params),
                same="" if primitive else digest(equation),
                hands_on=hands_on,
            )
        )

    def _source(self, traceback: Any) -> str:
        source = self.sources.get(id(traceback))
        if source is None:
            source = self.sources[id(traceback)] = _user_line(traceback)
        return source

    def _phase(self, scope: str, operands: Iterable[int]) -> Phase:
        """Backward is what autodiff transposed; update is what depends on it, or on optimizer state; the rest is forward."""
        if "transpose(" in scope:
            return Phase.BACKWARD
        return Phase.FORWARD if self.late.isdisjoint(operands) else Phase.UPDATE

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
        """A loop or a branch: what it receives, its body once, what it returns; each array by an operation of its own.

        JAX lowers both kinds of loop to ``while``, which carries its state from turn to turn in one place. A scan slices what
        it runs over, and writes what it stacks into an array that it carries.
        """
        loop = _Loop.of(equation)
        if loop.turns == 1 and not loop.is_branch:
            self._inline_single_turn(equation, loop, environment, scope=scope, repeat=repeat)
            return
        turns = None if repeat is None or loop.turns is None else repeat * loop.turns
        outer = [environment[atom] for atom in equation.invars if not _is_literal(atom)]
        begin = self._wait_for(equation, scope, loop.primitive, outer, turns)
        carried: list[int] = []
        returned: list[list[int]] = []
        for body, atoms, constants in loop.bodies:
            inner = self._constants(body)
            for position, (atom, variable) in enumerate(zip(atoms, body.jaxpr.invars, strict=True)):
                source = self._atom(atom, environment)
                slot = position - constants
                if slot < 0:
                    inner[variable] = source
                    continue
                if slot < len(carried):
                    inner[variable] = carried[slot]  # the condition and the body of a loop see the same state
                    continue
                inner[variable] = self._hand_on(
                    equation,
                    f"{scope}/while/body" if slot >= loop.carries else scope,
                    "dynamic_slice" if slot >= loop.carries else loop.primitive,
                    [source],
                    begin,
                    variable.aval,
                    turns,
                )
                if slot < loop.carries:
                    carried.append(inner[variable])
            self.inline(body.jaxpr, inner, scope=f"{scope}/{equation.primitive.name}/body", repeat=turns)
            returned.append([self._atom(atom, inner) for atom in body.jaxpr.outvars])
        # Which branch runs is not known; what the condition of a loop returns, only that loop reads.
        results = returned if loop.is_branch else returned[-1:]
        end = self._wait_for(
            equation, scope, loop.primitive, outer + [value for each in returned for value in each], repeat
        )
        for slot, variable in enumerate(equation.outvars):
            stacked = not loop.is_branch and slot >= loop.carries
            environment[variable] = self._hand_on(
                equation,
                f"{scope}/while/body" if stacked else scope,
                "dynamic_update_slice" if stacked else loop.primitive,
                [each[slot] for each in results],
                end,
                variable.aval,
                repeat,
                continues=carried[slot] if slot < len(carried) else None,
            )

    def _inline_single_turn(
        self, equation: Any, loop: "_Loop", environment: dict[Any, int], *, scope: str, repeat: int | None
    ) -> None:
        """A scan of one turn, which XLA runs as if no loop were there: it receives and stacks the same numbers in one more
        dimension."""
        ((body, atoms, constants),) = loop.bodies
        inner = self._constants(body)
        for position, (atom, variable) in enumerate(zip(atoms, body.jaxpr.invars, strict=True)):
            source = self._atom(atom, environment)
            runs_over = position >= constants + loop.carries
            inner[variable] = (
                self._in_other_dimensions(equation, f"{scope}/while/body", "squeeze", source, variable.aval, repeat)
                if runs_over
                else source
            )
        self.inline(body.jaxpr, inner, scope=f"{scope}/{equation.primitive.name}/body", repeat=repeat)
        for slot, (variable, atom) in enumerate(zip(equation.outvars, body.jaxpr.outvars, strict=True)):
            source = self._atom(atom, inner)
            environment[variable] = (
                self._in_other_dimensions(equation, f"{scope}/while/body", "expand_dims", source, variable.aval, repeat)
                if slot >= loop.carries
                else source
            )

    def _in_other_dimensions(
        self, equation: Any, scope: str, primitive: str, source: int, aval: Any, repeat: int | None
    ) -> int:
        """The same numbers with a leading dimension of one element more, or less."""
        result = self.add_value(aval)
        self.passed[result] = (source, len(self.values[source].shape) - len(self.values[result].shape))
        self.add_operation(equation, scope, [source], [result], repeat, primitive=primitive)
        return result

    def _atom(self, atom: Any, environment: dict[Any, int]) -> int:
        """The value of a variable; a literal becomes a value that nothing makes."""
        return self.add_value(atom.aval) if _is_literal(atom) else environment[atom]

    def _wait_for(self, equation: Any, scope: str, primitive: str, operands: Iterable[int], repeat: int | None) -> int:
        """A value without bytes that is there as soon as all the others are."""
        self.values.append(Value(shape=(0,), dtype="token", itemsize_bits=0))
        result = len(self.values) - 1
        self.add_operation(equation, scope, operands, [result], repeat, primitive=primitive)
        return result

    def _hand_on(
        self,
        equation: Any,
        scope: str,
        primitive: str,
        sources: Sequence[int],
        ready: int,
        aval: Any,
        repeat: int | None,
        *,
        continues: int | None = None,
    ) -> int:
        """What is received or returned, made from one of the sources when the loop is ready."""
        result = self.add_value(aval, continues=continues)
        lost = len(self.values[sources[0]].shape) - len(self.values[result].shape)
        self.passed[result] = (sources[0], lost)
        self.add_operation(
            equation, scope, [*sources, ready], [result], repeat, primitive=primitive, hands_on=len(sources)
        )
        return result

    def _constants(self, body: Any) -> dict[Any, int]:
        return {variable: self.add_value(variable.aval) for variable in body.jaxpr.constvars}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """An equation that runs its bodies more or less often than once.

    Attributes:
        primitive: what it is lowered to, ``while`` or ``cond``.
        bodies: each with what it receives, and how many of that are the same in every turn.
        carries: number of arrays that it hands from turn to turn.
        turns: None where that is not known.
    """

    primitive: str
    bodies: tuple[tuple[Any, list[Any], int], ...]
    carries: int
    turns: int | None

    @property
    def is_branch(self) -> bool:
        return self.primitive == "cond"

    @classmethod
    def of(cls, equation: Any) -> "_Loop":
        parameters, atoms = equation.params, list(equation.invars)
        match equation.primitive.name:
            case "scan":
                bodies = [(parameters["jaxpr"], atoms, parameters["num_consts"])]
                return cls(
                    primitive="while", bodies=tuple(bodies), carries=parameters["num_carry"], turns=parameters["length"]
                )
            case "while":
                of_condition, of_body = parameters["cond_nconsts"], parameters["body_nconsts"]
                carry = atoms[of_condition + of_body :]
                bodies = [
                    (parameters["cond_jaxpr"], atoms[:of_condition] + carry, of_condition),
                    (parameters["body_jaxpr"], atoms[of_condition : of_condition + of_body] + carry, of_body),
                ]
                return cls(primitive="while", bodies=tuple(bodies), carries=len(carry), turns=None)
        bodies = [(branch, atoms[1:], len(atoms) - 1) for branch in parameters["branches"]]
        return cls(primitive="cond", bodies=tuple(bodies), carries=0, turns=1)


def _rank(atom: Any) -> int:
    return len(getattr(atom.aval, "shape", ()))


def _call_body(equation: Any) -> Any:
    """The closed jaxpr that a call-like equation runs exactly once on its own operands, or None.

    A reduction carries one, too, which it runs on single numbers.
    """
    ranks = [_rank(atom) for atom in equation.invars]
    for name in _CALL_JAXPR:
        body = equation.params.get(name)
        jaxpr = getattr(body, "jaxpr", body)
        if hasattr(jaxpr, "eqns") and [_rank(variable) for variable in jaxpr.invars] == ranks:
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
    return shape, *_name_and_bits(dtype)


@cache
def _name_and_bits(dtype: Any) -> tuple[str, int]:
    name = str(dtype)
    match = re.search(r"int([24])$", name)
    return name, 8 if name == "bool" else int(match[1]) if match else int(dtype.itemsize) * 8


def _user_line(traceback: Any) -> str:
    """``file:line`` of the user's code that made an equation; empty where JAX does not say."""
    # JAX has no public way from an equation to its frame; losing it costs a column of the report, nothing else.
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(traceback)
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
    return tuple(_made_by(producer.get(index), value) for index, value in enumerate(values))


# `dataclasses.replace` looks through the fields each time, which takes three times as long; a network has 100,000 of these.


def _made_by(operation: int | None, value: Value) -> Value:
    return Value(
        shape=value.shape,
        dtype=value.dtype,
        itemsize_bits=value.itemsize_bits,
        operation=operation,
        argument=value.argument,
        divided_over=value.divided_over,
        continues=value.continues,
    )


def _in_layer(layer: str, operation: Operation) -> Operation:
    return Operation(
        primitive=operation.primitive,
        scope=operation.scope,
        layer=layer,
        phase=operation.phase,
        operands=operation.operands,
        results=operation.results,
        repeat=operation.repeat,
        source=operation.source,
        sizes=operation.sizes,
        same=operation.same,
        hands_on=operation.hands_on,
    )


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
        moves = operation.primitive in DATA_MOVEMENT | {"convert_element_type", "broadcast_in_dim"}
        if (moves or operation.hands_on) and operation.operands:
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
            layer = _largest_layer(table, operation.operands[: operation.hands_on or None], layer_of)
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
    operations = tuple(map(_in_layer, layers, table.operations))
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
        if operation.phase is Phase.UPDATE and operation.primitive == "reduce_sum":
            owner.setdefault(operation.operands[0], named)  # the gradients of single examples, added up by the user
        if not elementwise:
            continue
        for operand in operation.operands:
            if table.values[operand].elements == size and size > 1 and table.values[operand].argument is None:
                owner.setdefault(operand, named)
    return found
