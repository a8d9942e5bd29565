"""The phase an operation belongs to, and the one it runs for, where XLA's rewriting blurs both."""

from jaxmem.attribution import Dataflow, Facts
from jaxmem.lowering import Argument
from jaxmem.roles import Phase, Role

FORWARD, BACKWARD, UPDATE = "jit(step)/jvp(dense)/", "jit(step)/transpose(jvp(dense))/", "jit(step)/"


def argument(number, path, role):
    return Argument(
        path=path,
        shape=(4,),
        dtype="float32",
        itemsize_bits=32,
        role=role,
        role_rule="given",
        layer="dense",
        donated=True,
        parameter_number=number,
    )


def facts_of(hlo):
    arguments = (argument(0, "w", Role.PARAMETERS), argument(1, "x", Role.INPUTS))
    facts = Facts(Dataflow(hlo.module()), arguments, ())
    nodes = {node.instruction.name: node for node in facts.dataflow.nodes}
    return facts, nodes


def test_what_depends_on_no_argument_tells_no_phase(hlo):
    """One partition number serves the whole program, under the name of the backward operation that asked first."""
    shape = hlo.f32(4)
    hlo.parameter("w", 0, shape)
    hlo.parameter("x", 1, shape)
    hlo.add("device", "partition-id", hlo.f32(), op_name=BACKWARD + "dot_general")
    hlo.add("offset", "broadcast", shape, "device", op_name=BACKWARD + "broadcast_in_dim")
    hlo.add("product", "multiply", shape, "x", "w", op_name=FORWARD + "mul")
    hlo.add("part", "add", shape, "product", "offset", op_name=FORWARD + "add")
    facts, nodes = facts_of(hlo)
    assert facts.phase[nodes["offset"].index] is Phase.BACKWARD
    assert facts.phase[nodes["part"].index] is Phase.FORWARD


def test_what_a_gradient_reads_is_read_backward_though_the_update_is_fused_in(hlo):
    shape = hlo.f32(4)
    hlo.parameter("w", 0, shape)
    hlo.parameter("x", 1, shape)
    hlo.add("map", "multiply", shape, "x", "w", op_name=FORWARD + "mul")
    for number, name in enumerate(("inner_map", "inner_w")):
        hlo.parameter(name, number, shape, computation=2)
    hlo.add("again", "sine", shape, "inner_map", computation=2, op_name=FORWARD + "sin")
    hlo.add("gradient", "negate", shape, "again", computation=2, op_name=BACKWARD + "mul")
    hlo.add("new", "subtract", shape, "inner_w", "gradient", computation=2, op_name=UPDATE + "sub")
    hlo.add("fusion", "fusion", shape, "map", "w", calls=(2,), op_name=BACKWARD + "mul")
    facts, nodes = facts_of(hlo)
    assert facts.phase[nodes["new"].index] is Phase.UPDATE
    assert facts.phase[nodes["again"].index] is Phase.FORWARD
    (reader,) = facts.dataflow.readers(nodes["map"].index)
    assert reader.instruction.name == "again"
    assert facts.run_phase(reader) is Phase.BACKWARD


def test_a_fusion_reads_an_array_once_for_what_its_operations_make_of_it(hlo):
    """A copy runs for the gradient that a fusion computes from it, though the fusion also computes a forward value from it."""
    shape = hlo.f32(4)
    hlo.parameter("w", 0, shape)
    hlo.parameter("x", 1, shape)
    hlo.add("map", "multiply", shape, "x", "w", op_name=FORWARD + "mul")
    hlo.add("copy", "copy", shape, "map")
    hlo.parameter("inner_map", 0, shape, computation=2)
    hlo.add("sine", "sine", shape, "inner_map", computation=2, op_name=FORWARD + "sin")
    hlo.add("gradient", "negate", shape, "inner_map", computation=2, op_name=BACKWARD + "mul")
    hlo.add("both", "tuple", hlo.tuple_of(shape, shape), "sine", "gradient", computation=2)
    hlo.add("fusion", "fusion", hlo.tuple_of(shape, shape), "copy", calls=(2,), op_name=BACKWARD + "mul")
    facts, nodes = facts_of(hlo)
    assert facts.run_phase(nodes["sine"]) is Phase.FORWARD
    assert facts.run_phase(nodes["copy"]) is Phase.BACKWARD


def test_slices_brought_nearer_run_for_their_reader(hlo):
    """TPU brings a map on chip slice by slice, hands it to a loop, and only there a backward operation reads it."""
    shape, half = hlo.f32(4), hlo.f32(2)
    hlo.parameter("w", 0, shape)
    hlo.parameter("x", 1, shape)
    hlo.add("map", "multiply", shape, "x", "w", op_name=FORWARD + "mul")
    hlo.add("first", "slice", half, "map", slice_starts=(0,))
    hlo.add("second", "slice", half, "map", slice_starts=(2,))
    hlo.add("joined", "custom-call", shape, "first", "second", custom_call_target="ConcatBitcast")
    hlo.add("handed", "tuple", hlo.tuple_of(shape), "joined")
    hlo.get("taken", "handed", 0, shape)
    hlo.add("inside", "sine", shape, "taken", op_name=BACKWARD + "sin")
    facts, nodes = facts_of(hlo)
    readers = list(facts.dataflow.readers(nodes["map"].index))
    assert {reader.instruction.name for reader in readers} == {"first", "second"}
    assert {facts.run_phase(reader) for reader in readers} == {Phase.BACKWARD}
