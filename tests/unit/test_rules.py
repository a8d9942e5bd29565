"""Every rule on the smallest step that shows it, and the facts that the rules ask about."""

from dataclasses import replace

import pytest

from jaxmem.attribution import Dataflow, Facts, attribute, take_account
from jaxmem.attribution.rules import RULES
from jaxmem.profile import profile_memory
from jaxmem.roles import Phase, Role

EXPECTED = {
    ("w", ()): (Role.PARAMETERS, "argument itself", "dense"),
    ("m", ()): (Role.OPTIMIZER_FIRST_MOMENT, "argument itself", "dense"),
    ("b", ()): (Role.PARAMETERS, "argument itself", "dense"),
    ("x", ()): (Role.INPUTS, "argument itself", ""),
    # New state over old state is that state; what replaces nothing is an output.
    ("w_new", ()): (Role.PARAMETERS, "program output", "dense"),
    ("m_new", ()): (Role.OPTIMIZER_FIRST_MOMENT, "program output", "dense"),
    ("b_new", ()): (Role.PARAMETERS, "program output", "dense"),
    ("loss", ()): (Role.OUTPUTS, "program output", ""),
    ("root", ()): (Role.OUTPUTS, "table of pointers", ""),
    ("call", ()): (Role.WORKSPACE, "table of pointers", ""),
    ("g_b_pair", ()): (Role.WORKSPACE, "table of pointers", ""),
    ("zero", ()): (Role.CONSTANTS, "literal constant", None),
    # The shape of a feature map and a backward name, and yet it depends on nothing.
    ("zeros", ()): (Role.CONSTANTS, "depends on no argument", "dense"),
    # The slot still holds w at the peak: its copy is a second one.
    ("w_copy", ()): (Role.WORKSPACE, "copy of an argument", "dense"),
    ("product", ()): (Role.SAVED_ACTIVATIONS, "made forward, read backward", "dense"),
    ("tanh", ()): (Role.SAVED_ACTIVATIONS, "made forward, read backward", "dense"),
    # Made by a backward operation, before the first gradient, of the forward pass alone, and read after it.
    ("index_map", ()): (Role.SAVED_ACTIVATIONS, "made early for the backward pass", "dense"),
    ("call", (0,)): (Role.TRANSIENT, "made and read backward", "dense"),
    ("call", (1,)): (Role.WORKSPACE, "scratch of a custom call", "dense"),
    ("g_w", ()): (Role.GRADIENTS, "becomes new state element by element", "dense"),
    ("later", ()): (Role.TRANSIENT, "made and read backward", "dense"),
    ("g_b_pair", (0,)): (Role.GRADIENTS, "becomes new state element by element", "dense"),
    ("g_b_pair", (1,)): (Role.WORKSPACE, "result nobody reads", "dense"),
    ("root_of_m", ()): (Role.TRANSIENT, "made and read in the update", None),
}


def answers(step, assignment=None):
    module = step.hlo.module()
    facts = Facts(Dataflow(module), step.arguments, step.outputs)
    profile = profile_memory(module, assignment or step.assignment(), platform="cpu")
    found = attribute(profile, facts)
    by_name = {
        (module.instructions[buffer.leaf[0]].name, buffer.leaf[1]): found[buffer.id] for buffer in profile.buffers
    }
    return profile, facts, found, by_name


@pytest.mark.parametrize("place", EXPECTED, ids=lambda place: place[0] + "".join(map(str, place[1])))
def test_who_gets_which_role_by_which_rule(step, place):
    role, rule, layer = EXPECTED[place]
    answer = answers(step)[3][place]
    assert (answer.role, answer.rule) == (role, rule)
    if layer is not None:
        assert answer.layer == layer


def test_every_buffer_of_the_step_is_expected(step):
    assert set(answers(step)[3]) == set(EXPECTED)
    assert {rule for _, rule, _ in EXPECTED.values()} <= {name for name, _ in RULES}


def test_once_the_slot_is_given_up_the_copy_is_the_argument(step):
    """Without a trace the peak is the last instruction: w has left its slot, and the one plain copy stands for it."""
    answer = answers(step, step.memory.assignment())[3]["w_copy", ()]
    assert (answer.role, answer.rule) == (Role.PARAMETERS, "copy of an argument")


def test_what_is_made_and_read_forward(hlo, memory, step):
    """Inference: nothing is kept, the map between two operations is working memory."""
    shape = hlo.f32(8, 4)
    hlo.parameter("x", 0, shape)
    hlo.add("first", "tanh", shape, "x", op_name="jit(f)/dense/tanh")
    hlo.add("second", "sine", shape, "first", op_name="jit(f)/dense/sin")
    places = memory(hlo)
    places.allocate(128, ("x", 0, 128), is_entry_computation_parameter=True)
    places.allocate(128, ("first", 0, 128))
    places.allocate(128, ("second", 0, 128), maybe_live_out=True)
    module = hlo.module()
    inputs = (replace(step.arguments[3], parameter_number=0),)
    facts = Facts(Dataflow(module), inputs, (replace(step.outputs[3], shape=(8, 4)),))
    profile = profile_memory(module, places.assignment(("first", ())), platform="cpu")
    answer = attribute(profile, facts)[places.ids["first", ()]]
    assert (answer.role, answer.rule) == (Role.TRANSIENT, "made and read forward")


def test_the_account_gives_every_byte_once(step):
    profile, _, found, _ = answers(step)
    account = take_account(profile, found)
    assert sum(account.bytes.values()) == profile.reserved_bytes
    # At g_w: two of the batch's maps and the index map; the parameters w and b; the momentum; the input.
    assert account.bytes[Role.SAVED_ACTIVATIONS, "dense"] == 3 * 128
    assert account.bytes[Role.PARAMETERS, "dense"] == 64 + 16
    assert account.bytes[Role.OPTIMIZER_FIRST_MOMENT, "dense"] == 64
    assert account.bytes[Role.INPUTS, ""] == 128
    assert account.bytes[Role.GRADIENTS, "dense"] == 64
    # What is not made yet: later, the pair and its table, the root of m.
    assert account.bytes[Role.FRAGMENTATION, ""] == 128 + 3 * 16 + 64


def test_phases_follow_names_and_what_they_are_made_from(step):
    _, facts, _, _ = answers(step)
    phase = {node.instruction.name: facts.phase[node.index] for node in facts.dataflow.nodes}
    assert phase["product"] is phase["tanh"] is Phase.FORWARD
    assert phase["call"] is phase["g_w"] is phase["index_map"] is Phase.BACKWARD
    # No "transpose" in their names, but made from gradients.
    assert phase["m_new"] is phase["w_new"] is phase["b_new"] is Phase.UPDATE


def test_what_follows_the_cotangent(step):
    _, facts, _, _ = answers(step)
    follows = {node.instruction.name: facts.follows_cotangent[node.index] for node in facts.dataflow.nodes}
    assert follows["cotangent"]
    assert follows["later"]
    assert not follows["index_map"]
    assert not follows["tanh"]


def test_gradients_are_found_from_the_new_state(step):
    _, facts, _, _ = answers(step)
    of = {
        node.instruction.name: facts.outputs[output].parameter_path
        for node in facts.dataflow.nodes
        if (output := facts.gradient_of[node.index]) is not None and facts.phase[node.index] is Phase.BACKWARD
    }
    assert of == {"g_w": "dense/w", "g_b_pair": "dense/b", "g_b": "dense/b"}


def test_an_unnamed_instruction_for_the_backward_pass_alone_is_backward(step):
    hlo = step.hlo
    module = hlo.module()
    unnamed = module.instructions[hlo.id("index_map")]
    instructions = dict(module.instructions) | {unnamed.id: unnamed._replace(op_name="")}
    facts = Facts(Dataflow(replace(module, instructions=instructions)), step.arguments, step.outputs)
    (node,) = (node for node in facts.dataflow.nodes if node.instruction.name == "index_map")
    assert facts.phase[node.index] is Phase.BACKWARD
