"""What a loop carries and stacks lies in one place, from its first turn to the last reader of what it returns."""

import pytest
from layer_tables import Table

from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.roles import Phase

PLATFORMS = ("cpu", "cuda", "tpu")


class Loop(Table):
    """A program with one loop in the making; a step without a shape is a token, as tracing makes them."""

    def step(self, name, primitive, shape, *operands, scope="", **of_loop):
        dtype = "token" if shape is None else "float32"
        self.do(
            name,
            primitive,
            Phase.FORWARD,
            (0,) if shape is None else shape,
            *operands,
            dtype=dtype,
            scope=scope,
            **of_loop,
        )

    def ranges(self, *outputs: str, platform: str, over: dict[str, str] | None = None):
        replaced = {self.names[argument]: self.names[result] for argument, result in (over or {}).items()}
        return find_live_ranges(self.table(*outputs), platform=platform, replaced=replaced)

    def alive(self, ranges, name: str) -> range:
        value = self.names[name]
        return range(ranges.start[value], ranges.end[value] + 1) if ranges.exists[value] else range(0)


def adding_up() -> Loop:
    """A sum over four products, then multiplied; larger than the memory on a TPU's chip."""
    loop = Loop()
    loop.argument("x", 4, 8192, 8192)
    loop.argument("w", 8192, 8192)
    loop.step("zeros", "broadcast_in_dim", (8192, 8192))
    loop.step("begin", "while", None, "x")
    loop.step("sum", "while", (8192, 8192), "zeros", "begin", hands_on=1)
    loop.step("part", "dynamic_slice", (8192, 8192), "x", "begin", scope="scan/body", hands_on=1)
    loop.step("product", "dot_general", (8192, 8192), "part", "part", scope="scan/body")
    loop.step("next", "add", (8192, 8192), "sum", "product", scope="scan/body")
    loop.step("end", "while", None, "x", "next")
    loop.step("total", "while", (8192, 8192), "next", "end", hands_on=1, continues="sum")
    loop.step("out", "dot_general", (8192, 8192), "total", "w")
    return loop


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_added_up_is_there_once_and_all_the_time(platform: str) -> None:
    loop = adding_up()
    ranges = loop.ranges("out", platform=platform)
    assert set(loop.alive(ranges, "product")) < set(loop.alive(ranges, "sum"))
    assert not loop.alive(ranges, "next")
    assert not loop.alive(ranges, "total")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_product_that_reads_the_state_is_no_next_version_in_its_place(platform: str) -> None:
    loop = Loop()
    loop.argument("x", 8192, 8192)
    loop.argument("w", 8192, 8192)
    loop.step("begin", "while", None, "x", "w")
    loop.step("state", "while", (8192, 8192), "x", "begin", hands_on=1)
    loop.step("next", "dot_general", (8192, 8192), "state", "w", scope="while/body")
    loop.step("end", "while", None, "w", "next")
    loop.step("last", "while", (8192, 8192), "next", "end", hands_on=1, continues="state")
    loop.step("out", "reduce_sum", (8192,), "last")
    ranges = loop.ranges("out", platform=platform)
    assert loop.alive(ranges, "next")
    assert loop.alive(ranges, "state")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_donated_argument_is_the_state_itself(platform: str) -> None:
    loop = Loop()
    loop.argument("cache", 8192, 8192)
    loop.argument("x", 8192, 8192)
    loop.step("begin", "while", None, "cache", "x")
    loop.step("state", "while", (8192, 8192), "cache", "begin", hands_on=1)
    loop.step("next", "add", (8192, 8192), "state", "x", scope="while/body")
    loop.step("end", "while", None, "x", "next")
    loop.step("last", "while", (8192, 8192), "next", "end", hands_on=1, continues="state")
    assert not any(loop.ranges("last", platform=platform, over={"cache": "last"}).exists)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_branch_in_a_turn_has_a_token_that_is_no_loops(platform: str) -> None:
    """A donated argument is the state itself, too, of a loop with a branch in its body."""
    loop = Loop()
    loop.argument("cache", 8192, 8192)
    loop.argument("x", 8192, 8192)
    loop.step("begin", "while", None, "cache", "x")
    loop.step("state", "while", (8192, 8192), "cache", "begin", hands_on=1)
    loop.step("branched", "cond", None, "x", scope="while/body")
    loop.step("left", "cond", (8192, 8192), "x", "branched", scope="while/body", hands_on=1)
    loop.step("next", "add", (8192, 8192), "state", "left", scope="while/body")
    loop.step("end", "while", None, "x", "next")
    loop.step("last", "while", (8192, 8192), "next", "end", hands_on=1, continues="state")
    ranges = loop.ranges("last", platform=platform, over={"cache": "last"})
    assert not loop.alive(ranges, "state")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_a_scan_stacks_is_there_from_its_first_turn(platform: str) -> None:
    loop = Loop()
    loop.argument("x", 4, 8192, 8192)
    loop.step("begin", "while", None, "x")
    loop.step("part", "dynamic_slice", (8192, 8192), "x", "begin", scope="scan/body", hands_on=1)
    loop.step("product", "dot_general", (8192, 8192), "part", "part", scope="scan/body")
    loop.step("end", "while", None, "x", "product")
    loop.step("stack", "dynamic_update_slice", (4, 8192, 8192), "product", "end", hands_on=1)
    loop.step("out", "reduce_sum", (8192,), "stack")
    ranges = loop.ranges("out", platform=platform)
    assert set(loop.alive(ranges, "product")) < set(loop.alive(ranges, "stack"))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_cache_is_updated_in_its_place_layer_by_layer(platform: str) -> None:
    loop = Loop()
    loop.argument("cache", 2, 8192, 8192)
    loop.argument("token", 1, 1, 8192)
    loop.step("begin", "while", None, "cache", "token")
    loop.step("state", "while", (2, 8192, 8192), "cache", "begin", hands_on=1)
    loop.step("first", "dynamic_update_slice", (2, 8192, 8192), "state", "token", scope="while/body")
    loop.step("second", "dynamic_update_slice", (2, 8192, 8192), "first", "token", scope="while/body")
    loop.step("end", "while", None, "token", "second")
    loop.step("last", "while", (2, 8192, 8192), "second", "end", hands_on=1, continues="state")
    assert not any(loop.ranges("last", platform=platform, over={"cache": "last"}).exists)
