"""Kernels that XLA's compiler for GPUs makes one of: reductions over the same array, and what writes that array.

Multi-output fusion (xla/service/gpu/transforms/multi_output_fusion.cc) lets a kernel that reads an array for one reduction do
the other reductions of that array as well, and write the array itself where it computes it element by element. The backward
pass of a normalization so has all its sums as soon as the gradient that they add up exists, and that gradient need not wait
for those that only the update reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxmem.formula.fusion import REDUCTIONS
from jaxmem.formula.kernels import Array, Kernel
from jaxmem.layer_table import LayerTable, Operation


def join_reductions(
    kernels: Sequence[Kernel],
    arrays: Sequence[Array],
    table: LayerTable,
    *,
    computes: Callable[[Kernel], bool],
) -> list[Kernel]:
    """The kernels with reductions joined. Linear in the size of the program.

    A reduction is moved up to the place of the first of its siblings, or of what writes the array. It moves only where all
    that it reads exists by then, so that what is joined never waits for itself.

    Args:
        kernels: in an order in which they can run.
        arrays, table: what they read and write.
        computes: whether a kernel computes element by element.
    """
    writer = {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}
    readers: dict[int, list[int]] = {}
    for index, kernel in enumerate(kernels):
        for array in kernel.reads:
            readers.setdefault(array, []).append(index)
    place = list(range(len(kernels)))

    def reduces(index: int, array: int) -> Operation | None:
        operation, value = table.operations[kernels[index].operation], arrays[array].value
        if operation.primitive not in REDUCTIONS or value is None or place[index] != index:
            return None
        return operation if table.values[operation.operands[0]].elements == table.values[value].elements else None

    def exists_before(index: int, at: int, but: int) -> bool:
        return all(place[writer[array]] < at for array in kernels[index].reads if array != but and array in writer)

    for array in sorted(readers, key=lambda array: writer.get(array, -1)):
        siblings = [(index, found) for index in readers[array] if (found := reduces(index, array)) is not None]
        if not siblings:
            continue
        made = writer.get(array)
        first = siblings[0][1]
        if made is not None and place[made] == made and computes(kernels[made]):
            at, waiting = made, siblings
        else:
            at, waiting = siblings[0][0], siblings[1:]
        for index, operation in waiting:
            if operation.size("axes") == first.size("axes") and exists_before(index, at, array):
                place[index] = at
    members: dict[int, list[int]] = {}
    for index, at in enumerate(place):
        members.setdefault(at, []).append(index)
    return [_joined([kernels[one] for one in members[at]]) for at in sorted(members)]


def _joined(kernels: Sequence[Kernel]) -> Kernel:
    if len(kernels) == 1:
        return kernels[0]
    writes = tuple(array for kernel in kernels for array in kernel.writes)
    return replace(
        kernels[0],
        reads=tuple(dict.fromkeys(array for kernel in kernels for array in kernel.reads if array not in writes)),
        writes=writes,
        arguments=tuple(dict.fromkeys(value for kernel in kernels for value in kernel.arguments)),
    )
