"""Whether the instructions of a module fit together: what is handed to a computation is what it takes, and comes back.

XLA writes no module that fails here, a damaged file may: what comes after the reader follows values through tuples, loops
and calls without looking at every step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from operator import is_
from typing import NamedTuple

from jaxmem.errors import InputError
from jaxmem.xla.hlo import Computation, Instruction, Shape

ENTERED = frozenset({"fusion", "call", "while", "conditional", "async-start"})
"""Opcodes whose computations are part of the dataflow; what a reduction calls for each element is not."""

_MAY_READ_NOTHING = frozenset(
    """parameter constant iota tuple after-all create-token partition-id replica-id rng-get-and-update-state infeed recv call
    custom-call fusion async-start""".split()
)
"""Opcodes of instructions that need no operands; all others compute from what they are given."""

_DEEPEST = 200
"""Computations within computations. Programs stay below a dozen: a level is a loop, a branch or a fusion."""

_MOST_REPEATED = 16
"""How many times its own size a module may have once every call has a copy of what it calls. XLA gives every call its own
copy before it assigns buffers; without a limit, sixty short computations that call each other twice are 2^60 instructions."""

_FREELY_REPEATED = 100_000
"""Instructions that may be repeated in any case."""


def verify_module(
    computations: Mapping[int, Computation],
    instructions: Mapping[int, Instruction],
    entry_id: int,
    broken: Callable[[str], InputError],
) -> None:
    """Check every instruction that passes values on.

    Args:
        broken: makes the error from what is wrong.

    Raises:
        InputError: by ``broken``.
    """
    of_nothing = {
        identifier
        for identifier, one in instructions.items()
        if one.shape.element_type == "tuple" and not one.shape.leaves
    }
    parameters, calling, checked = [], [], []
    for instruction in instructions.values():
        given, opcode = instruction.operand_ids, instruction.opcode
        if (not given or (of_nothing and of_nothing.issuperset(given))) and opcode not in _MAY_READ_NOTHING:
            raise broken(f"{instruction.name} ({opcode}) is given no array")
        if instruction.called_computation_ids:
            calling.append(instruction)
        if opcode == "parameter":
            parameters.append(instruction)
        elif opcode in _CHECKED:
            checked.append(instruction)
    _check_nesting(computations, calling, len(instructions), entry_id, broken)
    signatures = _signatures(computations, instructions, parameters, entry_id, broken)
    for instruction in checked:
        if instruction.opcode == "fusion" and _fits_exactly(instruction, instructions, signatures):
            continue
        for problem in _problems(instruction, instructions, signatures):
            raise broken(f"{instruction.name} ({instruction.opcode}) {problem}")


class _Signature(NamedTuple):
    """What a computation takes, by the numbers of its parameters, and what it makes."""

    takes: Sequence[Shape]
    makes: Shape

    def fits(self, given: Sequence[Shape]) -> bool:
        """Whether it can be handed these."""
        return _all_same(self.takes, given)


def same_structure(one: Shape, other: Shape) -> bool:
    """Whether two shapes have their arrays in the same places, whatever the arrays are."""
    if one is other:
        return True
    if one.is_tuple != other.is_tuple or len(one.tuple_shapes) != len(other.tuple_shapes):
        return False
    return all(map(same_structure, one.tuple_shapes, other.tuple_shapes))


def _all_same(some: Sequence[Shape], others: Sequence[Shape]) -> bool:
    return len(some) == len(others) and (all(map(is_, some, others)) or all(map(same_structure, some, others)))


def _check_nesting(
    computations: Mapping[int, Computation],
    calling: Iterable[Instruction],
    instruction_count: int,
    entry_id: int,
    broken: Callable[[str], InputError],
) -> None:
    calls: dict[int, set[int]] = {}
    entered: dict[int, list[int]] = {}
    for instruction in calling:
        caller, called = instruction.computation_id, instruction.called_computation_ids
        for computation_id in called:
            if computation_id not in computations:
                raise broken(f"instruction {instruction.name} calls computation {computation_id}, which is not there")
        calls.setdefault(caller, set()).update(called)
        if instruction.opcode in ENTERED:
            entered.setdefault(caller, []).extend(called)
    # Most computations call none: only those that do are sorted.
    try:
        inner_first = tuple(
            TopologicalSorter({caller: called & calls.keys() for caller, called in calls.items()}).static_order()
        )
    except CycleError as error:
        cycle = " -> ".join(computations[computation_id].name for computation_id in error.args[1][:20])
        raise broken(f"computations call each other in a circle: {cycle}") from error
    size = {computation_id: len(computation.instruction_ids) for computation_id, computation in computations.items()}
    depth = dict.fromkeys(computations, 1)
    for computation_id in inner_first:
        for inner in entered.get(computation_id, ()):
            size[computation_id] += size[inner]
            depth[computation_id] = max(depth[computation_id], 1 + depth[inner])
    if depth[entry_id] > _DEEPEST:
        raise broken(f"its computations are nested {depth[entry_id]} deep, and {_DEEPEST} are read")
    if size[entry_id] > max(_FREELY_REPEATED, _MOST_REPEATED * instruction_count):
        raise broken("its computations are called so often that no compiler would have made a schedule of it")


def _signatures(
    computations: Mapping[int, Computation],
    instructions: Mapping[int, Instruction],
    parameters: Sequence[Instruction],
    entry_id: int,
    broken: Callable[[str], InputError],
) -> dict[int, _Signature]:
    """Of each computation; what the entry takes is checked elsewhere."""
    taken: dict[int, dict[int, Shape]] = {identifier: {} for identifier in computations}
    misnumbered = set[int]()
    for parameter in parameters:
        shapes, number = taken[parameter.computation_id], parameter.attributes.parameter_number or 0
        if number in shapes:
            misnumbered.add(parameter.computation_id)
        shapes[number] = parameter.shape
    signatures = {}
    for identifier, shapes in taken.items():
        takes = [shapes[number] for number in range(len(shapes)) if number in shapes]
        if len(takes) != len(shapes):
            misnumbered.add(identifier)
        signatures[identifier] = _Signature(takes, instructions[computations[identifier].root_id].shape)
    for identifier in misnumbered - {entry_id}:
        here = (one for one in parameters if one.computation_id == identifier)
        numbers = sorted(one.attributes.parameter_number or 0 for one in here)
        raise broken(f"the parameters of {computations[identifier].name} are numbered {numbers[:8]}")
    return signatures


def _fits_exactly(
    fusion: Instruction, instructions: Mapping[int, Instruction], signatures: Mapping[int, _Signature]
) -> bool:
    """Whether a fusion hands its one computation shapes that are the very same, and so does that: most do."""
    called = fusion.called_computation_ids
    if len(called) != 1:
        return False
    takes, makes = signatures[called[0]]
    return makes is fusion.shape and takes == [instructions[identifier].shape for identifier in fusion.operand_ids]


def _problems(
    instruction: Instruction, instructions: Mapping[int, Instruction], signatures: Mapping[int, _Signature]
) -> Iterator[str]:
    shape, called = instruction.shape, [signatures[one] for one in instruction.called_computation_ids]
    operands = [instructions[identifier].shape for identifier in instruction.operand_ids]
    match instruction.opcode:
        case "tuple":
            if not _all_same(shape.tuple_shapes, operands):
                yield f"makes {_few(shape)} of {len(operands)} operands"
        case "get-tuple-element":
            element = operands[0].tuple_shapes[instruction.tuple_index or 0]
            if not same_structure(element, shape):
                yield f"takes {_few(element)} for {_few(shape)}"
        case "fusion" | "call":
            if len(called) != 1:
                yield f"calls {len(called)} computations, not one"
            elif not called[0].fits(operands):
                yield "hands its computation other operands than that takes"
            elif not same_structure(called[0].makes, shape):
                yield f"takes {_few(called[0].makes)} for {_few(shape)}"
        case "while":
            if len(operands) != 1 or len(called) != 2 or not same_structure(operands[0], shape):
                yield "is no loop over one state with a condition and a body"
            elif not all(one.fits(operands) for one in called):
                yield "hands its computations another state than they take"
            elif not any(same_structure(one.makes, shape) for one in called):
                yield "has no body that makes the next state"
        case "conditional":
            if not called or len(operands) != len(called) + 1 or operands[0].is_tuple:
                yield f"chooses between {len(called)} branches with {len(operands)} operands"
            elif not all(branch.fits([given]) for branch, given in zip(called, operands[1:], strict=True)):
                yield "hands a branch something else than it takes"
            elif not all(same_structure(branch.makes, shape) for branch in called):
                yield f"has a branch that does not make {_few(shape)}"
        case "async-start":
            if len(shape.tuple_shapes) < 2:
                yield f"makes {_few(shape)}, where operands and results are expected"
            elif len(called) > 1 or not all(one.fits(operands) for one in called):
                yield "hands its computation other operands than that takes"
        case "async-done" | "async-update" | "copy-done" | "all-gather-done" | "collective-permute-done":
            element = _ELEMENT[instruction.opcode]
            given = operands[0] if len(operands) == 1 else None
            if given is not None and element is not None:
                given = given.tuple_shapes[element] if element < len(given.tuple_shapes) else None
            if given is None or not same_structure(given, shape):
                yield f"does not end what {_few(operands[0]) if operands else 'nothing'} begins"
        case "all-reduce-done":
            if len(operands) != 1 or not same_structure(operands[0], shape):
                yield "does not end what its operand begins"
        case "copy-start":
            if not operands or len(shape.tuple_shapes) < 2:
                yield f"makes {_few(shape)}, where operands and results are expected"
        case "all-gather-start" | "collective-permute-start":
            parts = shape.tuple_shapes[:2]
            given = operands[0] if len(operands) == 1 else Shape(element_type="tuple", tuple_shapes=tuple(operands))
            if not operands or len(parts) < 2 or not all(same_structure(part, given) for part in parts):
                yield f"makes {_few(shape)}, where operands and results are expected"
        case "all-reduce" | "all-reduce-start" | "reduce-scatter" | "all-gather" | "collective-permute":
            if len(operands) > 1 and not _all_same(shape.tuple_shapes, operands):
                yield f"makes {_few(shape)} of {len(operands)} operands"


_ELEMENT: dict[str, int | None] = {
    "async-done": 1,
    "async-update": None,
    "copy-done": 0,
    "all-gather-done": 1,
    "collective-permute-done": 1,
}
"""Which element of its operand is the result; None for all of it."""

_CHECKED = frozenset(
    """tuple get-tuple-element fusion call while conditional async-start all-reduce-done copy-start all-gather-start
    collective-permute-start all-reduce all-reduce-start reduce-scatter all-gather collective-permute""".split()
) | frozenset(_ELEMENT)


def _few(shape: Shape) -> str:
    text = shape.text()
    return text if len(text) <= 80 else f"{text[:77]}..."
