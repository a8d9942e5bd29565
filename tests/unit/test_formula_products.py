"""Matrix products of the formula: who computes them, and what is done with them."""

import pytest

from jaxmem.formula.epilogues import batch_epilogues, product_epilogues
from jaxmem.formula.equal import find_equals
from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.formula.tiles import has_no_tiles, is_matrix
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.roles import Phase

Shape = tuple[int, ...]
Step = tuple[str, tuple[int, ...], Shape, tuple[tuple[str, tuple[int, ...]], ...]]


def table(arguments: tuple[Shape, ...], *steps: Step) -> LayerTable:
    """Arguments, then one value from each step (primitive, operands, shape, sizes); the last is the result."""
    values = [
        *(Value(shape=shape, dtype="float32", itemsize_bits=32, argument=i) for i, shape in enumerate(arguments)),
        *(Value(shape=step[2], dtype="float32", itemsize_bits=32, operation=i) for i, step in enumerate(steps)),
    ]
    operations = [
        Operation(
            primitive=primitive, scope="", layer="", phase=Phase.FORWARD, operands=operands,
            results=(len(arguments) + index,), sizes=sizes,
        )
        for index, (primitive, operands, _, sizes) in enumerate(steps)
    ]  # fmt: skip
    return LayerTable(
        values=tuple(values),
        operations=tuple(operations),
        arguments=tuple(range(len(arguments))),
        outputs=(len(values) - 1,),
    )


def product(*, left: tuple[int, ...], right: tuple[int, ...], batch: tuple[int, ...] = ()):
    return (("lhs_contracting", left), ("rhs_contracting", right), ("lhs_batch", batch), ("rhs_batch", batch))


@pytest.mark.parametrize(
    ("tokens", "without"), [(197, True), (49, True), (24, True), (8, False), (48, False), (64, False)]
)
def test_rows_of_a_transposed_operand_need_tiles_of_16(tokens: int, without: bool) -> None:
    """[2, heads, tokens, 32] → [2, tokens, heads · 32], times a matrix: rows of several sequences, not one after another.

    Of 48 or 64 tokens 16 are a part; 8 are half of a tile, and the next sequence is the other. 24 and 16 do not fit, nor do
    197 and 49.
    """
    heads = table(
        ((2, 3, tokens, 32), (96, 96)),
        ("transpose", (0,), (2, tokens, 3, 32), (("permutation", (0, 2, 1, 3)),)),
        ("reshape", (2,), (2, tokens, 96), (("new_sizes", (2, tokens, 96)),)),
        ("dot_general", (3, 1), (2, tokens, 96), product(left=(2,), right=(0,))),
    )
    assert has_no_tiles(heads, find_equals(heads, merges_remat=False)) is without
    assert not is_matrix(heads, heads.operations[-1], 0)
    assert is_matrix(heads, heads.operations[-1], 1)


def test_rows_that_follow_one_another_always_have_tiles() -> None:
    plain = table(((2, 197, 96), (96, 96)), ("dot_general", (0, 1), (2, 197, 96), product(left=(2,), right=(0,))))
    assert not has_no_tiles(plain, find_equals(plain, merges_remat=False))
    assert is_matrix(plain, plain.operations[-1], 0)


def test_cublas_adds_a_bias_and_then_a_matrix_over_which_it_writes() -> None:
    """x·w + b + y: values 4 (product), 5 and 6; the last is written, over y (3)."""
    residual = table(
        ((8, 4), (4, 4), (4,), (8, 4)),
        ("dot_general", (0, 1), (8, 4), product(left=(1,), right=(0,))),
        ("add", (4, 2), (8, 4), ()),
        ("add", (5, 3), (8, 4), ()),
    )
    assert product_epilogues(residual, find_equals(residual, merges_remat=False)) == ({4: 6, 5: 6}, {6: 3})


def test_a_batch_of_products_adds_tables_and_no_vectors() -> None:
    """Scores + positions [4, 4] + mask [1, 4, 4] + a vector [4]: the vector stays outside."""
    scores = table(
        ((2, 4, 8), (2, 4, 8), (4, 4), (1, 4, 4), (4,)),
        ("dot_general", (0, 1), (2, 4, 4), product(left=(2,), right=(2,), batch=(0,))),
        ("add", (5, 2), (2, 4, 4), ()),
        ("add", (6, 3), (2, 4, 4), ()),
        ("add", (7, 4), (2, 4, 4), ()),
    )
    equals = find_equals(scores, merges_remat=False)
    assert batch_epilogues(scores, equals, most=9) == ({5: 7, 6: 7}, {7: (2, 3)})
    assert batch_epilogues(scores, equals, most=1) == ({5: 6}, {6: (2,)})


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_product_that_sums_over_nothing_is_a_multiplication(platform: str) -> None:
    """The gradient of a dense layer for each example, [64, 256, 256], is added up where it is computed."""
    norms = table(
        ((64, 256), (64, 256)),
        ("dot_general", (0, 1), (64, 256, 256), product(left=(), right=(), batch=(0,))),
        ("reduce_sum", (2,), (), (("axes", (0, 1, 2)),)),
    )
    assert not any(find_live_ranges(norms, platform=platform).exists[:3])
