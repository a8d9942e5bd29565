"""The layer table of VGG written by hand from Table 1 of the paper (arXiv:1409.1556), and what the trace gives: equal.

One image of 224 × 224, training. For each layer: the size of its feature map, and what autodiff keeps of it. A layer is
named by what hands its result on: with batch normalization the ReLU stands behind the normalization, not the convolution.

- ReLU: its result, the input of the next layer (4 bytes a number), and where it was positive (1 byte).
- Pool: its result, the input of the next layer.
- Batch normalization: x − mean, and 2x of the square in the variance (two full tensors); five vectors of the width.
- Dropout: its result and its mask; the ReLU before it keeps its mask alone, for nothing else reads its result.
- Loss: exp(logits), two numbers and a mask of the right class.
"""

from collections.abc import Iterator

import pytest

from jaxmem.analysis import Target, program_of
from jaxmem.formula import Formula
from jaxmem.roles import Phase
from jaxmem_models.registry import MODELS

TABLE_1 = {
    "11": "64 M 128 M 256 256 M 512 512 M 512 512 M",  # A
    "13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",  # B
    "16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",  # D
    "19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",  # E
}
VGGS = [row.name for row in MODELS if row.name.startswith("vgg")]

Row = tuple[str, int, int, int]
"""(layer, numbers of its feature map, kept bytes of floats, kept bytes of masks)."""


def by_hand(name: str) -> Iterator[Row]:
    batch_norm = name.endswith("_bn")
    size, block, layer, channels = 224, 1, 1, 0
    for entry in TABLE_1[name.removeprefix("vgg").removesuffix("_bn")].split():
        if entry == "M":
            size //= 2
            numbers = size * size * channels
            yield f"pool{block}", numbers, 4 * numbers, 0
            block, layer = block + 1, 1
            continue
        channels = int(entry)
        numbers = size * size * channels
        if batch_norm:
            yield f"conv{block}_{layer}", numbers, 0, 0
            yield f"bn{block}_{layer}", numbers, 3 * 4 * numbers + 5 * 4 * channels, numbers
        else:
            yield f"conv{block}_{layer}", numbers, 4 * numbers, numbers
        layer += 1
    for number in (6, 7):
        yield f"fc{number}", 4096, 0, 4096
        yield f"drop{number}", 4096, 4 * 4096, 4096
    yield "fc8", 1000, 0, 0
    yield "loss", 1, 4 * 1000 + 4 + 4, 1


def traced(formula: Formula) -> Iterator[Row]:
    # What a backend adds for its own sake is not the program's.
    forward = [leaf for leaf in formula.leaves if leaf.phase is Phase.FORWARD and not leaf.of_backend]
    for layer in dict.fromkeys(leaf.layer for leaf in forward if leaf.layer):
        own = [leaf for leaf in forward if leaf.layer == layer]
        kept = [leaf for leaf in own if leaf.keeps]
        masks = sum(leaf.bytes for leaf in kept if leaf.name.startswith("mask"))
        # The last full array of a layer is its feature map; a loss ends with its mean.
        yield layer, own[-1].elements, sum(leaf.bytes for leaf in kept) - masks, masks


def test_all_eight_are_here() -> None:
    assert len(VGGS) == 2 * len(TABLE_1)


@pytest.mark.parametrize("name", VGGS)
def test_the_traced_table_is_the_one_by_hand(name: str, formula) -> None:
    program = program_of(Target(text=name, mode="train", batch_size=1, device="cpu"))
    assert list(traced(formula(program))) == list(by_hand(name))


@pytest.mark.parametrize("name", VGGS)
def test_kept_bytes_grow_with_the_batch_and_nothing_else(name: str, formula) -> None:
    """Twice the images keep twice the bytes, but for the vectors of the normalizations."""
    program = program_of(Target(text=name, mode="train", batch_size=2, device="cpu"))
    found = {layer: floats + masks for layer, _, floats, masks in traced(formula(program))}
    for layer, numbers, floats, masks in by_hand(name):
        vectors = (floats - 3 * 4 * numbers) if layer.startswith("bn") else 0
        assert found[layer] == 2 * (floats + masks) - vectors, layer
