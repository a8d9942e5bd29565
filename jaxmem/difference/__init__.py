"""Two results compared: what grew, whose it is, and which operation owns it.

`side` is a result as this room sees it, `pairing` finds which reports of two files belong together, `matching` does the
same with buffers, and `changes` makes the sums, which close. `tolerance` reads how much growth is allowed. (The room is
not called `diff`: `jaxmem.diff` is the function.)
"""

from jaxmem.difference.changes import changes
from jaxmem.difference.pairing import Pairing, label, pair_up
from jaxmem.difference.side import Side, side_of
from jaxmem.difference.tolerance import NO_GROWTH, Tolerance, parse_tolerance
from jaxmem.result import Diffs, Report

__all__ = [
    "NO_GROWTH",
    "Side",
    "Tolerance",
    "changes",
    "diff_reports",
    "parse_tolerance",
    "side_of",
]


def diff_reports(
    old: tuple[Report, ...], new: tuple[Report, ...], *, old_name: str, new_name: str, tolerance: Tolerance = NO_GROWTH
) -> Diffs:
    """Compare two sets of reports, each pair of one program, mode, device and batch size.

    Args:
        old_name, new_name: what to call the two sides.
        tolerance: how much each program may grow.
    """
    found: Pairing = pair_up(old, new)
    return Diffs(
        reports=tuple(
            changes(side_of(first, old_name), side_of(second, new_name), tolerance=tolerance)
            for first, second in found.pairs
        ),
        only_old=tuple(map(label, found.only_old)),
        only_new=tuple(map(label, found.only_new)),
    )
