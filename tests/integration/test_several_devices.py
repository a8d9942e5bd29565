"""Programs spread over several devices: sizes of one of them, and the ledger with what the devices exchange."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

import pytest

from jaxmem.analysis import Target, capture_target, estimate_target, program_of
from jaxmem.assemble import read_report
from jaxmem.attribution import Attribution, Dataflow, Facts, attribute, take_account
from jaxmem.attribution.collectives import GATHERS
from jaxmem.capture import Capture
from jaxmem.errors import UsageError
from jaxmem.formula import Formula, derive_formula
from jaxmem.formula.collectives import gathered_parameters
from jaxmem.formula.leaves import Leaf
from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.lowering import Argument
from jaxmem.profile import Buffer, MemoryProfile, profile_memory
from jaxmem.reconcile import reconcile
from jaxmem.roles import Phase, Role
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table
from jaxmem.xla import Assigned, BufferAssignment, Instruction, Module, read_hlo_proto

DEVICES = 4

# Widths and batch are all different, and all divide by four but one bias, which fsdp leaves whole.
FACTORY = """
import jax, jax.numpy as jnp, optax
from jax.sharding import NamedSharding, PartitionSpec as P
import jaxmem

def build(mesh, divided: bool = False):
    whole, batch = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

    def place(array):
        divisible = array.ndim and array.shape[0] % mesh.size == 0
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=batch if divided and divisible else whole)

    shapes = {"wide": {"kernel": (24, 160), "bias": (160,)}, "last": {"kernel": (160, 7), "bias": (7,)}}
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple))
    optimizer = optax.adam(1e-3)
    state = jax.tree.map(place, jax.eval_shape(optimizer.init, params))
    params = jax.tree.map(place, params)
    x = jax.ShapeDtypeStruct((32, 24), jnp.float32, sharding=batch)

    def step(params, state, x):
        def loss(params):
            hidden = jax.nn.relu(x @ params["wide"]["kernel"] + params["wide"]["bias"])
            return (hidden @ params["last"]["kernel"] + params["last"]["bias"]).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    kept = jax.tree.map(lambda a: a.sharding, (params, state))
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(*kept, whole))
    return jaxmem.Program(jitted, params, state, x, name="step", batch_size=32)
"""


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("several") / "spread_step.py"
    file.write_text(FACTORY)
    return f"{file}:build"


def target(factory: str, *, divided: bool) -> Target:
    settings = (("divided", str(divided)),)
    return Target(text=factory, settings=settings, mesh=(("data", DEVICES),), use_cache=False)


@pytest.fixture(scope="module", params=[False, True], ids=["data", "fsdp"])
def capture(factory: str, request: pytest.FixtureRequest) -> Capture:
    return capture_target(target(factory, divided=request.param))


def is_divided(capture: Capture) -> bool:
    return any(a.parameter_path == "wide/kernel" and a.shape == (6, 160) for a in capture.arguments)


def test_the_ledger_closes(capture: Capture) -> None:
    report = read_report(capture)
    assert report.device.device_count == DEVICES
    assert report.unexplained_bytes == 0
    assert sum(report.roles.values()) == report.required_bytes
    assert report.roles.get(Role.UNATTRIBUTED, 0) == 0


def test_sizes_are_those_of_one_device(capture: Capture) -> None:
    # 24·160 + 160 + 160·7 numbers divide by four; the last bias of 7 is whole everywhere.
    divisible, whole = 24 * 160 + 160 + 160 * 7, 7
    parameters = 4 * (divisible // (DEVICES if is_divided(capture) else 1) + whole)
    report = read_report(capture)
    assert report.roles[Role.PARAMETERS] == parameters
    assert report.roles[Role.INPUTS] == 4 * 32 * 24 // DEVICES
    # XLA was told the same, and writes all new state over the old: parameters, two moments, the step.
    assert capture.statistics.argument_bytes == 3 * parameters + 4 + 4 * 32 * 24 // DEVICES
    assert capture.statistics.alias_bytes == 3 * parameters + 4
    assert capture.program.parameter_count == divisible + whole


def test_devices_exchange_something(capture: Capture) -> None:
    module, _ = read_hlo_proto(capture.hlo_proto, origin="the capture")
    opcodes = {instruction.opcode for instruction in module.instructions.values()}
    assert "all-reduce" in opcodes
    assert ("all-gather" in opcodes) == is_divided(capture)


def test_a_formula_that_does_not_divide_leaves_bytes_unexplained(capture: Capture) -> None:
    assert capture.layer_table is not None
    whole = tuple(replace(value, divided_over=1) for value in capture.layer_table.values)
    broken = replace(capture, layer_table=replace(capture.layer_table, values=whole))
    unexplained = read_report(broken).unexplained_bytes
    assert isinstance(unexplained, int)
    assert unexplained > 0


def test_parameters_that_are_not_divided_leave_bytes_unexplained(capture: Capture) -> None:
    doubled = tuple(
        replace(a, shape=(2 * a.shape[0], *a.shape[1:])) if a.parameter_path == "wide/kernel" else a
        for a in capture.arguments
    )
    unexplained = read_report(replace(capture, arguments=doubled)).unexplained_bytes
    assert isinstance(unexplained, int)
    assert unexplained > 0


# A collective is broken on purpose, on a CPU and on GPUs that are not here.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """A compiled program and its formula, either of which may have been changed."""

    capture: Capture
    module: Module
    assignment: BufferAssignment
    formula: Formula

    @classmethod
    def of(cls, capture: Capture) -> "Sides":
        module, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
        assert assignment is not None
        assert capture.layer_table is not None
        platform = capture.device.platform
        formula = derive_formula(
            capture.layer_table, capture.arguments, capture.outputs, capture.program, platform=platform
        )
        return cls(capture=capture, module=module, assignment=assignment, formula=formula)

    def profile(self) -> MemoryProfile:
        return profile_memory(self.module, self.assignment, platform=self.capture.device.platform)

    def attributions(self) -> dict[int, Attribution]:
        return attribute(self.profile(), self.facts())

    def facts(self) -> Facts:
        return Facts(Dataflow(self.module), self.capture.arguments, self.capture.outputs)

    def unexplained(self) -> int:
        profile, facts = self.profile(), self.facts()
        attributions = attribute(profile, facts)
        rows = reconcile(
            self.formula,
            take_account(profile, attributions),
            profile,
            facts,
            attributions,
            self.capture.arguments,
            self.capture.outputs,
            hidden_bytes=0,
        )
        found = [row.unexplained_bytes for row in rows]
        return sum(size for size in found if isinstance(size, int))

    def exchanged(self) -> list[Buffer]:
        """The buffers that are live at the peak and came from other devices, go to them, or wait for their parts."""
        profile, attributions, facts = self.profile(), self.attributions(), self.facts()
        found = []
        for buffer in profile.buffers:
            attribution = attributions[buffer.id]
            if buffer.id not in profile.live_at_peak or attribution.node is None:
                continue
            if attribution.role is Role.COLLECTIVES or facts.awaits_sum[attribution.node] is not None:
                found.append(buffer)
        return found

    def with_assigned(self, changed: Callable[[Assigned], Assigned | None]) -> "Sides":
        allocations = []
        for allocation in self.assignment.allocations:
            assigned = tuple(each for one in allocation.assigned if (each := changed(one)) is not None)
            size = max([allocation.size, *(each.offset + each.size for each in assigned)])
            allocations.append(replace(allocation, assigned=assigned, size=size))
        return replace(self, assignment=replace(self.assignment, allocations=tuple(allocations)))

    def with_instruction(self, changed: Instruction) -> "Sides":
        instructions = {**self.module.instructions, changed.id: changed}
        return replace(self, module=replace(self.module, instructions=instructions))

    def with_leaves(self, leaves: Iterable[Leaf]) -> "Sides":
        return replace(self, formula=replace(self.formula, leaves=tuple(leaves)))


@pytest.fixture(scope="module", params=["cpu", "h100-sxm"])
def device(request: pytest.FixtureRequest, need: Callable[[str], None]) -> str:
    if request.param != "cpu":
        need("cuda")
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["data", "fsdp"])
def sides(factory: str, device: str, request: pytest.FixtureRequest) -> Sides:
    several = replace(target(factory, divided=request.param), device=device, mesh=(("data", 8),))
    return Sides.of(capture_target(several))


def test_unbroken_nothing_is_unexplained(sides: Sides) -> None:
    assert sides.unexplained() == 0
    assert sides.exchanged()


def test_a_collective_buffer_gone(sides: Sides) -> None:
    for buffer in sides.exchanged():
        broken = sides.with_assigned(lambda each, gone=buffer.id: None if each.buffer_id == gone else each)
        assert broken.unexplained() >= buffer.size_bytes, buffer


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_collective_buffer_of_another_size(sides: Sides, factor: float) -> None:
    for buffer in sides.exchanged():
        size = int(buffer.size_bytes * factor)
        broken = sides.with_assigned(
            lambda each, wrong=buffer.id, size=size: each._replace(size=size) if each.buffer_id == wrong else each
        )
        assert broken.unexplained() >= abs(size - buffer.size_bytes), buffer


def test_two_collective_buffers_that_change_their_sizes(sides: Sides) -> None:
    sizes = sorted((buffer.size_bytes, buffer.id) for buffer in sides.exchanged())
    (small, first), (large, second) = sizes[0], sizes[-1]
    assert small < large
    exchanged = {first: large, second: small}
    broken = sides.with_assigned(lambda each: each._replace(size=exchanged.get(each.buffer_id, each.size)))
    assert broken.unexplained() >= 2 * (large - small)


def whole_result(sides: Sides, opcodes: Collection[str]) -> Instruction:
    return next(i for i in sides.module.instructions.values() if i.opcode in opcodes and len(i.operand_ids) > 1)


def test_a_gather_that_receives_other_arguments(sides: Sides) -> None:
    """Each result then stands for another parameter than it has the size of."""
    found = [b for b in sides.exchanged() if sides.profile().instruction(b).opcode in GATHERS]
    if not found:
        return
    gather = whole_result(sides, GATHERS)
    exchanged = gather._replace(operand_ids=gather.operand_ids[::-1])
    held = sum(buffer.size_bytes for buffer in found if buffer.leaf[0] == gather.id)
    assert held > 0
    assert sides.with_instruction(exchanged).unexplained() >= held


def test_a_gather_of_what_the_formula_does_not_divide(sides: Sides) -> None:
    gathered = [b for b in sides.exchanged() if sides.profile().instruction(b).opcode in GATHERS]
    whole = sides.with_leaves(replace(leaf, divided_over=1) for leaf in sides.formula.leaves)
    assert whole.unexplained() >= sum(buffer.size_bytes for buffer in gathered)


def test_a_gathered_parameter_left_out_or_counted_twice(sides: Sides) -> None:
    gathered = [leaf for leaf in sides.formula.leaves if leaf.role is Role.COLLECTIVES]
    assert bool(gathered) == any(leaf.divided_over > 1 for leaf in sides.formula.leaves if leaf.role is Role.PARAMETERS)
    held = {sides.facts().argument[o] for b in sides.exchanged() for o in operands_of(sides, b)}
    for leaf in gathered:
        left = sides.with_leaves(other for other in sides.formula.leaves if other is not leaf)
        if leaf.path in {argument.path for argument in held if argument is not None}:
            assert left.unexplained() >= leaf.bytes, leaf.text
        if leaf.counted:
            twice = sides.with_leaves([*sides.formula.leaves, leaf])
            assert twice.unexplained() == leaf.bytes, leaf.text


def operands_of(sides: Sides, buffer: Buffer) -> list[int]:
    """What a gathered buffer was gathered from; nothing for any other buffer."""
    if sides.profile().instruction(buffer).opcode not in GATHERS:
        return []
    dataflow = Dataflow(sides.module)
    node = dataflow.node_at(buffer.leaf)
    assert node is not None
    return list(dataflow.nodes[node].operands)


def test_a_gradient_that_the_devices_add_up_and_the_formula_leaves_out(sides: Sides) -> None:
    """Alone or packed with others, the buffer that holds this device's part of it is not explained without it."""
    for path in ("wide/kernel", "last/kernel"):
        left = [leaf for leaf in sides.formula.leaves if not (leaf.role is Role.GRADIENTS and leaf.path == path)]
        assert len(left) < len(sides.formula.leaves)
        size = next(leaf for leaf in sides.formula.leaves if leaf.role is Role.GRADIENTS and leaf.path == path)
        assert sides.with_leaves(left).unexplained() >= size.bytes * size.divided_over


def test_a_sum_of_arrays_of_another_size(sides: Sides) -> None:
    """The gradients that the formula speaks of have three times the elements of what is packed, or added up alone.

    Not twice: in the row of a gradient that is there before and after the sum, one too large and one left open would cancel.
    """
    tripled = sides.with_leaves(
        replace(leaf, elements=3 * leaf.elements, bytes=3 * leaf.bytes) if leaf.role is Role.GRADIENTS else leaf
        for leaf in sides.formula.leaves
    )
    waiting = [b for b in sides.exchanged() if sides.profile().instruction(b).opcode not in GATHERS]
    largest = max(buffer.size_bytes for buffer in waiting)
    assert tripled.unexplained() >= largest


def test_a_parameter_is_gathered_for_the_forward_pass() -> None:
    """On a GPU from the beginning, since it waits for nothing; elsewhere when it is read; never on one device."""
    shape, elements = (24, 160), 24 * 160
    table = LayerTable(
        values=(
            Value(shape=(32, 24), dtype="float32", itemsize_bits=32, argument=0, divided_over=4),
            Value(shape=shape, dtype="float32", itemsize_bits=32, argument=1, divided_over=4),
            Value(shape=(32, 24), dtype="float32", itemsize_bits=32, operation=0, divided_over=4),
            Value(shape=(32, 160), dtype="float32", itemsize_bits=32, operation=1, divided_over=4),
        ),
        operations=(
            Operation(primitive="sin", scope="", layer="", phase=Phase.FORWARD, operands=(0,), results=(2,)),
            Operation(primitive="dot_general", scope="", layer="", phase=Phase.FORWARD, operands=(2, 1), results=(3,)),
        ),
        arguments=(0, 1),
        outputs=(3,),
    )
    own = replace(table.values[1], divided_over=1)
    whole = replace(table, values=(table.values[0], own, *table.values[2:]))
    x = Argument(path="x", role=Role.INPUTS, shape=(8, 24), dtype="float32", itemsize_bits=32, role_rule="given")
    kernel = Argument(
        path="kernel", role=Role.PARAMETERS, shape=(6, 160), dtype="float32", itemsize_bits=32, role_rule="given"
    )
    for platform, start in (("cuda", 0), ("cpu", 1), ("tpu", 1)):
        ranges = find_live_ranges(table, platform=platform)
        (found,) = gathered_parameters(table, (x, kernel), ranges, platform=platform)
        assert (found.path, found.size_bytes, found.start, found.end) == ("kernel", 4 * elements, start, 1)
        ranges = find_live_ranges(whole, platform=platform)
        assert gathered_parameters(whole, (x, kernel), ranges, platform=platform) == ()


def test_a_gather_waits_for_what_the_devices_compute_in_parts() -> None:
    """A divided scale meets a variance of its size: it is used in parts, and the kernel read next is gathered after that."""

    def value(*shape: int, over: int = 1, **made_by: int) -> Value:
        return Value(shape=shape, dtype="float32", itemsize_bits=32, divided_over=over, **made_by)

    def forward(primitive: str, operands: tuple[int, ...], result: int) -> Operation:
        return Operation(
            primitive=primitive, scope="", layer="", phase=Phase.FORWARD, operands=operands, results=(result,)
        )

    x, scale, kernel = (
        value(32, 24, over=4, argument=0),
        value(24, over=4, argument=1),
        value(24, 160, over=4, argument=2),
    )
    table = LayerTable(
        values=(
            x, scale, kernel, value(24, operation=0), value(24, operation=1), value(32, 24, over=4, operation=2),
            value(32, 160, over=4, operation=3),
        ),
        operations=(
            forward("reduce_sum", (0,), 3),
            forward("mul", (3, 1), 4),
            forward("mul", (0, 4), 5),
            forward("dot_general", (5, 2), 6),
        ),
        arguments=(0, 1, 2),
        outputs=(6,),
    )  # fmt: skip
    roles = {"x": Role.INPUTS, "scale": Role.PARAMETERS, "kernel": Role.PARAMETERS}
    arguments = [
        Argument(
            path=path, role=role, shape=table.values[index].shape, dtype="float32", itemsize_bits=32, role_rule="given"
        )
        for index, (path, role) in enumerate(roles.items())
    ]
    ranges = find_live_ranges(table, platform="cuda")
    (found,) = gathered_parameters(table, arguments, ranges, platform="cuda")
    in_parts, read = (ranges.order.index(operation) for operation in (1, 3))
    assert found.path == "kernel"
    assert in_parts < found.start <= found.end == read


def test_the_estimate_names_the_devices_and_needs_no_compile(factory: str) -> None:
    one, divided = (estimate_target(target(factory, divided=divided)) for divided in (False, True))
    assert one.device.device_count == divided.device.device_count == DEVICES
    assert divided.total_bytes < one.total_bytes


@pytest.mark.parametrize("sharding", ["data", "fsdp"])
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_zoo_model_is_spread(mode: str, sharding: str) -> None:
    settings = (("image_size", "32"),)
    zoo = Target(text="vgg11", mode=mode, batch_size=8, mesh=(("data", DEVICES),), sharding=sharding, settings=settings)
    traced = trace(program_of(zoo))
    by_path = {argument.path: argument for argument in traced.arguments}
    share = DEVICES if sharding == "fsdp" else 1
    assert by_path["model.fc6.kernel"].shape == (25088 // share, 4096)
    assert by_path["model.conv1_1.kernel"].shape == (3, 3, 3, 64 // share)
    assert by_path["images" if mode == "train" else "inputs"].shape == (8 // DEVICES, 32, 32, 3)
    assert traced.facts.parameter_count == 132_863_336
    assert traced.lowering.device_count == DEVICES
    for output in traced.outputs:
        if output.argument_index is not None:
            assert output.shape == traced.arguments[output.argument_index].shape

    table = layer_table(traced.closed_jaxpr, traced.arguments)
    products = [
        (operation, table.values[operation.results[0]])
        for operation in table.operations
        if operation.primitive in ("conv_general_dilated", "dot_general")
    ]
    for operation, made in products:
        if 8 in made.shape[:1]:
            assert made.divided_over == DEVICES, (operation.layer, operation.phase)
        else:
            # The gradient of a kernel: divided as the kernel is.
            assert operation.phase is Phase.BACKWARD
            assert made.divided_over == share, (operation.layer, made.shape)
    assert len(products) == 13 if mode == "infer" else len(products) > 13


def test_a_batch_that_does_not_divide_is_refused() -> None:
    zoo = Target(text="vgg11", mode="infer", batch_size=6, mesh=(("data", DEVICES),), sharding="data")
    with pytest.raises(UsageError, match="A batch of 6 does not divide by the 4 devices of the data axis"):
        program_of(zoo)


def test_a_zoo_model_takes_no_other_axis() -> None:
    zoo = Target(text="vgg11", mode="infer", batch_size=4, mesh=(("model", DEVICES),), sharding="data")
    with pytest.raises(UsageError, match="The mesh has the axes model"):
        program_of(zoo)
