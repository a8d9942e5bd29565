"""Live ranges and segments on modules of a few lines; every number follows from the schedule as written."""

from dataclasses import replace

import pytest

from jaxmem.profile import flatten_schedule, profile_memory


def by_name(profile):
    return {(profile.module.instructions[buffer.leaf[0]].name, buffer.leaf[1]): buffer for buffer in profile.buffers}


def test_a_buffer_lives_from_its_instruction_to_its_last_reader(step):
    profile = profile_memory(step.hlo.module(), step.assignment(), platform="cpu")
    place = {profile.module.instructions[identifier].name: n for n, identifier in enumerate(profile.schedule)}
    live = {name: (buffer.start, buffer.end) for name, buffer in by_name(profile).items()}
    assert live["product", ()] == (place["product"], place["index_map"])
    assert live["tanh", ()] == (place["tanh"], place["call"])
    # Read through the tuple: the last to read the cotangent is `later`.
    assert live["call", (0,)] == (place["call"], place["later"])
    assert live["root_of_m", ()] == (place["root_of_m"], place["w_new"])


def test_a_donated_slot_has_two_tenants_and_a_held_one_is_held_throughout(step):
    profile = profile_memory(step.hlo.module(), step.assignment(), platform="cpu")
    place = {profile.module.instructions[identifier].name: n for n, identifier in enumerate(profile.schedule)}
    found = by_name(profile)
    assert found["w", ()].end == place["w_new"] == found["w_new", ()].start
    assert found["w_new", ()].end == len(profile.schedule) - 1
    assert (found["x", ()].start, found["x", ()].end) == (0, len(profile.schedule) - 1)


def test_the_peak_is_where_the_trace_last_rose_to_it(step):
    profile = profile_memory(step.hlo.module(), step.assignment(), platform="cpu")
    assert profile.module.instructions[profile.schedule[profile.peak_position]].name == "g_w"
    live = {name for (name, _), buffer in by_name(profile).items() if buffer.id in profile.live_at_peak}
    assert {"zeros", "w_copy", "product", "tanh", "index_map", "call", "g_w", "w", "m", "b", "x"} <= live
    assert not {"later", "g_b_pair", "root_of_m", "w_new", "m_new", "b_new"} & live


def test_segments_cover_every_byte_of_every_allocation_once(step):
    profile = profile_memory(step.hlo.module(), step.assignment(), platform="cpu")
    for allocation in profile.allocations:
        end = 0
        for segment in (each for each in profile.segments if each.allocation == allocation.index):
            assert segment.offset == end
            end += segment.size_bytes
        assert end == allocation.size
    assert profile.reserved_bytes == sum(allocation.size for allocation in profile.allocations)
    assert profile.damage == ()


def test_of_two_live_buffers_in_one_place_the_later_holds_it(hlo, memory):
    """An in-place update: both begin at offset 0; the second takes the first half of the first."""
    hlo.parameter("x", 0, hlo.f32(4))
    hlo.add("whole", "sine", hlo.f32(4), "x")
    hlo.add("half", "slice", hlo.f32(2), "whole")
    hlo.add("end", "concatenate", hlo.f32(6), "whole", "half")
    places = memory(hlo)
    places.allocate(16, ("x", 0, 16), is_entry_computation_parameter=True)
    places.allocate(16, ("whole", 0, 16), ("half", 0, 8))
    places.allocate(24, ("end", 0, 24), maybe_live_out=True)
    profile = profile_memory(hlo.module(), places.assignment(("whole", ()), ("half", ())), platform="cpu")
    held = [(segment.offset, segment.size_bytes, segment.buffer_id) for segment in profile.segments][1:3]
    assert held == [(0, 8, places.ids["half", ()]), (8, 8, places.ids["whole", ()])]


def test_the_body_of_a_loop_runs_before_it_and_what_it_carries_lives_through_it(hlo, memory):
    shape = hlo.f32(4)
    state = hlo.tuple_of(shape)
    hlo.parameter("state", 0, state, computation=2)
    hlo.get("value", "state", 0, shape, computation=2)
    hlo.add("next", "sine", shape, "value", computation=2)
    hlo.add("body_root", "tuple", state, "next", computation=2)
    hlo.parameter("condition_state", 0, state, computation=3)
    hlo.add("condition", "constant", hlo.f32(), computation=3)
    hlo.parameter("x", 0, shape)
    hlo.add("first", "cosine", shape, "x")
    hlo.add("beside", "tan", shape, "x")
    hlo.add("initial", "tuple", state, "first")
    hlo.add("loop", "while", state, "initial", calls=(2, 3))
    hlo.get("after", "loop", 0, shape)
    hlo.add("end", "add", shape, "after", "beside")
    module = hlo.module()
    order = [module.instructions[identifier].name for identifier in flatten_schedule(module)]
    assert order.index("next") < order.index("loop") < order.index("end")
    assert order.index("initial") < order.index("state")

    places = memory(hlo)
    places.allocate(16, ("x", 0, 16), is_entry_computation_parameter=True)
    places.allocate(48, ("first", 0, 16), ("beside", 16, 16), ("next", 32, 16))
    places.allocate(16, ("end", 0, 16), maybe_live_out=True)
    found = by_name(profile_memory(module, places.assignment(), platform="cpu"))
    assert found["beside", ()].end == order.index("end")
    # The value of one turn is read by the body, and what it leaves is there until the body ends at least.
    assert found["first", ()].end >= order.index("next")
    assert found["next", ()].end >= order.index("body_root")


@pytest.mark.parametrize("name", ["tanh", "call", "w", "root"])
def test_a_value_without_memory_is_damage(step, name):
    assignment = step.assignment()
    identifier = step.memory.ids[name, ()]
    allocations = tuple(
        replace(each, assigned=tuple(place for place in each.assigned if place.buffer_id != identifier))
        for each in assignment.allocations
    )
    profile = profile_memory(step.hlo.module(), replace(assignment, allocations=allocations, traces=()), platform="cpu")
    (damage,) = profile.damage
    assert damage.leaf == (step.hlo.id(name), ())
    assert damage.size_bytes == assignment.buffers[identifier].size


@pytest.mark.parametrize("change", [-16, 16])
def test_a_buffer_of_another_size_than_its_value_is_damage(step, change):
    assignment = step.assignment()
    identifier = step.memory.ids["tanh", ()]
    logical = assignment.buffers[identifier]
    allocations = tuple(
        replace(
            each,
            assigned=tuple(
                place._replace(size=place.size + change) if place.buffer_id == identifier else place
                for place in each.assigned
            ),
        )
        for each in assignment.allocations
    )
    for buffers in (
        assignment.buffers,
        {**assignment.buffers, identifier: logical._replace(size=logical.size + change)},
    ):
        broken = replace(assignment, allocations=allocations, buffers=buffers)
        (damage,) = profile_memory(step.hlo.module(), broken, platform="cpu").damage
        assert (damage.leaf, damage.size_bytes) == ((step.hlo.id("tanh"), ()), 16)
