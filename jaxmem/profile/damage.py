"""What a buffer assignment has lost or resized; no compiler writes that, a broken file may."""

from collections.abc import Iterator

from jaxmem.profile.data import Damage, Leaf
from jaxmem.profile.live_ranges import LiveRanges
from jaxmem.xla.buffers import BufferAssignment
from jaxmem.xla.hlo import Module


def without_memory(
    module: Module, assignment: BufferAssignment, schedule: tuple[int, ...], ranges: LiveRanges
) -> Iterator[Damage]:
    """Values that scheduled instructions make, and tables of pointers, that are in no allocation."""
    placed = {assigned.buffer_id for allocation in assignment.allocations for assigned in allocation.assigned}
    buffers = [assignment.buffers[identifier] for identifier in placed]
    covered: set[Leaf] = {(logical.instruction_id, logical.shape_index) for logical in buffers}
    for leaf in [leaf for leaf in covered if ranges.is_handed_on(leaf[0])]:
        covered.update(ranges.places(leaf))
    instructions = module.instructions
    found = {
        leaf: shape.logical_bytes
        for identifier in schedule
        for index, shape in instructions[identifier].shape.leaves
        if (leaf := (identifier, index)) not in covered and shape.logical_bytes
    }
    for logical in assignment.buffers.values():
        if logical.id not in placed and logical.size:
            found[logical.instruction_id, logical.shape_index] = logical.size
    for leaf, size_bytes in found.items():
        yield Damage(leaf=leaf, size_bytes=size_bytes, what="no memory")


def of_wrong_size(module: Module, assignment: BufferAssignment, pointer_bytes: int, platform: str) -> Iterator[Damage]:
    """Buffers whose size is not that of their value: its elements, or what a tiled layout makes of them."""
    instructions = module.instructions
    for allocation in assignment.allocations:
        for assigned in allocation.assigned:
            logical = assignment.buffers[assigned.buffer_id]
            shape, size_bytes = instructions[logical.instruction_id].shape.subshape(logical.shape_index), assigned.size
            content = len(shape.tuple_shapes) * pointer_bytes if shape.is_tuple else shape.logical_bytes
            if size_bytes == logical.size == content:
                continue
            # Layouts without tiles add nothing, but for whole granules on a TPU, and opaque values have a size of their own.
            exact = content and not shape.tiles and not shape.is_tuple and platform != "tpu"
            wrong = max(abs(size_bytes - logical.size), content - size_bytes)
            if exact:
                wrong = max(wrong, size_bytes - content)
            if wrong > 0:
                leaf = (logical.instruction_id, logical.shape_index)
                yield Damage(leaf=leaf, size_bytes=wrong, what="another size than its value")
