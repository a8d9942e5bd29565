"""Compiled modules small enough to read: a builder of hand-written HLO, and one training step written with it."""

from dataclasses import fields as fields_of

import pytest
from lowerings_by_hand import argument, replacing

from jaxmem.lowering import Output
from jaxmem.roles import Role
from jaxmem.xla import (
    Allocation,
    Assigned,
    Attributes,
    BufferAssignment,
    Computation,
    HeapTrace,
    Instruction,
    LogicalBuffer,
    Module,
    Shape,
    TraceEvent,
)

ENTRY = 1


def f32(*dimensions):
    return Shape(element_type="f32", dimensions=dimensions)


def tuple_of(*shapes):
    return Shape(element_type="tuple", tuple_shapes=shapes)


class Hlo:
    """A module in the making: instructions by name, in the order of the schedule; the last of a computation is its root."""

    f32 = staticmethod(f32)
    tuple_of = staticmethod(tuple_of)

    def __init__(self):
        self.made = {}
        self.by_computation = {ENTRY: []}
        self.fusions = set()
        self.fingerprints = {}

    def add(self, name, opcode, shape, *operands, computation=ENTRY, calls=(), **fields):
        identifier = 100 + len(self.made)
        content = repr((opcode, shape, fields.get("tuple_index"), fields.pop("literal", "")))
        own = {each.name: fields.pop(each.name) for each in fields_of(Attributes) if each.name in fields}
        self.made[name] = Instruction(
            id=identifier,
            name=name,
            opcode=opcode,
            shape=shape,
            operand_ids=tuple(self.made[operand].id for operand in operands),
            computation_id=computation,
            called_computation_ids=tuple(calls),
            attributes=Attributes(**own),
            fingerprint=self.fingerprints.setdefault(content, len(self.fingerprints)),
            **fields,
        )
        self.by_computation.setdefault(computation, []).append(identifier)
        if opcode == "fusion":
            self.fusions.update(calls)
        return name

    def parameter(self, name, number, shape, computation=ENTRY):
        return self.add(name, "parameter", shape, parameter_number=number, computation=computation)

    def get(self, name, source, index, shape, computation=ENTRY):
        return self.add(name, "get-tuple-element", shape, source, tuple_index=index, computation=computation)

    def id(self, name):
        return self.made[name].id

    def module(self):
        return Module(
            name="hand-written",
            entry_computation_id=ENTRY,
            computations={
                key: Computation(
                    id=key,
                    name=f"computation.{key}",
                    instruction_ids=tuple(ids),
                    root_id=ids[-1],
                    is_fusion=key in self.fusions,
                )
                for key, ids in self.by_computation.items()
            },
            instructions={instruction.id: instruction for instruction in self.made.values()},
            schedule={key: tuple(ids) for key, ids in self.by_computation.items() if key not in self.fusions},
        )


class Memory:
    """A buffer assignment in the making: each named value is placed in an allocation."""

    def __init__(self, hlo):
        self.hlo = hlo
        self.buffers = {}
        self.allocations = []
        self.ids = {}

    def value(self, name, size, index=()):
        identifier = len(self.buffers) + 1
        self.buffers[identifier] = LogicalBuffer(
            id=identifier, size=size, instruction_id=self.hlo.id(name), shape_index=index
        )
        self.ids[name, index] = identifier
        return identifier

    def allocate(self, size, *places, **fields):
        """``places``: (name, offset, size) or (name, offset, size, shape index)."""
        assigned = tuple(
            Assigned(buffer_id=self.value(place[0], place[2], *place[3:]), offset=place[1], size=place[2])
            for place in places
        )
        self.allocations.append(Allocation(index=len(self.allocations), size=size, assigned=assigned, **fields))

    def assignment(self, *traced):
        """With one heap trace, in which the named values are allocated in order and freed at the end."""
        events = [
            TraceEvent(kind="alloc", buffer_id=self.ids[name, index], instruction_name=name) for name, index in traced
        ]
        events += [TraceEvent(kind="free", buffer_id=event.buffer_id) for event in reversed(events)]
        return BufferAssignment(
            buffers=self.buffers,
            aliases={},
            allocations=tuple(self.allocations),
            traces=(HeapTrace(events=tuple(events)),) if events else (),
        )


class Step:
    """One training step of tanh(x·w) with a bias b beside it and a momentum m of w, every line written by hand.

    x is 8 × 4, w and m are 4 × 4, b has 4 numbers, all float32. ``m' = m + g_w``, ``w' = w − √m'``, ``b' = b − g_b``.
    """

    def __init__(self):
        hlo = self.hlo = Hlo()
        forward, backward = "jit(step)/jvp(dense)/", "jit(step)/transpose(jvp(dense))/"
        matrix, batch, vector = f32(4, 4), f32(8, 4), f32(4)
        for number, (name, shape) in enumerate([("w", matrix), ("m", matrix), ("b", vector), ("x", batch)]):
            hlo.parameter(name, number, shape)
        hlo.add("zero", "constant", f32(), literal="0")
        hlo.add("zeros", "broadcast", batch, "zero", op_name=backward + "broadcast_in_dim")
        hlo.add("w_copy", "copy", matrix, "w")
        hlo.add("product", "dot", batch, "x", "w_copy", op_name=forward + "dot_general")
        hlo.add("tanh", "tanh", batch, "product", op_name=forward + "tanh")
        hlo.add("loss", "reduce", f32(), "tanh", "zero", op_name="jit(step)/jvp(loss)/reduce_sum")
        hlo.add("index_map", "convert", batch, "product", op_name=backward + "argmax")
        scratch = Shape(element_type="u8", dimensions=(64,))
        hlo.add("call", "custom-call", tuple_of(batch, scratch), "tanh", "zeros", op_name=backward + "mul")
        hlo.get("cotangent", "call", 0, batch)
        hlo.add("g_w", "dot", matrix, "x", "cotangent", op_name=backward + "dot_general")
        hlo.add("later", "multiply", batch, "index_map", "cotangent", op_name=backward + "mul")
        hlo.add("g_b_pair", "reduce", tuple_of(vector, vector), "later", "zero", op_name=backward + "reduce_sum")
        hlo.get("g_b", "g_b_pair", 0, vector)
        hlo.add("m_new", "add", matrix, "m", "g_w", op_name="jit(step)/add")
        hlo.add("root_of_m", "sqrt", matrix, "m_new", op_name="jit(step)/sqrt")
        hlo.add("w_new", "subtract", matrix, "w", "root_of_m", op_name="jit(step)/sub")
        hlo.add("b_new", "subtract", vector, "b", "g_b", op_name="jit(step)/sub")
        hlo.add("root", "tuple", tuple_of(matrix, matrix, vector, f32()), "w_new", "m_new", "b_new", "loss")

        memory = self.memory = Memory(hlo)
        for number, (name, size) in enumerate([("w", 64), ("m", 64), ("b", 16)]):
            memory.allocate(
                size,
                (name, 0, size),
                (f"{name}_new", 0, size),
                is_entry_computation_parameter=True,
                parameter_number=number,
                maybe_live_out=True,
                is_parameter_aliased_with_output=True,
            )
        memory.allocate(128, ("x", 0, 128), is_entry_computation_parameter=True, parameter_number=3)
        memory.allocate(4, ("loss", 0, 4), maybe_live_out=True)
        memory.allocate(32, ("root", 0, 32), maybe_live_out=True)
        memory.allocate(4, ("zero", 0, 4), is_constant=True)
        temporary = [
            ("zeros", 128), ("w_copy", 64), ("product", 128), ("tanh", 128), ("index_map", 128),
            ("call", 128, (0,)), ("call", 64, (1,)), ("call", 16), ("g_w", 64), ("later", 128),
            ("g_b_pair", 16, (0,)), ("g_b_pair", 16, (1,)), ("g_b_pair", 16), ("root_of_m", 64),
        ]  # fmt: skip
        offset, places = 0, []
        for name, size, *index in temporary:
            places.append((name, offset, size, *index))
            offset += size
        memory.allocate(offset, *places)

    def assignment(self):
        """The peak is at ``g_w``."""
        before = [
            ("zeros", ()), ("w_copy", ()), ("product", ()), ("tanh", ()), ("index_map", ()),
            ("call", ()), ("call", (0,)), ("call", (1,)), ("g_w", ()),
        ]  # fmt: skip
        return self.memory.assignment(*before)

    @property
    def arguments(self):
        return (
            argument(0, "w", (4, 4), Role.PARAMETERS, layer="dense", path="dense/w"),
            argument(1, "m", (4, 4), Role.OPTIMIZER_FIRST_MOMENT, layer="dense", path="dense/w"),
            argument(2, "b", (4,), Role.PARAMETERS, layer="dense", path="dense/b"),
            argument(3, "x", (8, 4), Role.INPUTS),
        )

    @property
    def outputs(self):
        replaced = [replacing(number, one) for number, one in enumerate(self.arguments[:3])]
        return (
            *replaced,
            Output(path="result[3]", shape=(), dtype="float32", itemsize_bits=32, role=Role.OUTPUTS),
        )


@pytest.fixture
def hlo():
    return Hlo()


@pytest.fixture
def memory():
    return Memory


@pytest.fixture
def step():
    return Step()
