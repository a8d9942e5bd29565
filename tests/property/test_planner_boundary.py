"""The search for the boundary batch, on memory curves of every shape: what it answers is always compiled."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmem.errors import UsageError
from jaxmem.planner import find_boundary
from jaxmem.result import Boundary, Probe

GIB = 1 << 30


def search(
    curve: Callable[[int], int],
    budget_bytes: int,
    *,
    estimate: Callable[[int], int | None] = lambda batch: None,
    accepts: Callable[[int], bool] = lambda batch: True,
    multiple_of: int = 1,
    max_batch: int | None = None,
    asked: int | None = None,
) -> tuple[Boundary, list[int]]:
    """The boundary of a memory curve, and the batches compiled."""
    compiled: list[int] = []

    def measure(batch: int) -> Probe:
        assert batch % multiple_of == 0
        assert batch >= 1
        compiled.append(batch)
        size = curve(batch)
        return Probe(
            batch_size=batch, required_bytes=size, judged_bytes=size, fits=size <= budget_bytes and accepts(batch)
        )

    boundary = find_boundary(
        measure,
        estimate=estimate,
        budget_bytes=budget_bytes,
        multiple_of=multiple_of,
        max_batch=max_batch,
        asked=asked,
    )
    return boundary, compiled


def check(boundary: Boundary, compiled: list[int]) -> None:
    """What holds of every answer: both sides are compiled and neighbours, nothing is compiled twice, all is counted."""
    assert boundary.compiles == len(compiled) == len(set(compiled))
    assert [probe.batch_size for probe in boundary.proof] == compiled
    fits = {probe.batch_size: probe.fits for probe in boundary.proof}
    if boundary.largest_batch is not None:
        assert fits[boundary.largest_batch]
        assert boundary.largest_batch == max(batch for batch in compiled if fits[batch])
    if boundary.next_batch is not None:
        assert not fits[boundary.next_batch]
        assert boundary.next_batch == (boundary.largest_batch or 0) + boundary.multiple_of


@given(
    fixed=st.integers(0, 8 * GIB),
    slope=st.integers(1 << 10, GIB),
    error=st.floats(0.3, 3.0),
    multiple_of=st.sampled_from([1, 1, 2, 8, 24]),
)
def test_a_line_needs_four_compiles_however_wrong_the_formula(
    fixed: int, slope: int, error: float, multiple_of: int
) -> None:
    boundary, compiled = search(
        lambda batch: fixed + slope * batch,
        16 * GIB,
        estimate=lambda batch: fixed + int(error * slope * batch),
        multiple_of=multiple_of,
    )
    check(boundary, compiled)
    true = (16 * GIB - fixed) // slope // multiple_of * multiple_of
    assert (boundary.largest_batch or 0) == min(true, (1 << 20) // multiple_of * multiple_of)
    assert boundary.monotone
    assert len(compiled) <= 4


@given(
    fixed=st.integers(0, 8 * GIB),
    slope=st.integers(1 << 24, GIB),
    errors=st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)),
)
def test_a_line_of_which_the_formula_has_neither_part_right(
    fixed: int, slope: int, errors: tuple[float, float]
) -> None:
    boundary, compiled = search(
        lambda batch: fixed + slope * batch,
        16 * GIB,
        estimate=lambda batch: int(errors[0] * fixed + errors[1] * slope * batch),
    )
    check(boundary, compiled)
    assert (boundary.largest_batch or 0) == (16 * GIB - fixed) // slope
    assert len(compiled) <= 6


@given(
    steps=st.lists(st.integers(0, 1 << 28), min_size=200, max_size=200),
    budget=st.integers(1, 10 * GIB),
    error=st.floats(0.5, 2.0),
)
@settings(max_examples=200)
def test_any_growing_curve(steps: list[int], budget: int, error: float) -> None:
    """Steps, plateaus, jumps: the true boundary is found, and a bound on the compiles holds."""
    curve = [0]
    for step in steps:
        curve.append(curve[-1] + step)
    boundary, compiled = search(
        lambda batch: curve[batch], budget, estimate=lambda batch: int(error * (1 << 27) * batch), max_batch=200
    )
    check(boundary, compiled)
    true = max((batch for batch in range(1, 201) if curve[batch] <= budget), default=None)
    assert boundary.largest_batch == true
    assert boundary.next_batch == (None if true == 200 else (true or 0) + 1)
    assert len(compiled) <= 10 + 8  # ten by a law, the rest by halves


@given(noise=st.lists(st.integers(0, GIB), min_size=300, max_size=300), budget=st.integers(1, 20 * GIB))
def test_a_noisy_curve_is_answered_with_what_was_compiled(noise: list[int], budget: int) -> None:
    boundary, compiled = search(lambda batch: batch * (1 << 26) + noise[batch - 1], budget, max_batch=300)
    check(boundary, compiled)
    assert len(compiled) <= 6 + 9
    ordered = sorted(boundary.proof, key=lambda probe: probe.batch_size)
    sizes = [probe.required_bytes for probe in ordered]
    assert boundary.monotone == (sizes == sorted(sizes))


@given(start=st.integers(1, 20 * GIB), slope=st.integers(1, 1 << 28), budget=st.integers(1, 20 * GIB))
def test_memory_that_shrinks_is_said_to(start: int, slope: int, budget: int) -> None:
    boundary, compiled = search(lambda batch: max(1, start - slope * batch), budget, max_batch=4096)
    check(boundary, compiled)
    grew = sorted(boundary.proof, key=lambda probe: probe.batch_size)
    if any(first.required_bytes > second.required_bytes for first, second in itertools.pairwise(grew)):
        assert not boundary.monotone
        assert "does not always grow" in boundary.answer


@given(jump=st.integers(1, 8 * GIB), at=st.integers(70, 300))
def test_a_jump_beyond_the_boundary_costs_few_compiles(jump: int, at: int) -> None:
    """A library that is used from some size on; the line before it reaches the budget at 64."""
    slope = GIB // 4
    boundary, compiled = search(
        lambda batch: slope * batch + jump * (batch >= at), 16 * GIB + 5, estimate=lambda batch: None, asked=320
    )
    check(boundary, compiled)
    assert boundary.largest_batch == 64
    assert len(compiled) <= 6


@given(kept=st.integers(60, 90), least=st.floats(0.3, 0.8), room=st.floats(0.85, 0.93), error=st.floats(0.8, 1.2))
def test_a_compiler_that_makes_room_costs_few_compiles(kept: int, least: float, room: float, error: float) -> None:
    """Up to the limit it keeps everything; beyond, it computes again until the program fits, as long as it can."""
    budget = 15_000_000

    def curve(batch: int) -> int:
        everything, as_little = 300_000 + 1000 * kept * batch, 300_000 + int(1000 * least * kept) * batch
        if everything <= budget:
            return everything
        return max(as_little, int(room * budget)) if as_little <= budget else as_little

    boundary, compiled = search(curve, budget, estimate=lambda batch: 300_000 + int(1000 * error * kept * batch))
    check(boundary, compiled)
    assert boundary.largest_batch == (budget - 300_000) // int(1000 * least * kept)
    assert len(compiled) <= 8


def test_memory_that_does_not_depend_on_the_batch_ends_at_the_ceiling() -> None:
    boundary, compiled = search(lambda batch: 5, 10)
    check(boundary, compiled)
    assert (boundary.largest_batch, boundary.next_batch) == (1 << 20, None)
    assert len(compiled) <= 8
    assert "no boundary up to it" in boundary.answer


@pytest.mark.parametrize("multiple_of", [1, 8])
def test_nothing_fits(multiple_of: int) -> None:
    boundary, compiled = search(lambda batch: 11 + batch, 10, multiple_of=multiple_of)
    check(boundary, compiled)
    assert boundary.largest_batch is None
    assert boundary.next_batch == multiple_of
    assert f"the smallest batch, {multiple_of}, does not" in boundary.answer


def test_no_boundary_up_to_the_largest_asked_about() -> None:
    boundary, compiled = search(lambda batch: batch, 10**9, estimate=lambda batch: batch, max_batch=100, multiple_of=8)
    assert (boundary.largest_batch, boundary.next_batch, boundary.searched_to) == (96, None, 96)
    assert compiled == [96]


def test_the_batch_asked_about_is_compiled_first_and_says_where_to_go_on() -> None:
    boundary, compiled = search(lambda batch: 100 + 10 * batch, 2000, asked=256)
    check(boundary, compiled)
    assert compiled[0] == 256
    assert boundary.largest_batch == 190


def test_the_compilers_word_counts_more_than_bytes() -> None:
    """A TPU's compiler refuses what by its bytes would fit."""
    boundary, compiled = search(
        lambda batch: 10 * batch, 1000, estimate=lambda batch: 10 * batch, accepts=lambda batch: batch <= 90
    )
    check(boundary, compiled)
    assert (boundary.largest_batch, boundary.next_batch) == (90, 91)


@pytest.mark.parametrize(("asked", "multiple_of", "max_batch"), [(12, 8, None), (64, 8, 32), (None, 64, 32)])
def test_a_batch_that_is_not_admissible_is_refused_before_any_compile(
    asked: int | None, multiple_of: int, max_batch: int | None
) -> None:
    with pytest.raises(UsageError, match="multiple"):
        search(lambda batch: batch, 10, asked=asked, multiple_of=multiple_of, max_batch=max_batch)
