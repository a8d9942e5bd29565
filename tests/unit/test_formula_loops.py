"""What a loop carries and stacks lies in one place, from its first turn to the last reader of what it returns."""

import pytest

from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.roles import Phase

PLATFORMS = ("cpu", "cuda", "tpu")


class Loop:
    """A program with one loop in the making: values by name, the tokens as tracing makes them."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.values: list[Value] = []
        self.operations: list[Operation] = []
        self.arguments: list[int] = []

    def argument(self, name: str, *shape: int) -> None:
        self.names[name] = len(self.values)
        self.values.append(Value(shape=shape, dtype="float32", itemsize_bits=32, argument=len(self.arguments)))
        self.arguments.append(self.names[name])

    def do(self, name, primitive, shape, *operands, scope="", hands_on=0, continues=None) -> None:
        token = shape is None
        self.names[name] = len(self.values)
        self.values.append(
            Value(
                shape=(0,) if token else shape,
                dtype="token" if token else "float32",
                itemsize_bits=0 if token else 32,
                operation=len(self.operations),
                continues=None if continues is None else self.names[continues],
            )
        )
        self.operations.append(
            Operation(
                primitive=primitive,
                scope=scope,
                layer="dense",
                phase=Phase.FORWARD,
                operands=tuple(self.names[operand] for operand in operands),
                results=(self.names[name],),
                hands_on=hands_on,
            )
        )

    def ranges(self, *outputs: str, platform: str, over: dict[str, str] | None = None):
        table = LayerTable(
            values=tuple(self.values),
            operations=tuple(self.operations),
            arguments=tuple(self.arguments),
            outputs=tuple(self.names[name] for name in outputs),
        )
        replaced = {self.names[argument]: self.names[result] for argument, result in (over or {}).items()}
        return find_live_ranges(table, platform=platform, replaced=replaced)

    def alive(self, ranges, name: str) -> range:
        value = self.names[name]
        return range(ranges.start[value], ranges.end[value] + 1) if ranges.exists[value] else range(0)


def adding_up() -> Loop:
    """A sum over four products, then multiplied; larger than the memory on a TPU's chip."""
    loop = Loop()
    loop.argument("x", 4, 8192, 8192)
    loop.argument("w", 8192, 8192)
    loop.do("zeros", "broadcast_in_dim", (8192, 8192))
    loop.do("begin", "while", None, "x")
    loop.do("sum", "while", (8192, 8192), "zeros", "begin", hands_on=1)
    loop.do("part", "dynamic_slice", (8192, 8192), "x", "begin", scope="scan/body", hands_on=1)
    loop.do("product", "dot_general", (8192, 8192), "part", "part", scope="scan/body")
    loop.do("next", "add", (8192, 8192), "sum", "product", scope="scan/body")
    loop.do("end", "while", None, "x", "next")
    loop.do("total", "while", (8192, 8192), "next", "end", hands_on=1, continues="sum")
    loop.do("out", "dot_general", (8192, 8192), "total", "w")
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
    loop.do("begin", "while", None, "x", "w")
    loop.do("state", "while", (8192, 8192), "x", "begin", hands_on=1)
    loop.do("next", "dot_general", (8192, 8192), "state", "w", scope="while/body")
    loop.do("end", "while", None, "w", "next")
    loop.do("last", "while", (8192, 8192), "next", "end", hands_on=1, continues="state")
    loop.do("out", "reduce_sum", (8192,), "last")
    ranges = loop.ranges("out", platform=platform)
    assert loop.alive(ranges, "next")
    assert loop.alive(ranges, "state")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_donated_argument_is_the_state_itself(platform: str) -> None:
    loop = Loop()
    loop.argument("cache", 8192, 8192)
    loop.argument("x", 8192, 8192)
    loop.do("begin", "while", None, "cache", "x")
    loop.do("state", "while", (8192, 8192), "cache", "begin", hands_on=1)
    loop.do("next", "add", (8192, 8192), "state", "x", scope="while/body")
    loop.do("end", "while", None, "x", "next")
    loop.do("last", "while", (8192, 8192), "next", "end", hands_on=1, continues="state")
    assert not any(loop.ranges("last", platform=platform, over={"cache": "last"}).exists)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_a_scan_stacks_is_there_from_its_first_turn(platform: str) -> None:
    loop = Loop()
    loop.argument("x", 4, 8192, 8192)
    loop.do("begin", "while", None, "x")
    loop.do("part", "dynamic_slice", (8192, 8192), "x", "begin", scope="scan/body", hands_on=1)
    loop.do("product", "dot_general", (8192, 8192), "part", "part", scope="scan/body")
    loop.do("end", "while", None, "x", "product")
    loop.do("stack", "dynamic_update_slice", (4, 8192, 8192), "product", "end", hands_on=1)
    loop.do("out", "reduce_sum", (8192,), "stack")
    ranges = loop.ranges("out", platform=platform)
    assert set(loop.alive(ranges, "product")) < set(loop.alive(ranges, "stack"))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_cache_is_updated_in_its_place_layer_by_layer(platform: str) -> None:
    loop = Loop()
    loop.argument("cache", 2, 8192, 8192)
    loop.argument("token", 1, 1, 8192)
    loop.do("begin", "while", None, "cache", "token")
    loop.do("state", "while", (2, 8192, 8192), "cache", "begin", hands_on=1)
    loop.do("first", "dynamic_update_slice", (2, 8192, 8192), "state", "token", scope="while/body")
    loop.do("second", "dynamic_update_slice", (2, 8192, 8192), "first", "token", scope="while/body")
    loop.do("end", "while", None, "token", "second")
    loop.do("last", "while", (2, 8192, 8192), "second", "end", hands_on=1, continues="state")
    assert not any(loop.ranges("last", platform=platform, over={"cache": "last"}).exists)
