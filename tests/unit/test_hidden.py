"""Memory inside opaque fusions, against the sizes of the blocks that the library was seen to take from malloc.

The expected numbers are single allocations of jaxlib 0.10.2 on two threads (less the 63 bytes for alignment),
multiplied by how many of them were held at once.
"""

import pytest

from jaxmem.hidden import hidden_need, opaque_fusions, pool_threads
from jaxmem.xla import (
    Attributes,
    Computation,
    ConvolutionDimensions,
    DotDimensions,
    Instruction,
    Module,
    Shape,
    WindowDimension,
)

NHWC = ConvolutionDimensions(
    input_batch=0,
    input_feature=3,
    input_spatial=(1, 2),
    kernel_input_feature=2,
    kernel_output_feature=3,
    output_batch=0,
    output_feature=3,
    output_spatial=(1, 2),
)
YNN = b'{"outer_dimension_partitions":[],"fusion_config":{"kind":"__ynn_fusion"}}'


def f32(*dimensions):
    return Shape(element_type="f32", dimensions=dimensions)


def same(size, stride=1):
    each = WindowDimension(
        size=size,
        stride=stride,
        padding_low=size // 2,
        padding_high=size // 2,
        window_dilation=1,
        base_dilation=1,
    )
    return (each, each)


def valid(size):
    each = WindowDimension(size=size, stride=1, padding_low=0, padding_high=0, window_dilation=1, base_dilation=1)
    return (each, each)


class Body:
    """A fused computation in the making. Every method returns the new instruction's id."""

    def __init__(self):
        self.instructions = []

    def add(self, opcode, shape, *operands, **attributes):
        identifier = 1000 + len(self.instructions)
        self.instructions.append(
            Instruction(
                id=identifier,
                name=f"{opcode}.{identifier}",
                opcode=opcode,
                shape=shape,
                operand_ids=operands,
                computation_id=2,
                op_name=f"scope/{opcode}",
                attributes=Attributes(**attributes),
            )
        )
        return identifier

    def parameter(self, *dimensions):
        return self.add("parameter", f32(*dimensions), parameter_number=0)

    def convolution(self, image, kernel, result, window):
        return self.add("convolution", f32(*result), image, kernel, window=window, convolution=NHWC)

    def bytes(self, threads=2):
        module = entry([("fusion.1", self, ())])
        (fusion,) = opaque_fusions(module, threads=threads)
        return fusion.inside_bytes


def entry(fusions, config=YNN):
    """A module whose entry runs the given fusions: (name, body, names it reads)."""
    instructions, computations, ids, names = {}, {}, [], {}
    for number, (name, body, operands) in enumerate(fusions):
        shifted = [
            (1 + number) * 10000 + each.id for each in body.instructions
        ]  # every body needs ids of its own in the module
        move = {each.id: new for each, new in zip(body.instructions, shifted, strict=True)}
        for each in body.instructions:
            operands_moved = tuple(move[operand] for operand in each.operand_ids)
            instructions[move[each.id]] = each._replace(id=move[each.id], operand_ids=operands_moved)
        computations[10 + number] = Computation(
            id=10 + number, name=f"body.{number}", instruction_ids=tuple(shifted), root_id=shifted[-1], is_fusion=True
        )
        names[name] = number + 1
        ids.append(number + 1)
        instructions[number + 1] = Instruction(
            id=number + 1,
            name=name,
            opcode="fusion",
            shape=body.instructions[-1].shape,
            operand_ids=tuple(names[operand] for operand in operands),
            called_computation_ids=(10 + number,),
            computation_id=1,
            attributes=Attributes(fusion_kind="kCustom"),
            backend_config=config,
        )
    computations[1] = Computation(id=1, name="main", instruction_ids=tuple(ids), root_id=ids[-1])
    return Module(
        name="m",
        entry_computation_id=1,
        computations=computations,
        instructions=instructions,
        schedule={1: tuple(ids)},
    )


def single(image, kernel, result, window):
    body = Body()
    body.convolution(body.parameter(*image), body.parameter(*kernel), result, window)
    return body


FORWARD = single((2, 112, 112, 64), (3, 3, 64, 128), (2, 112, 112, 128), same(3))
# 576 deep: blocks of 48 columns fit 128 KiB, so 128 columns are packed as 144.
FORWARD_PACKED = 3 * 3 * 64 * 144 * 4


def test_each_task_pads_its_own_copy_of_the_input():
    # Three blocks of channels, two at work: two padded inputs of 6,653,952 bytes.
    assert FORWARD.bytes() == FORWARD_PACKED + 2 * (2 * 114 * 114 * 64 * 4)


@pytest.mark.parametrize(("threads", "tiles"), [(1, 1), (2, 2), (3, 3), (64, 3)])
def test_no_more_tasks_at_work_than_threads_or_tasks(threads, tiles):
    assert FORWARD.bytes(threads) == FORWARD_PACKED + tiles * 6_653_952


def test_two_nested_loops_of_tasks():
    # 64 channels in blocks of 48, 224 columns as 128 and 96: four tasks, of which two threads and the caller run three.
    body = single((8, 224, 224, 64), (3, 3, 64, 64), (8, 224, 224, 64), same(3))
    packed, wide, narrow = 3 * 3 * 64 * 96 * 4, 8 * 226 * 130 * 64 * 4, 8 * 226 * 98 * 64 * 4
    assert (wide, narrow) == (60_170_240, 45_359_104)
    assert body.bytes(1) == packed + wide
    assert body.bytes(2) == packed + 2 * wide + narrow
    assert body.bytes(4) == packed + 2 * wide + 2 * narrow


def test_without_padding_the_windows_are_gathered():
    body = single((2, 112, 112, 64), (3, 3, 64, 128), (2, 110, 110, 128), valid(3))
    assert body.bytes() == FORWARD_PACKED + 2 * (2 * 110 * 110 * 9 * 64 * 4)


def test_a_pointwise_convolution_copies_its_input():
    body = single((2, 56, 56, 256), (1, 1, 256, 512), (2, 56, 56, 512), valid(1))
    assert body.bytes() == 256 * 512 * 4 + 2 * (2 * 56 * 56 * 256 * 4)


def test_gradient_of_a_kernel_packs_the_whole_cotangent():
    # The image's channels are the batch, its 8 images the features; the window is the cotangent.
    window = (
        WindowDimension(size=112, stride=1, padding_low=1, padding_high=1, window_dilation=1, base_dilation=1),
    ) * 2
    body = single((64, 112, 112, 8), (112, 112, 8, 128), (64, 3, 3, 128), window)
    assert body.bytes() == 112 * 112 * 8 * 128 * 4 + 2 * (64 * 114 * 114 * 8 * 4)


def dot(rows, depth, columns):
    body = Body()
    dimensions = DotDimensions(lhs_contracting=(1,), rhs_contracting=(0,), lhs_batch=(), rhs_batch=())
    left, right = body.parameter(rows, depth), body.parameter(depth, columns)
    body.add("dot", f32(rows, columns), left, right, dot=dimensions)
    return body


def test_a_dot_packs_a_block_a_task_and_none_for_few_rows():
    # 1024 deep: blocks of 32 columns.
    assert dot(512, 1024, 2048).bytes() == 2 * 1024 * 32 * 4
    assert dot(8, 4096, 1000).bytes() == 0


def test_reductions_and_windows_of_operands_take_nothing():
    body = Body()
    body.add("reduce", f32(64), body.parameter(2, 112, 112, 64))
    assert body.bytes() == 0
    body = Body()
    body.add("reduce-window", f32(2, 56, 56, 64), body.parameter(2, 112, 112, 64), window=valid(2))
    assert body.bytes() == 0


def two_convolutions(between):
    """Two convolutions of which the first makes 2·112·112·128 numbers; ``between`` adds what stands between them."""
    body = Body()
    image, first, second = (
        body.parameter(2, 112, 112, 64),
        body.parameter(3, 3, 64, 128),
        body.parameter(3, 3, 128, 128),
    )
    made = between(body, body.convolution(image, first, (2, 112, 112, 128), same(3)))
    body.convolution(made, second, (2, 112, 112, 128), same(3))
    return body


def relu(body, value):
    zero = body.add("broadcast", f32(2, 112, 112, 128), body.parameter())
    return body.add("maximum", f32(2, 112, 112, 128), value, zero)


def test_a_result_between_two_convolutions_is_a_whole_buffer_and_relu_works_in_place():
    map_bytes = 2 * 112 * 112 * 128 * 4
    tile = 2 * 114 * 114 * 128 * 4
    # While the second runs: the map, both packed kernels, and two tiles. Its own result is the fusion's output.
    packed = FORWARD_PACKED + 3 * 3 * 128 * 128 * 4
    expected = map_bytes + packed + 2 * tile
    assert two_convolutions(lambda body, value: value).bytes() == expected
    assert two_convolutions(relu).bytes() == expected


def test_a_value_read_again_later_is_not_overwritten():
    body = Body()
    image, kernel = body.parameter(2, 112, 112, 64), body.parameter(3, 3, 64, 64)
    shape = (2, 112, 112, 64)
    first = body.convolution(image, kernel, shape, same(3))
    negated = body.add("negate", f32(*shape), first)
    second = body.convolution(negated, kernel, shape, same(3))
    body.add("add", f32(*shape), second, first)
    packed, whole = 3 * 3 * 64 * 96 * 4, 2 * 112 * 112 * 64 * 4
    # The sum is made in the second result's memory, the output; the first result and its negation have their own.
    # 64 channels in two blocks, all 112 columns in one.
    assert body.bytes() == 2 * whole + 2 * packed + 2 * (2 * 114 * 114 * 64 * 4)


def test_what_is_reduced_over_its_rows_is_made_row_by_row():
    body = Body()
    image, kernel = body.parameter(2, 112, 112, 64), body.parameter(3, 3, 64, 64)
    shape = (2, 112, 112, 64)
    first = body.convolution(image, kernel, shape, same(3))
    second = body.convolution(body.add("negate", f32(*shape), first), kernel, shape, same(3))
    body.add("reduce", f32(2, 64), second, body.parameter(), dimensions=(1, 2))
    row = 2 * 112 * 64 * 4
    packed, padded_row = 3 * 3 * 64 * 96 * 4, 2 * 114 * 64 * 4
    # One row of the second result needs three of the first, and those five of the image. The most is held while the
    # second runs: its row, three rows of the first, both packed kernels, and two tasks' three padded rows.
    assert body.bytes() == row + 3 * row + 2 * packed + 2 * 3 * padded_row


class TestModule:
    def test_nothing_opaque(self):
        for config in (b"", b"not json", b'{"fusion_config":{}}', b'{"fusion_config":{"kind":"__triton"}}', b"[1]"):
            need = hidden_need(entry([("fusion.1", FORWARD, ())], config), threads=2)
            assert (need.bytes, need.reason, need.fusions) == (0, "no opaque fusions", ())

    def test_count_and_place(self):
        module = entry([("fusion.1", FORWARD, ()), ("fusion.2", dot(8, 16, 4), ("fusion.1",))])
        first, second = hidden_need(module, threads=2).fusions
        assert (first.name, first.computation, first.position, first.operations) == (
            "fusion.1",
            "main",
            0,
            ("convolution",),
        )
        assert first.op_names == ("scope/parameter", "scope/convolution")
        assert (second.name, second.position, second.operations, second.inside_bytes) == ("fusion.2", 1, ("dot",), 0)

    def test_fusions_that_wait_for_one_another_do_not_add_up(self):
        one = FORWARD.bytes()
        chain = entry([("a", FORWARD, ()), ("b", FORWARD, ("a",)), ("c", FORWARD, ("b",))])
        assert hidden_need(chain, threads=2).bytes == one
        assert hidden_need(chain, threads=2).concurrent == ("a",)

    def test_independent_fusions_do_up_to_the_number_of_threads(self):
        fan = entry([("a", FORWARD, ()), ("b", FORWARD, ("a",)), ("c", FORWARD, ("a",)), ("d", FORWARD, ("a",))])
        assert hidden_need(fan, threads=1).bytes == FORWARD.bytes(1)
        # `a` waits for nothing, but all others wait for it: `a` is not in the largest set.
        assert hidden_need(fan, threads=2).bytes == 2 * FORWARD.bytes(2)

    def test_every_pair_of_a_set_must_be_independent(self):
        # `b` and `c` wait for nothing of each other, `d` waits for `b`: three threads find at most two at once.
        module = entry([("b", FORWARD, ()), ("c", FORWARD, ()), ("d", FORWARD, ("b",))])
        assert hidden_need(module, threads=3).bytes == 2 * FORWARD.bytes(3)
        assert hidden_need(module, threads=3).concurrent == ("b", "c")

    def test_the_reason_names_the_pool(self):
        assert "for a pool of 2 threads" in hidden_need(entry([("a", FORWARD, ())]), threads=2).reason


def test_threads_follow_the_environment(monkeypatch):
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.setenv("NPROC", "7")
    assert pool_threads() == 7
    monkeypatch.setenv("PJRT_NPROC", "3")
    assert pool_threads() == 3
    monkeypatch.setenv("PJRT_NPROC", "many")
    assert pool_threads() == 7


def transposed_convolution(*, base_dilation=2, stride=1, window_dilation=1, input_features=6):
    """A module of one convolution: 4 images of 5 × 7 pixels, a kernel of 3 × 3, 10 output features."""
    window = WindowDimension(
        size=3,
        stride=stride,
        padding_low=1,
        padding_high=2,
        window_dilation=window_dilation,
        base_dilation=base_dilation,
    )
    instructions = (
        Instruction(id=1, name="x", opcode="parameter", shape=f32(4, 5, 7, input_features), computation_id=1),
        Instruction(id=2, name="k", opcode="parameter", shape=f32(3, 3, 6, 10), computation_id=1),
        Instruction(
            id=3,
            name="convolution",
            opcode="convolution",
            shape=f32(4, 10, 14, 10),
            operand_ids=(1, 2),
            computation_id=1,
            attributes=Attributes(window=(window, window), convolution=NHWC),
        ),
    )
    entry = Computation(id=1, name="main", instruction_ids=(1, 2, 3), root_id=3)
    return Module(
        name="m",
        entry_computation_id=1,
        computations={1: entry},
        instructions={each.id: each for each in instructions},
        schedule={1: (1, 2, 3)},
    )


def test_the_runtime_multiplies_a_transposed_convolution_into_a_matrix():
    # 4 × 5 × 7 input pixels, one row each; 3 × 3 kernel pixels × 10 features, one column each; 4 bytes.
    assert hidden_need(transposed_convolution(), threads=2).bytes == 4 * 5 * 7 * 3 * 3 * 10 * 4


@pytest.mark.parametrize(
    "changed", [{"base_dilation": 1}, {"stride": 2}, {"window_dilation": 2}, {"input_features": 12}]
)
def test_other_convolutions_of_the_runtime_have_no_such_matrix(changed):
    assert hidden_need(transposed_convolution(**changed), threads=2).bytes == 0
