"""Advice: what each change saves, in order, and that it is said when one does not help or does not compile."""

from collections.abc import Callable

import pytest

from jaxmem.errors import EnvironmentFailure, InvariantError, UsageError
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.planner import Changed, Tried, advise, matrix_flops
from jaxmem.result import Advice, Boundary, Probe
from jaxmem.roles import Phase
from jaxmem.unknown import Unknown

BEFORE = Tried(required_bytes=1000, fits=False, flops=50)


def change(name: str, size: int, flops: int | Unknown = 50) -> Changed:
    return Changed(
        change=name,
        how=f"--{name}",
        compile=lambda: Tried(required_bytes=size, fits=size <= 600, flops=flops),
    )


def test_the_most_useful_comes_first_and_what_does_not_help_says_so() -> None:
    rows = advise(BEFORE, [change("worse", 1100), change("little", 900), change("much", 500, 80), change("none", 1000)])
    assert [(row.change, row.saved_bytes, row.helps, row.fits) for row in rows] == [
        ("much", 500, True, True),
        ("little", 100, True, False),
        ("none", 0, False, False),
        ("worse", -100, False, False),
    ]
    assert [row.extra_flops for row in rows] == [30, 0, 0, 0]
    assert {row.before_bytes for row in rows} == {1000}


def failing(error: Exception) -> Callable[[], Tried]:
    def compile_it() -> Tried:
        raise error

    return compile_it


@pytest.mark.parametrize("error", [EnvironmentFailure("The compiler died.\nIts words."), UsageError("No such option.")])
def test_a_change_that_does_not_compile_comes_last_with_its_reason(error: Exception) -> None:
    broken = Changed(change="broken", how="", compile=failing(error))
    rows = advise(BEFORE, [broken, change("worse", 2000)])
    assert [row.change for row in rows] == ["worse", "broken"]
    assert rows[1].after_bytes == Unknown(f"it did not compile: {str(error).splitlines()[0]}")
    assert not rows[1].helps


def test_a_defect_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        advise(BEFORE, [Changed(change="defect", how="", compile=failing(ZeroDivisionError()))])


def test_flops_that_are_not_known_stay_unknown() -> None:
    reason = Unknown("a loop does not say how often it runs")
    assert advise(BEFORE, [change("loop", 500, reason)])[0].extra_flops == reason
    assert advise(Tried(required_bytes=1, fits=True, flops=reason), [change("x", 2)])[0].extra_flops == reason


def test_advice_whose_difference_is_wrong_cannot_be_made() -> None:
    with pytest.raises(InvariantError, match="not its difference"):
        Advice(change="x", how="", before_bytes=10, after_bytes=4, saved_bytes=5, extra_flops=0, helps=True, fits=True)


@pytest.mark.parametrize(
    ("largest", "beyond", "compiles", "message"),
    [
        (2, 3, 3, "3 compiles are counted"),
        (3, 4, 2, "no compile shows that it fits"),
        (2, 4, 2, "no compile shows that"),
        (1, 3, 2, "no compile shows that it fits"),
    ],
)
def test_a_boundary_that_is_not_proven_cannot_be_made(largest: int, beyond: int, compiles: int, message: str) -> None:
    proof = tuple(Probe(batch_size=batch, required_bytes=batch, judged_bytes=batch, fits=batch < 3) for batch in (2, 3))
    with pytest.raises(InvariantError, match=message):
        Boundary(
            largest_batch=largest,
            next_batch=beyond,
            multiple_of=1,
            searched_to=3,
            compiles=compiles,
            monotone=True,
            proof=proof,
            answer="",
        )


def table(*operations: Operation, shapes: tuple[tuple[int, ...], ...]) -> LayerTable:
    values = tuple(Value(shape=shape, dtype="float32", itemsize_bits=32) for shape in shapes)
    return LayerTable(values=values, operations=operations, arguments=(), outputs=())


def operation(primitive: str, repeat: int | None = 1, **sizes: tuple[int, ...]) -> Operation:
    return Operation(
        primitive=primitive,
        scope="",
        layer="",
        phase=Phase.FORWARD,
        operands=(0, 1),
        results=(2,),
        repeat=repeat,
        sizes=tuple(sizes.items()),
    )


def test_a_product_takes_two_flops_for_each_pair() -> None:
    """[5, 7] × [7, 11]: 55 numbers, each of 7 products and 7 sums; three times in a loop."""
    product = operation("dot_general", 3, lhs_contracting=(1,), rhs_contracting=(0,))
    assert matrix_flops(table(product, shapes=((5, 7), (7, 11), (5, 11)))) == 3 * 2 * 55 * 7


def test_a_convolution_takes_two_flops_for_each_pixel_of_its_filter() -> None:
    """8 filters of 3x3x4 over 2 images of 6x6: 2·36·8 numbers, each of 36 products and sums."""
    sizes: dict[str, tuple[int, ...]] = {
        "lhs_spec": (0, 3, 1, 2),
        "rhs_spec": (3, 2, 0, 1),
        "out_spec": (0, 3, 1, 2),
        "lhs_dilation": (1, 1),
    }
    shapes = ((2, 6, 6, 4), (3, 3, 4, 8), (2, 6, 6, 8))
    convolution = operation("conv_general_dilated", 1, **sizes)
    assert matrix_flops(table(convolution, shapes=shapes)) == 2 * (2 * 36 * 8) * 36
    # Spread by zeros in both directions, three of four products are with a zero.
    spread = operation("conv_general_dilated", 1, **sizes | {"lhs_dilation": (2, 2)})
    assert matrix_flops(table(spread, shapes=shapes)) == 2 * (2 * 36 * 8) * 36 // 4


def test_a_loop_without_a_count_makes_the_sum_unknown() -> None:
    product = operation("dot_general", None, lhs_contracting=(1,))
    assert isinstance(matrix_flops(table(product, shapes=((5, 7), (7, 11), (5, 11)))), Unknown)
    assert isinstance(matrix_flops(None), Unknown)
