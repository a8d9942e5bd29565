"""What the backward pass of a max-pool scatters into."""

from jaxmem.formula.equal import Equals
from jaxmem.layer_table import LayerTable

Kind = tuple[tuple[int, ...], str]
"""Shape and number format."""


def with_borders(shape: tuple[int, ...], padding: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the borders of a window's padding (before and after each dimension) where one stands in front."""
    before, after = padding[::2], padding[1::2]
    if not any(before):
        return shape
    return tuple(size + low + high for size, low, high in zip(shape, before, after, strict=True))


def zeros_of_pools(table: LayerTable, equals: Equals) -> frozenset[Kind]:
    """The zeros that max-pools scatter into: of the shape of the map, with its borders."""
    found = set()
    for index in equals.operations:
        operation = table.operations[index]
        if operation.primitive == "select_and_scatter_add" and operation.results[0] not in equals.scattered_into:
            result = table.values[operation.results[0]]
            found.add((with_borders(result.shape, operation.size("padding")), result.dtype))
    return frozenset(found)
