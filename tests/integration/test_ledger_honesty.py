"""The ledger cannot be talked into closing: break the formula or the capture, and bytes are left unexplained.

Each program is compiled once; then one side is changed and both are laid beside each other again. Not every change can
show: a leaf that XLA does not hold at its peak, of an operation that the formula has twice in one layer (a scale and a
shift are both ``mul``), may vanish on both sides at once. The tests say which must show, and by how much at least.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.random_programs.build import build as build_random
from benchmarks.random_programs.plan import draw
from jaxmem.attribution import Attribution, Dataflow, Facts, attribute, take_account
from jaxmem.capture import Capture
from jaxmem.formula import Formula, derive_formula
from jaxmem.formula.leaves import Leaf
from jaxmem.profile import Buffer, MemoryProfile, profile_memory
from jaxmem.program import Program
from jaxmem.reconcile import reconcile
from jaxmem.reconcile.kinds import KINDS
from jaxmem.result import LedgerRow
from jaxmem.roles import STATE_ROLES, Role
from jaxmem.xla import Allocation, Assigned, BufferAssignment, Module, read_hlo_proto
from jaxmem_models.programs import build

WIDTHS = (48, 96, 64, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """A compiled program and its formula, either of which may have been changed."""

    capture: Capture
    module: Module
    assignment: BufferAssignment
    facts: Facts
    formula: Formula

    def profile(self) -> MemoryProfile:
        return profile_memory(self.module, self.assignment, platform="cpu")

    def rows(self) -> tuple[LedgerRow, ...]:
        profile = self.profile()
        attributions: dict[int, Attribution] = attribute(profile, self.facts)
        return reconcile(
            self.formula,
            take_account(profile, attributions),
            profile,
            self.facts,
            attributions,
            self.capture.arguments,
            self.capture.outputs,
            hidden_bytes=0,
        )

    def unexplained(self) -> int:
        found = [row.unexplained_bytes for row in self.rows()]
        return sum(size for size in found if isinstance(size, int))

    def with_leaves(self, leaves: Sequence[Leaf]) -> "Sides":
        return replace(self, formula=replace(self.formula, leaves=tuple(leaves)))

    def without(self, dropped: Callable[[Leaf], bool]) -> "Sides":
        left = [leaf for leaf in self.formula.leaves if not dropped(leaf)]
        assert len(left) < len(self.formula.leaves), "nothing was dropped"
        return self.with_leaves(left)

    def with_allocation(self, changed: Allocation) -> "Sides":
        allocations = tuple(changed if each.index == changed.index else each for each in self.assignment.allocations)
        return replace(self, assignment=replace(self.assignment, allocations=allocations))

    def counted(self, *roles: Role) -> list[Leaf]:
        return [leaf for leaf in self.formula.leaves if leaf.counted and (not roles or leaf.role in roles)]


T = TypeVar("T")


def evenly(things: Sequence[T], most: int = 40) -> Sequence[T]:
    """All of them where they are few, else every nth: a large program has many of the same sort."""
    return things[:: -(-len(things) // most) or 1]


def lay_out(capture: Capture) -> Sides:
    module, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    assert capture.layer_table is not None
    return Sides(
        capture=capture,
        module=module,
        assignment=assignment,
        facts=Facts(Dataflow(module), capture.arguments, capture.outputs),
        formula=derive_formula(
            capture.layer_table, capture.arguments, capture.outputs, capture.program, platform="cpu"
        ),
    )


def mlp() -> Program:
    """Three dense layers with biases and ReLU, Adam, one batch of 512, everything donated: its peak is in the backward pass."""
    optimizer = optax.adam(1e-3)

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    pairs = list(itertools.pairwise(WIDTHS))
    parameters = {
        f"dense{n}": {"kernel": array(*pair), "bias": array(pair[1])} for n, pair in enumerate(pairs, start=1)
    }

    def model(parameters: Any, features: jax.Array) -> jax.Array:
        for number in range(1, len(WIDTHS)):
            layer = parameters[f"dense{number}"]
            with jax.named_scope(f"dense{number}"):
                features = features @ layer["kernel"] + layer["bias"]
                if number < len(WIDTHS) - 1:
                    features = jax.nn.relu(features)
        return features

    def step(parameters: Any, state: Any, features: jax.Array, labels: jax.Array) -> Any:
        def loss_of(parameters: Any) -> jax.Array:
            with jax.named_scope("loss"):
                logits = model(parameters, features)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    state = jax.eval_shape(optimizer.init, parameters)
    labels = jax.ShapeDtypeStruct((512,), jnp.int32)
    return Program(
        step, parameters, state, array(512, WIDTHS[0]), labels,
        donate_argnums=(0, 1), mode="train", batch_size=512, optimizer="adam", name="mlp",
    )  # fmt: skip


def vgg11(mode: str) -> Program:
    spec = build("vgg11", mode=mode, batch_size=2, image_size=64)
    return Program(spec.function, *spec.arguments, mode=mode, batch_size=2, optimizer=spec.optimizer, name="vgg11")


def stack_of_layers() -> Program:
    """Four equal layers in a scan, Adam, everything donated: what autodiff keeps is stacked, and so are the gradients."""
    optimizer = optax.adam(1e-3)
    layers, width = 4, 61
    parameters = {"stack": {"kernel": jax.ShapeDtypeStruct((layers, width, width), jnp.float32)}}

    def step(parameters: Any, state: Any, features: jax.Array) -> Any:
        def loss_of(parameters: Any) -> jax.Array:
            def layer(hidden: jax.Array, own: Any) -> Any:
                return jnp.tanh(hidden @ own["kernel"]), None

            return jnp.mean(jax.lax.scan(layer, features, parameters["stack"])[0] ** 2)

        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    return Program(
        step, parameters, jax.eval_shape(optimizer.init, parameters), jax.ShapeDtypeStruct((128, width), jnp.float32),
        donate_argnums=(0, 1), mode="train", batch_size=128, optimizer="adam", name="stack",
    )  # fmt: skip


def random_program(seed: int) -> Program:
    """One without scopes, so that layers are those of neighbours."""
    return build_random(draw(seed))


PROGRAMS = {
    "mlp": mlp,
    "stack of layers": stack_of_layers,
    "vgg11 train": lambda: vgg11("train"),
    "vgg11 infer": lambda: vgg11("infer"),
    "operations in other layers": lambda: random_program(199),
    "arrays divided otherwise": lambda: random_program(155),
    "operations simplified away": lambda: random_program(142),
    "arrays exchanged": lambda: random_program(287),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def sides(request: pytest.FixtureRequest, compiled) -> Sides:
    return lay_out(compiled(PROGRAMS[request.param]()))


@pytest.fixture(scope="module")
def training(compiled) -> Sides:
    return lay_out(compiled(mlp()))


def test_unbroken_nothing_is_unexplained(sides: Sides) -> None:
    rows = sides.rows()
    assert [row for row in rows if row.unexplained_bytes] == []
    assert {item.kind for row in rows for item in row.items} <= set(KINDS)
    assert sides.profile().damage == ()


# The formula is wrong.


def test_one_moment_instead_of_two(sides: Sides) -> None:
    moments = sides.counted(Role.OPTIMIZER_SECOND_MOMENT)
    if not moments:
        assert all(argument.role is not Role.OPTIMIZER_SECOND_MOMENT for argument in sides.capture.arguments)
        return
    broken = sides.without(lambda leaf: leaf.role is Role.OPTIMIZER_SECOND_MOMENT)
    assert broken.unexplained() == sum(leaf.bytes for leaf in moments)


def test_any_argument_missing_or_counted_twice(sides: Sides) -> None:
    for leaf in evenly(sides.counted(*STATE_ROLES, Role.INPUTS)):
        if not leaf.elements:
            continue
        missing = sides.without(lambda other, leaf=leaf: other is leaf)
        assert missing.unexplained() >= leaf.bytes, leaf.text
        twice = sides.with_leaves([*sides.formula.leaves, leaf])
        assert twice.unexplained() >= leaf.bytes, leaf.text


def test_an_argument_of_another_size(sides: Sides) -> None:
    for leaf in evenly(sides.counted(*STATE_ROLES, Role.INPUTS)):
        larger = replace(leaf, bytes=leaf.bytes + 4)
        changed = [larger if other is leaf else other for other in sides.formula.leaves]
        # At least the difference; all of the leaf, where a buffer of its own size is what would have spoken for it.
        assert sides.with_leaves(changed).unexplained() >= 4, leaf.text


def layers(sides: Sides) -> Iterator[str]:
    yield from dict.fromkeys(leaf.layer for leaf in sides.counted(Role.PARAMETERS))


def test_a_layer_twice(sides: Sides) -> None:
    for layer in layers(sides):
        own = [leaf for leaf in sides.formula.leaves if leaf.layer == layer]
        parameters = sum(leaf.bytes for leaf in own if leaf.counted and leaf.role is Role.PARAMETERS)
        assert sides.with_leaves([*sides.formula.leaves, *own]).unexplained() >= parameters, layer


def test_a_layer_left_out(sides: Sides) -> None:
    for layer in layers(sides):
        own = [leaf for leaf in sides.counted() if leaf.layer == layer]
        state = sum(leaf.bytes for leaf in own if leaf.role in STATE_ROLES)
        assert sides.without(lambda leaf, layer=layer: leaf.layer == layer).unexplained() >= state, layer


def test_a_mask_left_out(sides: Sides) -> None:
    masks = [leaf for leaf in sides.counted(Role.SAVED_ACTIVATIONS) if leaf.name.startswith("mask")]
    for mask in masks:
        assert sides.without(lambda leaf, mask=mask: leaf is mask).unexplained() >= mask.bytes, mask.text
        twice = sides.with_leaves([*sides.formula.leaves, mask])
        assert twice.unexplained() == mask.bytes, mask.text


def alone_in_its_layer(leaf: Leaf, formula: Formula) -> bool:
    """Whether no other leaf has its layer and operation, so that nothing else could be meant."""
    return sum((other.layer, other.primitive) == (leaf.layer, leaf.primitive) for other in formula.leaves) == 1


def test_a_kept_feature_map_left_out_or_counted_twice(sides: Sides) -> None:
    # Of two stacks of one layer each has a buffer of its own at the peak: either would be missed.
    kept = [
        leaf
        for leaf in sides.counted()
        if leaf.keeps and (alone_in_its_layer(leaf, sides.formula) or leaf.primitive == "dynamic_update_slice")
    ]
    # The gradient of a large kernel may need more than all that is kept for the backward pass, which is over then; among the
    # index ramps of all pools, in the first of them, nothing is kept yet.
    early = sides.counted(Role.CONSTANTS)
    assert kept or sides.capture.program.mode != "train" or sides.counted(Role.GRADIENTS) or early
    for feature_map in kept:
        missing = sides.without(lambda leaf, feature_map=feature_map: leaf is feature_map)
        assert missing.unexplained() >= feature_map.bytes, feature_map.text
        twice = sides.with_leaves([*sides.formula.leaves, feature_map])
        assert twice.unexplained() == feature_map.bytes, feature_map.text


def made(sides: Sides, *roles: Role) -> list[Leaf]:
    """The counted leaves but for those that the backend was to make for its own sake and has not."""
    items = [item for row in sides.rows() for item in row.items if item.kind == "not made by the compiler"]
    absent = {value for item in items for name, value in item.evidence if name == "formula"}
    return [leaf for leaf in sides.counted(*roles) if leaf.text not in absent]


def test_an_array_of_the_right_shape_and_the_wrong_bytes(sides: Sides) -> None:
    """A number format that is not the program's: twice as wide."""
    for leaf in made(sides, Role.SAVED_ACTIVATIONS, Role.TRANSIENT, Role.GRADIENTS):
        wide = replace(leaf, bytes=2 * leaf.bytes)
        changed = [wide if other is leaf else other for other in sides.formula.leaves]
        assert sides.with_leaves(changed).unexplained() >= leaf.bytes, leaf.text


@pytest.mark.parametrize("factor", [0.5, 2.25])
def test_an_array_of_another_number_of_elements(sides: Sides, factor: float) -> None:
    for leaf in made(sides, Role.SAVED_ACTIVATIONS, Role.TRANSIENT, Role.GRADIENTS):
        elements = int(leaf.elements * factor)
        other = replace(leaf, elements=elements, bytes=(elements * leaf.itemsize_bits + 7) // 8)
        name = (other.layer, other.primitive, other.elements)
        if not elements or any((each.layer, each.primitive, each.elements) == name for each in sides.formula.leaves):
            continue  # it would be another array of the program
        changed = [other if each is leaf else each for each in sides.formula.leaves]
        assert sides.with_leaves(changed).unexplained() > 0, leaf.text


def test_an_array_that_no_operation_makes(sides: Sides) -> None:
    """Under the name of one that the program has, and of a size that nothing has: simplified away is what was there once."""
    for leaf in evenly(made(sides, Role.SAVED_ACTIVATIONS, Role.TRANSIENT, Role.GRADIENTS)):
        elements = 3 * leaf.elements + 1
        size_bytes = (elements * leaf.itemsize_bits + 7) // 8
        for value in (None, leaf.value):
            invented = replace(leaf, elements=elements, bytes=size_bytes, value=value)
            assert sides.with_leaves([*sides.formula.leaves, invented]).unexplained() >= size_bytes, leaf.text


def devices(sides: Sides) -> int:
    return max(leaf.divided_over for leaf in sides.formula.leaves)


def test_a_gradient_left_out_or_counted_twice(sides: Sides) -> None:
    for gradient in sides.counted(Role.GRADIENTS):
        missing = sides.without(lambda leaf, gradient=gradient: leaf is gradient)
        assert missing.unexplained() >= gradient.bytes, gradient.text
        twice = sides.with_leaves([*sides.formula.leaves, gradient])
        assert twice.unexplained() == gradient.bytes, gradient.text


def test_a_result_or_the_table_of_results_left_out_or_counted_twice(sides: Sides) -> None:
    for result in sides.counted(Role.OUTPUTS):
        # Of a result that nobody asked to be divided, one device may have a part.
        least = result.bytes // devices(sides)
        assert least <= sides.without(lambda leaf, result=result: leaf is result).unexplained() <= result.bytes, (
            result.text
        )
        assert least <= sides.with_leaves([*sides.formula.leaves, result]).unexplained() <= result.bytes, result.text


# The capture is wrong.


def live_buffers(sides: Sides) -> Iterator[tuple[Buffer, Allocation]]:
    profile = sides.profile()
    allocations = {allocation.index: allocation for allocation in profile.allocations}
    for buffer in evenly([buffer for buffer in profile.buffers if buffer.id in profile.live_at_peak]):
        yield buffer, allocations[buffer.allocation]


def changed_place(allocation: Allocation, buffer: Buffer, change: Callable[[Assigned], Assigned]) -> Allocation:
    assigned = tuple(change(each) if each.buffer_id == buffer.id else each for each in allocation.assigned)
    size = max([allocation.size, *(each.offset + each.size for each in assigned)])
    return replace(allocation, assigned=assigned, size=size)


def test_a_buffer_gone_from_its_allocation(sides: Sides) -> None:
    for buffer, allocation in live_buffers(sides):
        left = tuple(each for each in allocation.assigned if each.buffer_id != buffer.id)
        broken = sides.with_allocation(replace(allocation, assigned=left))
        assert broken.unexplained() >= buffer.size_bytes, buffer


def test_an_allocation_gone(sides: Sides) -> None:
    for allocation in evenly([each for each in sides.profile().allocations if each.size]):
        left = tuple(each for each in sides.assignment.allocations if each.index != allocation.index)
        broken = replace(sides, assignment=replace(sides.assignment, allocations=left))
        assert broken.unexplained() > 0, allocation


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_buffer_of_another_size(sides: Sides, factor: float) -> None:
    for buffer, allocation in live_buffers(sides):
        size = int(buffer.size_bytes * factor)
        changed = changed_place(allocation, buffer, lambda each, size=size: each._replace(size=size))
        broken = sides.with_allocation(changed)
        assert broken.unexplained() >= abs(size - buffer.size_bytes), buffer


def test_a_buffer_of_another_size_in_both_tables(sides: Sides) -> None:
    """The logical buffer says the same wrong size as its place: then the value's own shape contradicts them."""
    for buffer, allocation in live_buffers(sides):
        size = buffer.size_bytes // 2
        changed = changed_place(allocation, buffer, lambda each, size=size: each._replace(size=size))
        logical = {**sides.assignment.buffers, buffer.id: sides.assignment.buffers[buffer.id]._replace(size=size)}
        broken = sides.with_allocation(changed)
        broken = replace(broken, assignment=replace(broken.assignment, buffers=logical))
        assert broken.unexplained() >= buffer.size_bytes - size, buffer


def test_two_buffers_that_change_their_sizes(training: Sides) -> None:
    """The sum stays the same; each of the two is wrong."""
    parameters = [pair for pair in live_buffers(training) if pair[1].is_entry_computation_parameter]
    (first, one), (second, other) = sorted(parameters, key=lambda pair: -pair[0].size_bytes)[:4:3]
    assert first.size_bytes > second.size_bytes
    broken = training.with_allocation(
        changed_place(one, first, lambda each: each._replace(size=second.size_bytes))
    ).with_allocation(changed_place(other, second, lambda each: each._replace(size=first.size_bytes)))
    assert broken.unexplained() >= 2 * (first.size_bytes - second.size_bytes)


def test_roles_of_the_arguments_exchanged(training: Sides) -> None:
    """First and second moments for one another: the sums are the same, the arrays are not."""
    exchange = {
        Role.OPTIMIZER_FIRST_MOMENT: Role.OPTIMIZER_SECOND_MOMENT,
        Role.PARAMETERS: Role.OPTIMIZER_FIRST_MOMENT,
    }
    leaves = [replace(leaf, role=exchange.get(leaf.role, leaf.role)) for leaf in training.formula.leaves]
    moved = sum(leaf.bytes for leaf in training.counted(*exchange))
    assert training.with_leaves(leaves).unexplained() >= moved
