"""The answers that other tools and rules of thumb give, computed as they are meant, for the comparison."""

from collections.abc import Sequence

from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument
from jaxmem.roles import Phase, Role

TORCHINFO = "torchinfo: input + w + 2·outputs"
FOUR_TIMES = "4w"


def torchinfo_bytes(table: LayerTable, arguments: Sequence[Argument]) -> int:
    """What torchinfo prints as the "estimated total size" of a network: input + parameters + 2 × outputs.

    The outputs are those of the modules that have parameters of their own (a convolution, a normalization, a dense layer), each
    counted once forward and once backward; activations and poolings have no parameters and are left out. For VGG-16 that
    is 2 × 4 B × 13,556,712 an image. Here a layer's output is the largest array that its forward pass makes.
    """
    owners = {argument.layer for argument in arguments if argument.role is Role.PARAMETERS and argument.layer}
    largest: dict[str, int] = {}
    for operation in table.operations:
        if operation.phase is Phase.FORWARD and operation.layer in owners:
            made = max((table.values[result].logical_bytes for result in operation.results), default=0)
            largest[operation.layer] = max(largest.get(operation.layer, 0), made)
    sizes = {
        role: sum(argument.logical_bytes for argument in arguments if argument.role is role)
        for role in (Role.PARAMETERS, Role.INPUTS)
    }
    return sizes[Role.INPUTS] + sizes[Role.PARAMETERS] + 2 * sum(largest.values())


def four_times_bytes(arguments: Sequence[Argument]) -> int:
    """Parameters, gradients and Adam's two moments, and nothing else: 4w."""
    return 4 * sum(argument.logical_bytes for argument in arguments if argument.role is Role.PARAMETERS)
