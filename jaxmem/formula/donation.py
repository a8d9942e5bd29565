"""Which result is written over which donated argument."""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence

from jaxmem.lowering import Argument, Output


def slots(arguments: Sequence[Argument], outputs: Sequence[Output], used: Collection[int]) -> dict[int, int]:
    """Index of a result → index of the donated argument whose memory it gets.

    JAX decides by shape and number format alone, not by what an array means: the results in their order each take the first
    donated argument of their kind that is left. What is left of both is matched by the number of elements, for XLA, which wants
    the same number of bytes (``_set_up_aliases`` in jax/_src/interpreters/mlir.py).

    Args:
        arguments, outputs: the lowering's tables.
        used: indices of the arguments that the program receives.
    """
    found: dict[int, int] = {}
    free = {index: argument for index, argument in enumerate(arguments) if argument.donated and index in used}

    def match(kind_of: Callable[[Argument | Output], Hashable]) -> None:
        waiting: dict[Hashable, deque[int]] = {}
        for index, argument in free.items():
            waiting.setdefault(kind_of(argument), deque()).append(index)
        for position, output in enumerate(outputs):
            if position not in found and (first := waiting.get(kind_of(output))):
                found[position] = first.popleft()
                del free[found[position]]

    match(lambda array: (array.shape, array.dtype))
    match(lambda array: (array.elements, array.itemsize_bits))
    return found
