"""In which order instructions run."""

from collections.abc import Iterator

from jaxmem.xla.hlo import Instruction, Module

_CONTROL_FLOW = ("while", "conditional", "call", "async-start")


def flatten_schedule(module: Module) -> tuple[int, ...]:
    """Instruction ids in the order in which they run; the body of a loop or branch stands once, before its instruction."""
    flat: list[int] = []
    stack: list[Iterator[int]] = [iter(instruction_order(module, module.entry_computation_id))]
    waiting: list[int] = []
    while stack:
        identifier = next(stack[-1], None)
        if identifier is None:
            stack.pop()
            if waiting:
                flat.append(waiting.pop())
            continue
        instruction = module.instructions[identifier]
        if instruction.opcode in _CONTROL_FLOW and (inner := _inner_order(module, instruction)):
            waiting.append(identifier)
            stack.append(iter(inner))
        else:
            flat.append(identifier)
    return tuple(flat)


def _inner_order(module: Module, instruction: Instruction) -> list[int]:
    computations = sequential_computations(instruction)
    return [inner for computation in computations for inner in instruction_order(module, computation)]


def instruction_order(module: Module, computation_id: int) -> tuple[int, ...]:
    """The schedule of a computation, or the order of the module where there is none (inside fusions)."""
    return module.schedule.get(computation_id) or module.computations[computation_id].instruction_ids


def sequential_computations(instruction: Instruction) -> tuple[int, ...]:
    """The computations that an instruction runs, one after another, as part of the schedule."""
    return instruction.called_computation_ids if instruction.opcode in _CONTROL_FLOW else ()
