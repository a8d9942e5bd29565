"""Whatever two programs hold: every buffer is told once, and what is said of equals does not depend on their numbers."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jaxmem.difference import changes, side_of
from jaxmem.difference.matching import match_buffers
from jaxmem.result import BufferRow
from jaxmem.roles import Phase, Role
from reports_by_hand import buffer, report_of

BUFFERS = st.lists(
    st.builds(
        buffer,
        st.sampled_from(["fusion.1", "fusion.2", "copy.7", "add"]),
        st.integers(1, 6),
        layer=st.sampled_from(["", "a", "b"]),
        role=st.sampled_from([Role.TRANSIENT, Role.GRADIENTS]),
        phase=st.sampled_from([Phase.FORWARD, Phase.UNKNOWN]),
        opcode=st.sampled_from(["fusion", "copy"]),
        shape=st.sampled_from([(), (2,), (3,), (2, 3)]),
        dtype=st.sampled_from(["f32", "s8"]),
        source=st.sampled_from(["", "a.py:1", "a.py:2"]),
        start=st.integers(0, 20),
    ),
    max_size=12,
)
BATCHES = st.sampled_from([None, 2, 3])


@given(BUFFERS, BUFFERS, BUFFERS, BUFFERS, BATCHES, BATCHES)
def test_every_buffer_is_told_once(
    old_peak: list[BufferRow],
    old_rest: list[BufferRow],
    new_peak: list[BufferRow],
    new_rest: list[BufferRow],
    old_batch: int | None,
    new_batch: int | None,
) -> None:
    old = side_of(report_of(*old_peak, others=old_rest, batch_size=old_batch), "old")
    new = side_of(report_of(*new_peak, others=new_rest, batch_size=new_batch), "new")
    pairs = list(match_buffers(old, new))
    assert Counter(first.row for first, _ in pairs if first) == Counter(old_peak + old_rest)
    assert Counter(second.row for _, second in pairs if second) == Counter(new_peak + new_rest)
    found = changes(old, new)  # the sums by role and layer are checked when it is made
    total = sum(one.difference_bytes for one in found.buffers)
    assert total == found.difference_bytes == sum(b.bytes for b in new_peak) - sum(b.bytes for b in old_peak)


@given(BUFFERS, st.permutations(range(12)))
def test_numbers_do_not_count(peak: list[BufferRow], numbers: list[int]) -> None:
    renamed = [
        replace(row, instruction=f"{row.instruction.split('.')[0]}.{number}")
        for row, number in zip(peak, numbers, strict=False)
    ]
    found = changes(side_of(report_of(*peak), "old"), side_of(report_of(*renamed), "new"))
    assert (found.buffers, found.unchanged_buffers) == ((), len(peak))
