"""Memory inside opaque fusions, against the sizes of the blocks that the library was seen to take from malloc.

The expected numbers are single allocations of jaxlib 0.10.2 on two threads (less the 63 bytes for alignment),
multiplied by how many of them were held at once.
"""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from jaxmem.capture import Host
from jaxmem.devices.library_kernels import TYPICAL
from jaxmem.hidden import hidden_need, opaque_fusions
from jaxmem.unknown import Unknown
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
AVX2, AVX512 = TYPICAL["AVX2"], TYPICAL["AVX-512"]
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
                fingerprint=hash((opcode, shape, *attributes.items())),
            )
        )
        return identifier

    def parameter(self, *dimensions):
        return self.add("parameter", f32(*dimensions), parameter_number=0)

    def convolution(self, image, kernel, result, window):
        return self.add("convolution", f32(*result), image, kernel, window=window, convolution=NHWC)

    def bytes(self, threads=2, features=AVX2):
        module = entry([("fusion.1", self, ())])
        (fusion,) = opaque_fusions(module, threads=threads, features=features)
        assert isinstance(fusion.inside_bytes, int)
        return fusion.inside_bytes


def machine(threads=2, features: Iterable[str] = AVX2, name="x86_64"):
    return Host(machine=name, cpu_model="", cpu_features=tuple(sorted(features)), threads=threads, xla_flags="")


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


def dot(rows, depth, columns, batch=1):
    body = Body()
    dimensions = DotDimensions(lhs_contracting=(2,), rhs_contracting=(1,), lhs_batch=(0,), rhs_batch=(0,))
    left, right = body.parameter(batch, rows, depth), body.parameter(batch, depth, columns)
    body.add("dot", f32(batch, rows, columns), left, right, dot=dimensions)
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


def test_what_is_reduced_over_its_rows_is_made_a_few_rows_at_a_time():
    # 32 channels are one task: rows of 2 images, 56 x 32 numbers, of which 18 fit into 128 KiB of one image.
    body = Body()
    image, kernel = body.parameter(2, 56, 56, 32), body.parameter(3, 3, 32, 32)
    shape = (2, 56, 56, 32)
    first = body.convolution(image, kernel, shape, same(3))
    second = body.convolution(body.add("negate", f32(*shape), first), kernel, shape, same(3))
    body.add("reduce", f32(2, 32), second, body.parameter(), dimensions=(1, 2))
    row, padded_row, packed = 2 * 56 * 32 * 4, 2 * 58 * 32 * 4, 3 * 3 * 32 * 32 * 4
    # 18 rows of the second result need 20 of the first, and those 22 of the image. The most is held while the first runs.
    assert body.bytes() == packed + 20 * row + (20 + 22) * padded_row


def test_what_is_more_than_one_task_is_whole_though_it_is_reduced_over_its_rows():
    body = Body()
    result = body.convolution(body.parameter(2, 112, 112, 64), body.parameter(3, 3, 64, 64), (2, 112, 112, 64), same(3))
    body.add("reduce", f32(2, 64), result, body.parameter(), dimensions=(1, 2))
    whole, padded = 2 * 112 * 112 * 64 * 4, 2 * 114 * 114 * 64 * 4
    assert body.bytes() == whole + 3 * 3 * 64 * 96 * 4 + 2 * padded
    # With AVX-512 all 64 columns are one block, and the tasks are over columns of the image: 64 and 48 of them.
    tiles = 2 * 114 * (66 + 50) * 64 * 4
    assert body.bytes(features=AVX512) == whole + 3 * 3 * 64 * 64 * 4 + tiles


def pooled(size, channels):
    """Two convolutions and a maximum over 2 x 2, as at the beginning of VGG."""
    body = Body()
    shape = (8, size, size, channels)
    zero = body.add("broadcast", f32(*shape), body.parameter())
    value = body.parameter(8, size, size, 16)
    for inside in (16, channels):
        value = body.convolution(value, body.parameter(3, 3, inside, channels), shape, same(3))
        value = body.add("maximum", f32(*shape), value, zero)
    halves = WindowDimension(size=2, stride=2, padding_low=0, padding_high=0, window_dilation=1, base_dilation=1)
    one = WindowDimension(size=1, stride=1, padding_low=0, padding_high=0, window_dilation=1, base_dilation=1)
    body.add(
        "reduce-window",
        f32(8, size // 2, size // 2, channels),
        value,
        zero,
        window=(one, halves, halves, one),
    )
    return body


def test_a_convolution_runs_inside_the_tasks_of_the_next():
    # AVX-512, 64 channels: tasks of 64 and 48 columns. Each holds its padded input, the first result that it needs (65 and
    # 49 columns), and the padded image for that (67 and 51): seen, 14.70, 14.22 and 3.73 MiB, and 11.13, 10.72 and 2.84.
    second, first = 8 * 114 * (66 + 50) * 64 * 4, 8 * 112 * (65 + 49) * 64 * 4
    image, packed = 8 * 114 * (67 + 51) * 16 * 4, (3 * 3 * 16 * 64 + 3 * 3 * 64 * 64) * 4
    whole = 8 * 112 * 112 * 64 * 4
    assert pooled(112, 64).bytes(features=AVX512) == whole + packed + second + first + image
    # AVX2: two blocks of columns, so the first result is whole, and each task pads all of it.
    packed = (3 * 3 * 16 * 64 + 3 * 3 * 64 * 96) * 4
    assert pooled(112, 64).bytes() == 2 * whole + packed + 2 * (8 * 114 * 114 * 64 * 4)


def test_what_is_one_task_is_made_an_image_at_a_time_for_a_window():
    packed = (3 * 3 * 16 * 32 + 3 * 3 * 32 * 32) * 4
    assert pooled(224, 32).bytes() == 2 * (224 * 224 * 32 * 4) + packed


def in_groups(groups, size=56, channels=64, window=None):
    body = Body()
    image, kernel = body.parameter(8, size, size, channels), body.parameter(3, 3, channels // groups, channels)
    made = size if window is None else size - 2
    body.convolution(image, kernel, (8, made, made, channels), window or same(3))
    return body


def test_a_convolution_in_groups_gathers_all_windows_beside_the_padded_input():
    # Seen: 57,802,752 and 6,889,472 bytes, and the packed kernels of 4 groups, 36,864; without padding 53,747,712 alone.
    assert in_groups(4).bytes() == 57_802_752 + 6_889_472 + 36_864
    assert in_groups(4, window=valid(3)).bytes() == 53_747_712 + 36_864
    # Two blocks of a group's 256 channels at work: seen 115,605,504 and 13,778,944 bytes twice, packed 4,718,592.
    body = Body()
    body.convolution(body.parameter(2, 56, 56, 512), body.parameter(3, 3, 256, 512), (2, 56, 56, 512), same(3))
    assert body.bytes(features=AVX512) == 2 * (115_605_504 + 13_778_944) + 4_718_592


def test_a_depthwise_convolution_holds_its_padded_input():
    # The kernel of a channel is a column, packed as a tile of four.
    assert in_groups(240, size=28, channels=240).bytes() == 8 * 30 * 30 * 240 * 4 + 240 * 9 * 4 * 4
    assert in_groups(96, channels=96, window=valid(3)).bytes() == 96 * 9 * 4 * 4


def test_a_batch_of_products_is_packed_at_once():
    # Seen: 4,915,200 bytes (197 columns packed as 200), and twice 1,048,576 where eight tasks take 64 columns each.
    assert dot(197, 64, 197, batch=96).bytes(features=AVX512) == 4_915_200
    assert dot(512, 512, 512, batch=8).bytes() == 2 * 1_048_576
    # 8 columns: packing makes it more than twice as fast with AVX-512, so it is packed although there are few rows.
    assert dot(40, 1024, 8).bytes(features=AVX512) == 32_768
    assert dot(40, 1024, 8).bytes() == 0


@pytest.mark.parametrize(
    ("features", "columns", "packed", "tiles"),
    [
        (AVX2, 64, 3 * 3 * 64 * 96 * 4, 1),
        (AVX512, 64, 3 * 3 * 64 * 64 * 4, 1),
        (AVX2, 72, 3 * 3 * 64 * 112 * 4, 2),
        (AVX512, 72, 3 * 3 * 64 * 96 * 4, 1),
        (AVX2, 96, 3 * 3 * 64 * 96 * 4, 1),
        (AVX512, 96, 3 * 3 * 64 * 96 * 4, 2),
        (AVX2, 128, 3 * 3 * 64 * 144 * 4, 2),
        (AVX512, 128, 3 * 3 * 64 * 128 * 4, 2),
    ],
)
def test_the_kernel_follows_the_processor(features, columns, packed, tiles):
    body = single((8, 56, 56, 64), (3, 3, 64, columns), (8, 56, 56, columns), same(3))
    assert body.bytes(features=features) == packed + tiles * (8 * 58 * 58 * 64 * 4)


class TestModule:
    def test_nothing_opaque(self):
        for config in (b"", b"not json", b'{"fusion_config":{}}', b'{"fusion_config":{"kind":"__triton"}}', b"[1]"):
            need = hidden_need(entry([("fusion.1", FORWARD, ())], config), machine(2))
            assert (need.bytes, need.reason, need.fusions) == (0, "no opaque fusions", ())

    def test_count_and_place(self):
        module = entry([("fusion.1", FORWARD, ()), ("fusion.2", dot(8, 16, 4), ("fusion.1",))])
        first, second = hidden_need(module, machine(2)).fusions
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
        assert hidden_need(chain, machine(2)).bytes == one
        assert hidden_need(chain, machine(2)).concurrent == ("a",)

    def test_independent_fusions_do_up_to_the_number_of_threads(self):
        fan = entry([("a", FORWARD, ()), ("b", FORWARD, ("a",)), ("c", FORWARD, ("a",)), ("d", FORWARD, ("a",))])
        assert hidden_need(fan, machine(1)).bytes == FORWARD.bytes(1)
        # `a` waits for nothing, but all others wait for it: `a` is not in the largest set.
        assert hidden_need(fan, machine(2)).bytes == 2 * FORWARD.bytes(2)

    def test_every_pair_of_a_set_must_be_independent(self):
        # `b` and `c` wait for nothing of each other, `d` waits for `b`: three threads find at most two at once.
        module = entry([("b", FORWARD, ()), ("c", FORWARD, ()), ("d", FORWARD, ("b",))])
        assert hidden_need(module, machine(3)).bytes == 2 * FORWARD.bytes(3)
        assert hidden_need(module, machine(3)).concurrent == ("b", "c")

    def test_the_reason_names_the_pool(self):
        assert "for a pool of 2 threads" in hidden_need(entry([("a", FORWARD, ())]), machine(2)).reason


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
    assert hidden_need(transposed_convolution(), machine(2)).bytes == 4 * 5 * 7 * 3 * 3 * 10 * 4


@pytest.mark.parametrize(
    "changed", [{"base_dilation": 1}, {"stride": 2}, {"window_dilation": 2}, {"input_features": 12}]
)
def test_other_convolutions_of_the_runtime_have_no_such_matrix(changed):
    assert hidden_need(transposed_convolution(**changed), machine(2)).bytes == 0


def test_a_depthwise_convolution_of_the_runtime_gathers_a_row_for_each_result():
    # 10 groups of 6 channels, one result each: 4 × 10 × 14 rows of 3 × 3 × 6 numbers for each, and the column of its kernel.
    module = transposed_convolution(input_features=60)
    assert hidden_need(module, machine(2)).bytes == 10 * 54 * (4 * 10 * 14 + 1) * 4


def test_a_convolution_in_another_order_runs_as_plain_loops():
    # In the bodies of loops XLA leaves the axes of gradients as they are; 331 MB were foretold for a step that took none.
    module = transposed_convolution(input_features=60)
    convolution = module.instructions[3]
    turned = replace(
        NHWC, kernel_input_feature=NHWC.kernel_output_feature, kernel_output_feature=NHWC.kernel_input_feature
    )
    module = replace(
        module,
        instructions={
            **module.instructions,
            2: module.instructions[2]._replace(shape=f32(3, 3, 10, 6)),
            3: convolution._replace(attributes=replace(convolution.attributes, convolution=turned)),
        },
    )
    assert hidden_need(module, machine(2)).bytes == 0


def test_a_deep_product_of_the_runtime_is_copied_in_slices():
    # 2048 deep: seven slices of 293, two of them at a time. Seen: 13,106,112 bytes, with one more block for each thread.
    dimensions = DotDimensions(lhs_contracting=(0,), rhs_contracting=(0,), lhs_batch=(), rhs_batch=())
    module = transposed_convolution()
    left, right, product = module.instructions.values()
    module = replace(
        module,
        instructions={
            1: left._replace(shape=f32(2048, 768)),
            2: right._replace(shape=f32(2048, 3072)),
            3: product._replace(opcode="dot", shape=f32(768, 3072), attributes=Attributes(dot=dimensions)),
        },
    )
    assert hidden_need(module, machine(2)).bytes == 2 * 293 * (768 + 3072) * 4


class TestWithoutTheProcessor:
    def test_a_range_where_the_instruction_set_decides(self):
        module = entry([("fusion.1", FORWARD, ())])
        need = hidden_need(module, machine(features=()))
        assert need.bytes is None
        assert need.reason.endswith("does not tell: from 10.41 MiB (AVX-512) to 13.01 MiB (AVX2)")
        assert isinstance(need.fusions[0].inside_bytes, Unknown)

    def test_known_where_it_does_not(self):
        body = single((8, 56, 56, 16), (3, 3, 16, 48), (8, 56, 56, 48), same(3))
        module = entry([("fusion.1", body, ())])
        assert hidden_need(module, machine(features=())).bytes == body.bytes() == body.bytes(features=AVX512)

    @pytest.mark.parametrize("features", [(), ("asimd", "fp")])
    def test_unknown_on_another_architecture(self, features):
        need = hidden_need(entry([("fusion.1", FORWARD, ())]), machine(features=features, name="aarch64"))
        assert (need.bytes, need.reason) == (
            None,
            "an opaque fusion multiplies f32, and which kernels its library has for that on the processor it was compiled "
            "for is not known; they are known for float32, float64 and bfloat16 on x86",
        )
        assert hidden_need(entry([("fusion.1", FORWARD, ())], b""), machine(features=features, name="arm64")).bytes == 0
