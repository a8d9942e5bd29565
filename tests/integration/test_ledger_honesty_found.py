"""As in `test_ledger_honesty`, for what random programs showed: an explanation opens again without the leaf that it names."""

from collections.abc import Callable

import pytest
from test_ledger_honesty import lay_out

from benchmarks.random_programs.build import build
from benchmarks.random_programs.plan import Block, Plan, draw
from jaxmem.capture import Capture
from jaxmem.program import Program
from jaxmem.roles import STATE_ROLES, Role

EXPLAINED_BY_THEIR_SOURCE = {
    "a device cuts its part of an array that all have whole": (3122, "part of one device"),
    "a device sends the borders of its part, chosen from what it has and what it got": (
        2838,
        "exchanged between the devices",
    ),
    "a part is spread out before it is gathered": (2437, "gathered from the devices"),
}


@pytest.mark.parametrize("story", EXPLAINED_BY_THEIR_SOURCE)
def test_what_is_made_of_one_leaf_is_open_without_it(story: str, compiled: Callable[[Program], Capture]) -> None:
    seed, kind = EXPLAINED_BY_THEIR_SOURCE[story]
    sides = lay_out(compiled(build(draw(seed))))
    assert sides.unexplained() == 0
    items = [item for row in sides.rows() for item in row.items if item.kind == kind]
    assert items
    for item in items:
        found = dict(item.evidence)["formula"]
        named = (found,) if isinstance(found, str) else found
        assert isinstance(named, tuple)
        missing = sides.without(lambda leaf, named=named: leaf.text in named)
        assert missing.unexplained() >= item.bytes, item


def test_an_argument_counted_twice_where_a_loop_holds_a_copy_of_it(compiled: Callable[[Program], Capture]) -> None:
    """State that is not donated lies in its slot and in the loop over steps: the second is a copy, and no second argument."""
    program = Plan(
        seed=0, mode="train", batch=4, width=8, dtype="float32", blocks=(Block(name="dense", width=8),),
        optimizer="momentum", steps=2,
    )  # fmt: skip
    sides = lay_out(compiled(build(program)))
    items = [item for row in sides.rows() for item in row.items if item.kind == "kept twice"]
    assert items
    assert sides.unexplained() == 0
    for leaf in sides.counted(*STATE_ROLES, Role.INPUTS):
        twice = sides.with_leaves([*sides.formula.leaves, leaf])
        assert not leaf.elements or twice.unexplained() >= leaf.bytes, leaf.text
