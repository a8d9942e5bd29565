"""What a program computes, as far as it is matrix products and convolutions."""

from math import prod

from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.unknown import Unknown


def matrix_flops(table: LayerTable | None) -> int | Unknown:
    """Multiplications and additions of the matrix products and convolutions of one step, on all devices together.

    Each number of a product sums over the contracted dimensions, so it takes 2 · prod(contracted). Each number of a
    convolution sums over a filter, the elements of the kernel divided by the number of filters. Where the input is spread
    by zeros (``lhs_dilation``, the gradient of a strided convolution), only one in prod(lhs_dilation) of these is a number
    of the input.
    """
    if table is None:
        return Unknown("the program was handed over already lowered, so its operations are not known")
    total = 0
    for operation in table.operations:
        if operation.primitive not in ("dot_general", "conv_general_dilated"):
            continue
        if operation.repeat is None:
            return Unknown("a loop does not say how often it runs")
        total += operation.repeat * 2 * _products(operation, table.values)
    return total


def _products(operation: Operation, values: tuple[Value, ...]) -> int:
    """How many pairs of numbers are multiplied."""
    if len(operation.operands) < 2:  # a literal is left out, and it is a scalar
        return 0
    left, right = (values[index].shape for index in operation.operands[:2])
    results = prod(values[operation.results[0]].shape)
    if operation.primitive == "dot_general":
        return results * prod(left[axis] for axis in operation.size("lhs_contracting"))
    filters = right[operation.size("rhs_spec")[0]]
    return results * (prod(right) // filters) // prod(operation.size("lhs_dilation"))
