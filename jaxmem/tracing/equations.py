"""The equations of a jaxpr as operations on numbered values: calls inlined, loops and branches made linear.

A loop or a branch becomes an operation for each array that its body receives, the body's operations, and one for each array
that it returns, so that dataflow stays acyclic and linear.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxmem.layer_table import Operation, Value
from jaxmem.roles import Phase
from jaxmem.tracing.abstract_values import array_of
from jaxmem.tracing.loops import LOOPS, Loop
from jaxmem.tracing.parameters import Sizes, digest, in_words, whole_numbers
from jaxmem.tracing.remembered import Remembered

_CALL_JAXPR = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Parameters under which a call-like primitive carries its body."""


def is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


@dataclass(slots=True)
class Equations:
    """What was read so far; `inline` reads on."""

    values: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    equations: list[Any] = field(default_factory=list)
    """The equation of each operation."""
    passed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Value that a loop or branch receives or returns → the value that it is on the other side, and the number of leading
    dimensions that it has lost (below 0: won) on the way."""
    late: set[int] = field(default_factory=set)
    """Values that depend on the backward pass or on optimizer state, and that state itself."""
    _array_of: Remembered[tuple[tuple[int, ...], str, int]] = field(default_factory=lambda: Remembered(array_of))
    _scope_of: Remembered[str] = field(default_factory=lambda: Remembered(str))
    _source_of: Remembered[str] = field(default_factory=lambda: Remembered(_user_line))
    _sizes_of: Remembered[Sizes] = field(default_factory=lambda: Remembered(whole_numbers))
    _words_of: Remembered[str] = field(default_factory=lambda: Remembered(in_words))

    def add_value(self, aval: Any, *, argument: int | None = None, continues: int | None = None) -> int:
        shape, dtype, bits = self._array_of(aval)
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
                source=self._source_of(equation.source_info.traceback),
                # What enters and leaves a loop has none of the loop's parameters, and is no one's equal.
                sizes=() if primitive else self._sizes_of(equation.params),
                same="" if primitive else digest(equation, self._words_of(equation.params)),
                hands_on=hands_on,
            )
        )

    def _phase(self, scope: str, operands: Iterable[int]) -> Phase:
        """Backward is what autodiff transposed; update is what depends on it, or on optimizer state; the rest is forward."""
        if "transpose(" in scope:
            return Phase.BACKWARD
        return Phase.FORWARD if self.late.isdisjoint(operands) else Phase.UPDATE

    def inline(self, jaxpr: Any, environment: dict[Any, int], *, scope: str, repeat: int | None) -> None:
        for equation in jaxpr.eqns:
            inner_scope = _joined(scope, self._scope_of(equation.source_info.name_stack))
            primitive = equation.primitive.name
            if primitive in LOOPS:
                self._inline_loop(equation, environment, scope=inner_scope, repeat=repeat)
            elif (body := _call_body(equation)) is not None:
                self._inline_call(equation, body, environment, scope=inner_scope, repeat=repeat)
            else:
                operands = [environment[atom] for atom in equation.invars if not is_literal(atom)]
                results = [self.add_value(variable.aval) for variable in equation.outvars]
                environment.update(zip(equation.outvars, results, strict=True))
                self.add_operation(equation, inner_scope, operands, results, repeat)

    def _inline_call(
        self, equation: Any, body: Any, environment: dict[Any, int], *, scope: str, repeat: int | None
    ) -> None:
        inner = self._constants(body)
        for atom, variable in zip(equation.invars, body.jaxpr.invars, strict=True):
            inner[variable] = self.add_value(variable.aval) if is_literal(atom) else environment[atom]
        name = equation.params.get("name")
        if equation.primitive.name in ("jit", "pjit"):
            scope = _joined(scope, f"jit({name})")
        elif equation.primitive.name in ("checkpoint", "remat2", "remat"):
            scope = _joined(scope, "checkpoint")
        self.inline(body.jaxpr, inner, scope=scope, repeat=repeat)
        for variable, atom in zip(equation.outvars, body.jaxpr.outvars, strict=True):
            environment[variable] = self.add_value(variable.aval) if is_literal(atom) else inner[atom]

    def _inline_loop(self, equation: Any, environment: dict[Any, int], *, scope: str, repeat: int | None) -> None:
        """A loop or a branch: what it receives, its body once, what it returns; each array by an operation of its own.

        JAX lowers both kinds of loop to ``while``, which carries its state from turn to turn in one place. A scan slices what
        it runs over, and writes what it stacks into an array that it carries.
        """
        loop = Loop.of(equation)
        if loop.turns == 1 and not loop.is_branch:
            self._inline_single_turn(equation, loop, environment, scope=scope, repeat=repeat)
            return
        turns = None if repeat is None or loop.turns is None else repeat * loop.turns
        outer = [environment[atom] for atom in equation.invars if not is_literal(atom)]
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
        lasting = outer if loop.is_branch else [environment[atom] for atom in loop.lasting if not is_literal(atom)]
        end = self._wait_for(
            equation, scope, loop.primitive, lasting + [value for each in returned for value in each], repeat
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
        self, equation: Any, loop: Loop, environment: dict[Any, int], *, scope: str, repeat: int | None
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
        return self.add_value(atom.aval) if is_literal(atom) else environment[atom]

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


def _joined(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope and name else scope or name


def _ranks(atoms: Iterable[Any]) -> list[int]:
    return [len(getattr(atom.aval, "shape", ())) for atom in atoms]


def _call_body(equation: Any) -> Any:
    """The closed jaxpr that a call-like equation runs exactly once on its own operands, or None.

    A reduction carries one, too, which it runs on single numbers.
    """
    for name in _CALL_JAXPR:
        body = equation.params.get(name)
        jaxpr = getattr(body, "jaxpr", body)
        if hasattr(jaxpr, "eqns") and _ranks(jaxpr.invars) == _ranks(equation.invars):
            return body if hasattr(body, "jaxpr") else _Open(jaxpr)
    return None


@dataclass(frozen=True, slots=True)
class _Open:
    """An open jaxpr in the shape of a closed one."""

    jaxpr: Any


def _user_line(traceback: Any) -> str:
    """``file:line`` of the user's code that made an equation; empty where JAX does not say."""
    # JAX has no public way from an equation to its frame; losing it costs a column of the report, nothing else.
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(traceback)
    except (ImportError, AttributeError, TypeError):
        return ""
    return f"{frame.file_name}:{frame.start_line}" if frame is not None else ""
