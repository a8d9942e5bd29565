"""The line through two estimates, by hand."""

import pytest

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result import DeviceFacts, EstimateReport, EstimateRow, scaling_law

DEVICE = DeviceFacts(
    name="cpu", platform="cpu", memory_bytes=1 << 34, usable_bytes=1 << 34, device_count=1, attached=True
)


def estimate(batch_size: int, **terms: int) -> EstimateReport:
    rows = tuple(EstimateRow(term=term, symbol="", formula="", bytes=size) for term, size in terms.items())
    return EstimateReport(
        program=ProgramFacts(name="p", batch_size=batch_size), device=DEVICE, rows=rows, total_bytes=sum(terms.values())
    )


def test_what_is_fixed_and_what_each_example_adds() -> None:
    lower, upper = estimate(6, parameters=1000, kept=60), estimate(10, parameters=1000, kept=100)
    law = scaling_law(lower, estimate(8, parameters=1000, kept=80), upper)
    assert {row.term: (row.fixed_bytes, row.bytes_per_example) for row in law.rows} == {
        "parameters": (1000, 0),
        "kept": (0, 10),
    }
    assert (law.fixed_bytes, law.bytes_per_example, law.bend_bytes) == (1000, 10, 0)
    assert [law.bytes_at(size) for size in (6, 8, 10)] == [1060, 1080, 1100]


def test_a_bend_is_said_and_a_term_of_one_end_counts() -> None:
    """Gradients that only the smaller batch has at its peak: the line falls by 16 for each example of that term."""
    lower, upper = estimate(6, kept=60, gradients=64), estimate(10, kept=100)
    law = scaling_law(lower, estimate(8, kept=80, gradients=64), upper)
    assert {row.term: (row.fixed_bytes, row.bytes_per_example) for row in law.rows} == {
        "kept": (0, 10),
        "gradients": (160, -16),
    }
    assert law.bend_bytes == 144 - law.bytes_at(8) == 32


def test_no_line_through_one_batch_size() -> None:
    with pytest.raises(InvariantError, match="no line goes through estimates at the batch sizes"):
        scaling_law(estimate(4), estimate(4), estimate(4))
