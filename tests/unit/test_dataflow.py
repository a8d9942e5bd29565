"""The dataflow graph: through fusions, around loops, and which values are one."""

from jaxmem.attribution import Dataflow


def test_a_fusion_is_as_visible_as_what_stands_outside(hlo):
    shape = hlo.f32(4)
    hlo.parameter("inner", 0, shape, computation=2)
    hlo.add("inner_sine", "sine", shape, "inner", computation=2)
    hlo.add("inner_negate", "negate", shape, "inner_sine", computation=2)
    hlo.parameter("x", 0, shape)
    hlo.add("fusion", "fusion", shape, "x", calls=(2,))
    hlo.add("after", "tanh", shape, "fusion")
    graph = Dataflow(hlo.module())
    node = {each.instruction.name: each for each in graph.nodes}
    assert [reader.instruction.name for reader in graph.readers(node["x"].index)] == ["inner_sine"]
    assert graph.origins[node["fusion"].index] == node["inner_negate"].index
    assert node["inner_sine"].fusion == hlo.id("fusion")
    assert node["after"].fusion is None
    assert [reader.instruction.name for reader in graph.readers(node["inner_negate"].index)] == ["after"]


def test_what_fusions_are_given_and_what_they_make_of_nothing_are_no_arrays_of_their_own(hlo):
    """Two fusions add a constant to x; the second also writes a constant, which then is an array in memory."""
    shape = hlo.f32(4)
    for computation in (2, 3):
        hlo.parameter(f"given_{computation}", 0, shape, computation=computation)
        hlo.add(f"one_{computation}", "constant", hlo.f32(), literal="1", computation=computation)
        hlo.add(f"ones_{computation}", "broadcast", shape, f"one_{computation}", computation=computation)
        hlo.add(
            f"sum_{computation}", "add", shape, f"given_{computation}", f"ones_{computation}", computation=computation
        )
    hlo.add("written", "broadcast", shape, "one_3", computation=3)
    hlo.add("both", "tuple", hlo.tuple_of(shape, shape), "sum_3", "written", computation=3)
    hlo.parameter("x", 0, shape)
    hlo.add("first", "fusion", shape, "x", calls=(2,))
    hlo.add("second", "fusion", hlo.tuple_of(shape, shape), "first", calls=(3,))
    graph = Dataflow(hlo.module())
    node = {each.instruction.name: each for each in graph.nodes}
    assert not {"given_2", "given_3", "one_3", "ones_3"} & node.keys()
    assert graph.arrays[hlo.id("given_3")] == (node["first"].index,)
    assert graph.arrays[hlo.id("ones_3")] == graph.arrays[hlo.id("ones_2")]
    assert node["sum_3"].operands == (node["first"].index, node["ones_2"].index)
    assert node["written"].fusion == hlo.id("second")
    assert graph.value_numbers[node["written"].index] == graph.value_numbers[node["ones_2"].index]


def test_the_same_computation_twice_is_one_value(hlo):
    """XLA repeats a sine inside a fusion rather than keep it; the copy holds the same numbers, the cosine does not."""
    shape = hlo.f32(4)
    hlo.parameter("inner", 0, shape, computation=2)
    hlo.add("again", "sine", shape, "inner", computation=2)
    hlo.add("use", "negate", shape, "again", computation=2)
    hlo.parameter("x", 0, shape)
    hlo.add("sine", "sine", shape, "x")
    hlo.add("copy", "copy", shape, "sine")
    hlo.add("fusion", "fusion", shape, "x", calls=(2,))
    hlo.add("cosine", "cosine", shape, "x")
    hlo.add("of_another", "sine", shape, "cosine")
    graph = Dataflow(hlo.module())
    number = {each.instruction.name: graph.value_numbers[each.index] for each in graph.nodes}
    assert number["sine"] == number["again"] == number["copy"]
    assert len({number["sine"], number["cosine"], number["use"], number["of_another"], number["x"]}) == 5


def loop(hlo):
    """while: (i, total, constant) → (i + i, total + constant, constant)."""
    shape = hlo.f32(4)
    state = hlo.tuple_of(shape, shape, shape)
    hlo.parameter("body_state", 0, state, computation=2)
    for index, name in enumerate(("i", "total", "kept")):
        hlo.get(name, "body_state", index, shape, computation=2)
    hlo.add("next_i", "add", shape, "i", "i", computation=2)
    hlo.add("next_total", "add", shape, "total", "kept", computation=2)
    hlo.add("body_root", "tuple", state, "next_i", "next_total", "kept", computation=2)
    hlo.parameter("condition_state", 0, state, computation=3)
    hlo.get("condition_i", "condition_state", 0, shape, computation=3)
    hlo.add("condition", "is-finite", hlo.f32(), "condition_i", computation=3)
    for number, name in enumerate(("a", "b", "c")):
        hlo.parameter(name, number, shape)
    hlo.add("initial", "tuple", state, "a", "b", "c")
    hlo.add("loop", "while", state, "initial", calls=(2, 3))
    hlo.get("total_after", "loop", 1, shape)
    hlo.get("kept_after", "loop", 2, shape)
    hlo.add("end", "add", shape, "total_after", "kept_after")
    return hlo.module()


def test_what_a_loop_hands_on_untouched_is_the_same_array_and_what_it_changes_is_not(hlo):
    graph = Dataflow(loop(hlo))
    node = {each.instruction.name: each.index for each in graph.nodes}
    assert graph.origins[node["kept"]] == node["c"]
    assert graph.origins[node["kept_after"]] == node["c"]
    assert graph.origins[node["total_after"]] != node["b"]
    assert graph.value_numbers[node["kept_after"]] == graph.value_numbers[node["c"]]
    assert graph.value_numbers[node["total_after"]] != graph.value_numbers[node["b"]]


def test_dependence_flows_around_a_loop(hlo):
    graph = Dataflow(loop(hlo))
    node = {each.instruction.name: each.index for each in graph.nodes}
    bits = graph.spread({node["a"]: 1, node["b"]: 2, node["c"]: 4})
    assert bits[node["next_i"]] == 1
    assert bits[node["total"]] == bits[node["total_after"]] == 2 | 4
    assert bits[node["end"]] == 2 | 4
    back = graph.spread({node["end"]: 1}, backwards=True)
    assert back[node["b"]]
    assert back[node["c"]]
    assert not back[node["a"]]
