"""The two answers that textbooks and forums give, computed as written, so that a reader sees how far each is from XLA.

Source: "What is the memory cost of a CNN?", Data Science Stack Exchange, question 16292 and its answer. With s the bytes of
one number, w the number of parameters, F_l the feature map of layer l for one image, B the batch size:

- Training, the question: the weights and their update (2w), all feature maps of the forward pass (B·ΣF_l), the gradients (w)
  and Adam's rate for each weight (w): s·(4w + B·ΣF_l).
- Inference, the question: s·(w + max_l(F_l + F_{l+1})), the two largest successive layers.
- The answer: B·(s·w + s·Σ input_l), the input of every layer with the input image as the first.

On several devices B is the batch of one of them, and w what one of them holds.

The layers of these formulas are the convolutions, matrix products and poolings of the forward pass, in order.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxmem.formula.fusion import CONTRACTIONS
from jaxmem.formula.leaves import Textbook
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument
from jaxmem.roles import Phase, Role

POOLINGS = frozenset({"reduce_window", "reduce_window_max", "reduce_window_sum", "reduce_window_min"})


def textbook_formulas(
    table: LayerTable, arguments: Sequence[Argument], *, batch_size: int | None, training: bool
) -> tuple[Textbook, ...]:
    """Both answers with the numbers of this program put in; none where the batch size is not known."""
    if not batch_size:
        return ()
    maps, inputs, devices = [], [], 1
    for operation in table.operations:
        if operation.phase is Phase.FORWARD and operation.primitive in CONTRACTIONS | POOLINGS and operation.results:
            made = table.values[operation.results[0]]
            maps.append(prod(made.shape) // batch_size)
            inputs.append(prod(table.values[operation.operands[0]].shape) // batch_size)
            devices = max(devices, made.divided_over)
    parameters = [argument for argument in arguments if argument.role is Role.PARAMETERS]
    width = max((argument.itemsize_bits for argument in parameters), default=32) // 8
    w = sum(argument.elements for argument in parameters)
    if not maps or not w:
        return ()
    layers, batch_size = sum(inputs), batch_size // devices
    answer = Textbook(
        name="textbook: B·(w + ΣF)",
        formula=f"{batch_size} × {width} × ({w:,} + {layers:,})",
        bytes=batch_size * width * (w + layers),
    )
    if training:
        return (
            Textbook(
                name="textbook: 4w + B·ΣF",
                formula=f"{width} × (4 × {w:,} + {batch_size} × {sum(maps):,})",
                bytes=width * (4 * w + batch_size * sum(maps)),
            ),
            answer,
        )
    pair = max((a + b for a, b in pairwise(maps)), default=maps[0])
    return (
        Textbook(
            name="textbook: w + max(F_l + F_l+1)",
            formula=f"{width} × ({w:,} + {batch_size} × {pair:,})",
            bytes=width * (w + batch_size * pair),
        ),
        answer,
    )
