"""The formula's own compiler in small: what is computed once, in which order kernels run, who lies where."""

from dataclasses import replace

import pytest
from layer_tables import Table

from jaxmem.devices.library_kernels import TYPICAL
from jaxmem.formula.backends.cpu_library import convolution_bytes
from jaxmem.formula.equal import find_constants, find_equals, recomputed_regions
from jaxmem.formula.fusion import Fusion, times_asked
from jaxmem.formula.kernels import Array, Kernel, Slot
from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.formula.orders import depth_first_order, first_in_first_out, list_order, post_order, unordered
from jaxmem.formula.packing import Interval, gap_bytes
from jaxmem.formula.schedule import Donated, best_schedule, follow
from jaxmem.formula.siblings import join_reductions
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.roles import Phase


def kernel(reads: tuple[int, ...], writes: tuple[int, ...], *, arguments: tuple[int, ...] = ()) -> Kernel:
    return Kernel(operation=0, reads=reads, writes=writes, arguments=arguments)


def arrays(*sizes: int) -> list[Array]:
    return [Array(size_bytes=size) for size in sizes]


def test_the_list_runs_first_what_frees_most() -> None:
    """Of two kernels that are ready, the one that frees 90 bytes goes before the one that takes 10 more."""
    kernels = [kernel((), (0, 1)), kernel((1,), (3,)), kernel((0,), (2,))]
    sizes = arrays(100, 100, 10, 110)
    assert list_order(kernels, sizes) == [0, 2, 1]
    assert follow(kernels, sizes, [0, 2, 1]).peak_bytes == 100 + 100 + 10
    assert follow(kernels, sizes, [0, 1, 2]).peak_bytes == 100 + 100 + 110


def test_depth_first_follows_the_results() -> None:
    kernels = [kernel((), (0,)), kernel((), (1,)), kernel((1,), (2,)), kernel((0,), (3,))]
    sizes = [Array(size_bytes=size, stays=size == 1) for size in (10, 20, 1, 1)]
    assert depth_first_order(kernels, sizes, [2, 3]) == [1, 2, 0, 3]
    assert post_order(kernels, [2, 3]) == [1, 2, 0, 3]


def test_depth_first_begins_with_what_has_more_readers_then_with_more_bytes() -> None:
    """The last kernel reads 3 arrays: of 10 bytes, of 20, and of 10 that others read as well."""
    kernels = [kernel((), (0,)), kernel((), (1,)), kernel((), (2,)), kernel((2,), (3,)), kernel((0, 1, 2), (4,))]
    sizes = arrays(10, 20, 10, 1, 1)
    assert depth_first_order(kernels, sizes, [4])[:4] == [2, 1, 0, 4]
    assert post_order(kernels, [4])[:4] == [0, 1, 2, 4]


def test_reductions_of_one_array_run_with_what_writes_it() -> None:
    """A maximum of x, and a sum of x; a sum of y, which waits for the maximum, stays where it is."""
    table = LayerTable(
        values=(
            Value(shape=(8, 4), dtype="float32", itemsize_bits=32, argument=0),
            *(
                Value(shape=shape, dtype="float32", itemsize_bits=32, operation=index)
                for index, shape in enumerate(((8, 4), (8,), (8,), (8, 4), (8,)))
            ),
        ),
        operations=tuple(
            Operation(
                primitive=primitive, scope="", layer="", phase=Phase.FORWARD, operands=operands, results=(index + 1,),
                sizes=(("axes", (1,)),),
            )
            for index, (primitive, operands) in enumerate(
                (("exp", (0,)), ("reduce_max", (1,)), ("reduce_sum", (1,)), ("sub", (1, 2)), ("reduce_sum", (4,)))
            )
        ),
        arguments=(0,),
        outputs=(),
    )  # fmt: skip
    sizes = [Array(size_bytes=1, value=value, takes_over=value in (1, 4)) for value in range(1, 6)]
    reads = ((), (0,), (0,), (0, 1), (3,))
    kernels = [Kernel(operation=index, reads=read, writes=(index,)) for index, read in enumerate(reads)]
    joined = join_reductions(kernels, sizes, table, computes=lambda one: sizes[one.writes[0]].takes_over)
    assert [one.writes for one in joined] == [(0, 1, 2), (3, 4)]


def test_gaps_are_what_the_best_place_leaves_free() -> None:
    """Four arrays of 256 bytes, each alive with the next one alone.

    The last lives longest and is placed first, at 0. So is the first, which ends before it. The second lies beside the
    first, at 256; the third finds the second there and the last at 0: a third place, where two are alive at most.
    """
    times = ((1, 3), (2, 4), (4, 6), (5, 8))
    chain = [Interval(size_bytes=256, start=start, end=end) for start, end in times]
    assert gap_bytes(chain) == 256
    assert gap_bytes(chain[:3]) == 0
    assert gap_bytes([]) == 0


def test_first_in_first_out_runs_early_what_waits_for_nothing() -> None:
    kernels = [kernel((), (0,)), kernel((0,), (1,)), kernel((), (2,)), kernel((1, 2), (3,))]
    assert first_in_first_out(kernels) == [0, 2, 1, 3]


def test_a_table_of_results_counts_in_the_list() -> None:
    """Of two kernels that write 100 bytes and free nothing, the one that writes no table goes first, also if it came first."""
    kernels = [kernel((), (0,)), kernel((0,), (1,)), kernel((0,), (2,)), kernel((1, 2), (3,))]
    sizes = arrays(10, 100, 100, 1)
    assert list_order(kernels, sizes) == [0, 2, 1, 3]
    of_library = [*sizes[:2], replace(sizes[2], of_library=True), sizes[3]]
    assert list_order(kernels, of_library) == [0, 1, 2, 3]


def test_the_list_reckons_again_what_is_read_last() -> None:
    """Once the second kernel has run, the third is the last that reads 90 bytes, and goes before one that takes nothing."""
    kernels = [kernel((), (0,)), kernel((0,), (1,)), kernel((0,), (2,)), kernel((1,), (3,)), kernel((2, 3), (4,))]
    sizes = arrays(90, 10, 20, 10, 1)
    assert list_order(kernels, sizes) == [0, 1, 2, 3, 4]


def test_a_result_costs_what_it_takes_in_the_list() -> None:
    """An update that writes 30 bytes of state for a gradient of 10 waits for a kernel that writes 15."""
    kernels = [kernel((), (0,)), kernel((0,), (1,)), kernel((), (2,)), kernel((2,), (3,))]
    state = Array(size_bytes=0, result_bytes=30, stays=True)
    sizes = [Array(size_bytes=10), state, Array(size_bytes=15), Array(size_bytes=1)]
    assert list_order(kernels, sizes) == [0, 2, 3, 1]


def copied_weights(*, last: bool) -> tuple[list[Kernel], list[Array]]:
    """Weights (argument 7, 40 bytes) are copied; a product reads the copy, and the update, before the product or after it."""
    kernels = [
        kernel((), (0,), arguments=(7,)),
        kernel((0,), (1,)),
        kernel((0, 1) if last else (0,), (2,)),
        kernel((1, 2), (3,)),
    ]
    sizes = [
        Array(size_bytes=40, copy_of=7),
        Array(size_bytes=1),
        Array(size_bytes=0, result_bytes=40, stays=True),
        Array(size_bytes=0, result_bytes=1, stays=True),
    ]
    return kernels, sizes


def test_a_copy_of_an_argument_stays_only_where_it_is_read_after_the_update() -> None:
    donated = {7: Donated(size_bytes=40, result=2)}
    kernels, sizes = copied_weights(last=True)
    assert unordered(kernels, [(1, 2)]) == set()
    assert best_schedule(kernels, sizes, [2, 3], [], donated=donated).peak_bytes == 1
    late, sizes = copied_weights(last=False)
    assert unordered(late, [(1, 2)]) == {(1, 2)}
    early_update = [late[0], late[2], replace(late[1], reads=(0, 2)), late[3]]
    assert best_schedule(early_update, sizes, [2, 3], [], donated=donated).peak_bytes == 40 + 1


def test_an_argument_that_the_update_does_not_read_lends_its_memory() -> None:
    """Once its copy is made, 40 bytes of weights stand idle until the update: another array lies there meanwhile."""
    kernels = [kernel((), (0,), arguments=(7,)), kernel((0,), (1,)), kernel((1,), (2,)), kernel((0, 2), (3,))]
    sizes = [*arrays(40, 40, 1), Array(size_bytes=0, result_bytes=40, stays=True)]
    schedule = best_schedule(kernels, sizes, [3], [], donated={7: Donated(size_bytes=40, result=3)})
    assert schedule.lent == {1}
    assert schedule.peak_bytes == 40 + 1


def test_what_is_written_over_an_operand_needs_no_place() -> None:
    kernels = [kernel((), (0,)), kernel((0,), (1,))]
    taking = [Array(size_bytes=80), Array(size_bytes=80, takes_over=True)]
    assert follow(kernels, taking, [0, 1]).peak_bytes == 80
    kept = [Array(size_bytes=80, lends=False), Array(size_bytes=80, takes_over=True)]
    assert follow(kernels, kept, [0, 1]).peak_bytes == 160


def test_a_result_lends_its_memory_until_it_is_written() -> None:
    """Only the first of two arrays of 80 bytes ends before the kernel of the result; the slot takes one at a time."""
    kernels = [kernel((), (0,)), kernel((0,), (1,)), kernel((1,), (2,))]
    sizes = [Array(size_bytes=80), Array(size_bytes=70), Array(size_bytes=0, stays=True)]
    schedule = follow(kernels, sizes, [0, 1, 2], [Slot(size_bytes=100, before=2)])
    assert schedule.lent == {0}
    assert schedule.peak_bytes == 70
    assert follow(kernels, sizes, [0, 1, 2], [Slot(size_bytes=79, before=2)]).lent == frozenset()


def test_another_name_takes_no_memory_and_keeps_what_it_names() -> None:
    kernels = [kernel((), (0,)), kernel((0,), (1,)), kernel((), (2,)), kernel((1,), (3,))]
    named = [Array(size_bytes=30), Array(size_bytes=30, same_as=0), Array(size_bytes=5), Array(size_bytes=5)]
    schedule = follow(kernels, named, [0, 1, 2, 3])
    assert schedule.end[0] == 3
    assert schedule.peak_bytes == 30 + 5


def table(*operations: tuple[str, str, tuple[int, ...], str], scalars: int) -> LayerTable:
    """Operations (primitive, what they have in common, operands, scope) on one argument, each with one result."""
    values = [Value(shape=(), dtype="float32", itemsize_bits=32, argument=0)]
    made = []
    for number, (primitive, same, operands, scope) in enumerate(operations):
        phase = Phase.BACKWARD if scope else Phase.FORWARD
        made.append(
            Operation(
                primitive=primitive,
                scope=scope,
                layer="",
                phase=phase,
                operands=operands,
                results=(number + 1,),
                same=same,
            )
        )
        values.append(Value(shape=(scalars,), dtype="float32", itemsize_bits=32, operation=number))
    return LayerTable(values=tuple(values), operations=tuple(made), arguments=(0,), outputs=(len(values) - 1,))


def test_what_is_computed_twice_is_computed_once_unless_it_is_checkpointed() -> None:
    again = "transpose(jvp(block))/checkpoint"
    twice = table(
        ("sin", "a", (0,), ""), ("sin", "a", (0,), again), ("cos", "b", (0,), ""), ("add", "c", (1, 2), ""), scalars=4
    )
    merged, kept = find_equals(twice, merges_remat=True), find_equals(twice, merges_remat=False)
    assert merged.of[2] == 1
    assert kept.of[2] == 2
    assert merged.operations == (0, 3)  # nothing reads the cosine
    assert kept.operations == (0, 1, 3)


def test_a_scatter_into_zeros_that_is_added_to_something_is_the_sum() -> None:
    added = table(
        ("broadcast_in_dim", "zeros", (), ""),
        ("scatter-add", "s", (1, 0), ""),
        ("exp", "e", (0,), ""),
        ("add_any", "sum", (2, 3), ""),
        scalars=4,
    )
    equals = find_equals(added, merges_remat=True)
    assert equals.of[4] == 2
    assert dict(equals.scattered_into) == {2: 3}
    assert [added.operations[index].primitive for index in equals.operations] == [
        "broadcast_in_dim",
        "exp",
        "scatter-add",
    ]


def convolved(padding: int) -> tuple[LayerTable, Operation]:
    sizes = (
        ("window_strides", (1, 1)), ("padding", (padding,) * 4), ("lhs_dilation", (1, 1)), ("rhs_dilation", (1, 1)),
        ("lhs_spec", (0, 3, 1, 2)), ("rhs_spec", (3, 2, 0, 1)), ("out_spec", (0, 3, 1, 2)),
        ("feature_group_count", (1,)), ("batch_group_count", (1,)),
    )  # fmt: skip
    side = 32 if padding else 30
    values = (
        Value(shape=(2, 32, 32, 16), dtype="float32", itemsize_bits=32, argument=0),
        Value(shape=(3, 3, 16, 32), dtype="float32", itemsize_bits=32, argument=1),
        Value(shape=(2, side, side, 32), dtype="float32", itemsize_bits=32, operation=0),
    )
    operation = Operation(
        primitive="conv_general_dilated",
        scope="",
        layer="",
        phase=Phase.FORWARD,
        operands=(0, 1),
        results=(2,),
        sizes=sizes,
    )
    return LayerTable(values=values, operations=(operation,), arguments=(0, 1), outputs=(2,)), operation


def test_what_a_convolution_of_the_library_holds() -> None:
    """One task: 144 × 32 packed weights, and the padded map of 34 × 34; without padding each of 30 × 30 windows by itself."""
    packed = 4 * 9 * 16 * 32
    assert convolution_bytes(*convolved(1), threads=1, features=TYPICAL["AVX2"]) == packed + 4 * 2 * 16 * 34 * 34
    assert convolution_bytes(*convolved(0), threads=1, features=TYPICAL["AVX2"]) == packed + 4 * 2 * 16 * 30 * 30 * 9


def test_what_a_loop_carries_is_a_constant_only_if_every_turn_leaves_one() -> None:
    """A counter (value 2) begins as a literal and is stepped by one; a sum (value 3) begins as zeros and takes in arguments."""
    shapes = [Value(shape=(), dtype="float32", itemsize_bits=32, argument=0)]
    shapes += [Value(shape=(), dtype="float32", itemsize_bits=32) for _ in range(7)]
    shapes[6], shapes[7] = replace(shapes[6], continues=2), replace(shapes[7], continues=3)

    def step(primitive: str, operands: tuple[int, ...], result: int, hands_on: int = 0) -> Operation:
        return Operation(
            primitive=primitive,
            scope="",
            layer="",
            phase=Phase.FORWARD,
            operands=operands,
            results=(result,),
            hands_on=hands_on,
        )

    operations = (
        step("while", (1,), 2, hands_on=1),
        step("while", (1,), 3, hands_on=1),
        step("add", (2,), 4),
        step("add", (3, 0), 5),
        step("while", (4,), 6, hands_on=1),
        step("while", (5,), 7, hands_on=1),
    )
    shapes = [
        replace(value, operation=next((n for n, each in enumerate(operations) if index in each.results), None))
        for index, value in enumerate(shapes)
    ]
    loop = LayerTable(values=tuple(shapes), operations=operations, arguments=(0,), outputs=(6, 7))
    assert find_constants(loop) == [False, True, True, False, True, False, True, False]


def test_what_is_spread_out_or_lies_in_overlapping_windows_is_computed_several_times() -> None:
    """A scale of 4 channels over 8 × 8 × 4; a pool of 3 × 3 in steps of 2 from 8 × 8 to 4 × 4, 9 · 16 / 64 times each."""
    shapes = ((1, 1, 4), (8, 8, 4), (8, 8, 4), (4, 4, 4), (8, 8))
    values = tuple(Value(shape=shape, dtype="float32", itemsize_bits=32) for shape in shapes)
    window = (("window_dimensions", (3, 3, 1)), ("window_strides", (2, 2, 1)))
    operations = tuple(
        Operation(
            primitive=primitive, scope="", layer="", phase=Phase.FORWARD, operands=operands, results=results, sizes=sizes
        )
        for primitive, operands, results, sizes in (
            ("mul", (0, 1), (2,), ()),
            ("reduce_window_max", (2,), (3,), window),
            ("reduce_sum", (2,), (4,), (("axes", (2,)),)),
        )
    )  # fmt: skip
    spread = LayerTable(values=values, operations=operations, arguments=(), outputs=(3, 4))
    fusion = Fusion(spread, find_equals(spread, merges_remat=True))
    assert times_asked(fusion, 0, 0) == 64
    assert times_asked(fusion, 0, 1) == 1
    assert times_asked(fusion, 1, 2) == 9 * 16 / 64
    assert times_asked(fusion, 2, 2) == 1


def test_a_region_that_is_computed_again_begins_with_what_is() -> None:
    """Two blocks in a row: in the backward pass one region of the later block, then one of the earlier."""
    scopes = ("rematted_computation/b", "b", "rematted_computation/a", "a")
    backward = table(
        *(
            ("exp", str(number), (number,), f"transpose(jvp())/checkpoint/{scope}")
            for number, scope in enumerate(scopes)
        ),
        scalars=4,
    )
    assert recomputed_regions(backward) == ((0, 1), (2, 3))


@pytest.mark.parametrize(("border", "joined"), [(0, {2: 3}), (1, {})])
def test_a_pool_scatters_into_the_gradient_of_another_reader(border: int, joined: dict[int, int]) -> None:
    """Value 2 is the gradient through the pool, 3 that of a skip connection; with a border in front it is sliced first."""
    added = table(
        ("exp", "e", (0,), ""),
        ("select_and_scatter_add", "s", (0, 1), ""),
        ("exp", "f", (1,), ""),
        ("add_any", "sum", (2, 3), ""),
        scalars=4,
    )
    pool = replace(added.operations[1], sizes=(("padding", (border, 0)),))
    added = replace(added, operations=(added.operations[0], pool, *added.operations[2:]))
    assert dict(find_equals(added, merges_remat=False, scatters_pools=True).scattered_into) == joined
    assert not find_equals(added, merges_remat=False).scattered_into


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_update_that_waits_for_the_norm_of_another_runs_by_itself(platform: str) -> None:
    """Both read one gradient, but a kernel of both would wait for itself: `estimate` once ended in a traceback there."""
    lamb = Table()
    for name in ("moment", "weights", "x"):
        lamb.argument(name, 64, 64)
    lamb.do("gradient", "dot_general", Phase.BACKWARD, (64, 64), "x", "x")
    lamb.do("new moment", "add", Phase.UPDATE, (64, 64), "moment", "gradient")
    lamb.do("norm", "reduce_sum", Phase.UPDATE, (), "new moment")
    lamb.do("new weights", "sub", Phase.UPDATE, (64, 64), "weights", "gradient", "norm")
    found = find_live_ranges(lamb.table("new moment", "new weights"), platform=platform)
    assert {1, 3} < set(found.order)
