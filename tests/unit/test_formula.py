"""The formula on tables of a few operations, and what is written down about optimizers and textbooks."""

from dataclasses import replace

import pytest
from layer_tables import Table

from jaxmem.formula import derive_formula
from jaxmem.formula.equal import moved
from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.formula.optimizers import RULES, state_bytes
from jaxmem.formula.pools import with_borders
from jaxmem.formula.textbook import textbook_formulas
from jaxmem.layer_table import Operation, Value
from jaxmem.lowering import Argument, Output, ProgramFacts
from jaxmem.roles import OPTIMIZER_ROLES, Phase, Role

FORWARD, BACKWARD, UPDATE = Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE


def two_layers():
    """h = max(x·w1, 0), loss = sum(exp(h·w2)); the gradients of both weights, each followed at the very end by its update."""
    table = Table()
    for name, shape in {"w1": (4, 6), "w2": (6, 2), "x": (8, 4)}.items():
        table.argument(name, *shape)
    table.do("p1", "dot_general", FORWARD, (8, 6), "x", "w1", layer="first")
    table.do("h", "max", FORWARD, (8, 6), "p1", layer="first")
    table.do("mask", "gt", FORWARD, (8, 6), "p1", layer="first", dtype="bool")
    table.do("p2", "dot_general", FORWARD, (8, 2), "h", "w2", layer="second")
    table.do("loss", "reduce_sum", FORWARD, (), "p2", layer="second")
    table.do("from_loss", "exp", BACKWARD, (8, 2), "p2", layer="second")
    table.do("g2", "dot_general", BACKWARD, (6, 2), "h", "from_loss", layer="second")
    table.do("back", "dot_general", BACKWARD, (8, 6), "from_loss", "w2", layer="second")
    table.do("gated", "select_n", BACKWARD, (8, 6), "mask", "back", layer="first")
    table.do("g1", "dot_general", BACKWARD, (4, 6), "x", "gated", layer="first")
    table.do("new1", "sub", UPDATE, (4, 6), "w1", "g1", layer="first")
    table.do("new2", "sub", UPDATE, (6, 2), "w2", "g2", layer="second")
    return table


def arguments(*, donated=True):
    def argument(number, name, shape, role):
        trained = role is Role.PARAMETERS
        return Argument(
            path=name, shape=shape, dtype="float32", itemsize_bits=32, role=role, role_rule="by hand",
            layer={"w1": "first", "w2": "second"}.get(name, ""), parameter_path=name if trained else "",
            donated=donated and trained, parameter_number=number,
        )  # fmt: skip

    return (
        argument(0, "w1", (4, 6), Role.PARAMETERS),
        argument(1, "w2", (6, 2), Role.PARAMETERS),
        argument(2, "x", (8, 4), Role.INPUTS),
    )


def outputs():
    def output(path, shape, role, index):
        return Output(
            path=path, shape=shape, dtype="float32", itemsize_bits=32, role=role,
            parameter_path={0: "w1", 1: "w2"}.get(index, ""), argument_index=index,
        )  # fmt: skip

    return (
        output("result[0]", (4, 6), Role.PARAMETERS, 0),
        output("result[1]", (6, 2), Role.PARAMETERS, 1),
        output("result[2]", (), Role.OUTPUTS, None),
    )


def derived(**keywords):
    table = two_layers().table("new1", "new2", "loss")
    program = ProgramFacts(name="two layers", batch_size=8)
    return derive_formula(table, arguments(**keywords), outputs(), program, platform="cuda")


def test_an_update_runs_as_soon_as_its_gradient_exists():
    table = two_layers()
    ranges = find_live_ranges(table.table("new1", "new2", "loss"), platform="cuda")
    for gradient, new in (("g1", "new1"), ("g2", "new2")):
        assert ranges.end[table.names[gradient]] == ranges.start[table.names[new]]
        assert ranges.start[table.names[new]] == ranges.start[table.names[gradient]] + 1


def test_what_exists_and_until_when():
    table = two_layers()
    ranges = find_live_ranges(table.table("new1", "new2", "loss"), platform="cuda")
    of = table.names
    # The backward pass reads h, the mask and p2; neither the product before the ReLU nor anything after is kept.
    assert {name for name, value in of.items() if ranges.residual[value]} == {"h", "mask", "p2"}
    assert ranges.end[of["h"]] == ranges.start[of["g2"]]
    # The mask is computed again from p1 where `gated` is computed, which is written over the gradient that it masks.
    assert not ranges.exists[of["mask"]]
    assert ranges.end[of["p1"]] == ranges.start[of["gated"]]
    assert ranges.end[of["back"]] + 1 == ranges.start[of["gated"]]
    # A difference is written over its argument and has no place of its own.
    assert not ranges.exists[of["new1"]]


def test_what_depends_on_no_argument_is_no_array():
    table = Table()
    table.argument("w", 6, 2)
    table.do("one", "broadcast_in_dim", FORWARD, (8, 6))
    table.do("product", "dot_general", FORWARD, (8, 2), "one", "w")
    ranges = find_live_ranges(table.table("product"), platform="cuda")
    assert ranges.constant[table.names["one"]]
    assert not ranges.exists[table.names["one"]]


def test_a_reshape_is_the_array_it_reshapes():
    table = Table()
    table.argument("x", 8, 4)
    table.argument("w", 32, 2)
    table.do("sine", "sin", FORWARD, (8, 4), "x")
    table.do("flat", "reshape", FORWARD, (1, 32), "sine")
    table.do("product", "dot_general", FORWARD, (1, 2), "flat", "w")
    ranges = find_live_ranges(table.table("product"), platform="cuda")
    assert ranges.origin[table.names["flat"]] == table.names["sine"]
    assert ranges.exists[table.names["sine"]]
    assert not ranges.exists[table.names["flat"]]


def test_the_sum_by_hand():
    """The peak is at g2: p1 waits for the mask, h and the gradient of the loss are read, g2 is written.

    The update of w2, which is donated, comes next, and the way back to the first layer reads the old w2 after it: a copy.
    """
    formula = derived()
    w = 4 * (4 * 6 + 6 * 2)
    state, inputs, results = w, 4 * 8 * 4, 4 + 3 * 8
    kept = {leaf.name: leaf.counted for leaf in formula.leaves if leaf.keeps}
    live = sum(leaf.bytes for leaf in formula.leaves if leaf.counted and leaf.primitive)
    assert kept == {"feature map (max)": True, "mask (gt)": False, "feature map (dot_general)": False}
    assert {leaf.name: leaf.bytes for leaf in formula.leaves if leaf.of_backend and leaf.counted} == {
        "copy of an argument": 4 * (6 * 2)
    }
    assert formula.bytes == state + inputs + results + live + 4 * (6 * 2)
    assert live == 4 * (8 * 6) + 4 * (8 * 6) + 4 * (8 * 2) + 4 * (6 * 2)


def test_without_donation_the_new_state_stands_beside_the_old():
    """Until it is written, its memory is lent: at the peak the gradient of the loss lies where the new w1 will.

    Nothing is written over the old w2 then, which needs no copy.
    """
    w = 4 * (4 * 6 + 6 * 2)
    assert derived(donated=False).bytes == derived().bytes - 4 * (6 * 2) + w - 4 * (8 * 2)


def test_gradients_are_named_after_their_parameter():
    found = {leaf.path: (leaf.layer, leaf.bytes) for leaf in derived().leaves if leaf.role is Role.GRADIENTS}
    assert set(found) == {"w1", "w2"}
    assert (found["w1"][1], found["w2"][1]) == (4 * 24, 4 * 12)


def test_an_argument_that_nothing_reads_is_not_counted():
    table = two_layers()
    table.argument("unused", 1000)
    extra = Argument(
        path="unused", shape=(1000,), dtype="float32", itemsize_bits=32, role=Role.INPUTS, role_rule="by hand"
    )
    formula = derive_formula(
        table.table("new1", "new2", "loss"),
        (*arguments(), extra),
        outputs(),
        ProgramFacts(name="two layers", batch_size=8),
        platform="cuda",
    )
    assert formula.bytes == derived().bytes
    (leaf,) = (leaf for leaf in formula.leaves if leaf.path == "unused")
    assert not leaf.counted


@pytest.mark.parametrize(
    ("optimizer", "copies", "constant"),
    [
        ("sgd", 0, 0),
        ("momentum", 1, 0),
        ("rmsprop", 1, 0),
        ("adagrad", 1, 0),
        ("adam", 2, 4),
        ("adamw", 2, 4),
        ("lamb", 2, 4),
        ("nadam", 2, 4),
        ("amsgrad", 3, 4),
        ("lion", 1, 4),
    ],
)
def test_what_each_optimizer_keeps(optimizer, copies, constant):
    w = 553_430_176
    assert state_bytes(optimizer, w) == copies * w + constant
    parts = [RULES[optimizer].state_bytes(role, w) for role in sorted(OPTIMIZER_ROLES)]
    assert sum(parts) == copies * w + constant


def test_every_written_optimizer_is_tested():
    assert set(RULES) == {
        "sgd", "momentum", "rmsprop", "adagrad", "adam", "adamw", "lamb", "nadam", "amsgrad", "lion",
    }  # fmt: skip


def test_both_textbook_answers_by_hand():
    """w = 36 numbers, layers 4 → 6 → 2 on eight examples: F = 6 and 2 numbers, their inputs 4 and 6."""
    table = two_layers().table("new1", "new2", "loss")
    trained = {row.name: row.bytes for row in textbook_formulas(table, arguments(), batch_size=8, training=True)}
    assert trained == {
        "textbook: 4w + B·ΣF": 4 * (4 * 36 + 8 * (6 + 2)),
        "textbook: B·(w + ΣF)": 8 * 4 * (36 + 4 + 6),
    }
    inferred = {row.name: row.bytes for row in textbook_formulas(table, arguments(), batch_size=8, training=False)}
    assert inferred["textbook: w + max(F_l + F_l+1)"] == 4 * (36 + 8 * (6 + 2))


def test_without_a_batch_size_there_is_no_textbook_answer():
    table = two_layers().table("new1", "new2", "loss")
    assert textbook_formulas(table, arguments(), batch_size=None, training=True) == ()


def test_a_pool_with_a_border_in_front_scatters_into_the_map_with_its_borders():
    """A border behind alone changes nothing: no window begins in it."""
    shape = (2, 12, 12, 3)
    assert with_borders(shape, (0, 0, 1, 1, 1, 1, 0, 0)) == (2, 14, 14, 3)
    assert with_borders(shape, (0, 0, 0, 1, 0, 1, 0, 0)) == shape
    assert with_borders(shape, ()) == shape


def test_a_border_of_nothing_is_the_array_and_any_other_is_not():
    def pad(*config):
        return Operation(
            primitive="pad",
            scope="",
            layer="",
            phase=Phase.FORWARD,
            operands=(0,),
            results=(1,),
            sizes=(("padding_config", config),),
        )

    assert moved(pad(0, 0, 0)) == ((1, 0),)
    assert moved(pad(0, 1, 0)) == moved(pad(-1, 0, 0)) == ()
    assert moved(replace(pad(), sizes=())) == ()


@pytest.mark.parametrize(
    ("primitive", "sizes", "before", "after", "is_the_array"),
    [
        ("reduce_sum", (), (4, 1), (4,), True),
        ("reduce_sum", (), (4, 2), (4,), False),
        ("slice", (), (4, 2), (4, 2), True),
        ("slice", (), (4, 2), (3, 2), False),
        ("cumsum", (("axis", (1,)),), (4, 1), (4, 1), True),
        ("cumsum", (("axis", (0,)),), (4, 1), (4, 1), False),
        ("sort", (("dimension", (1,)),), (4, 1), (4, 1), True),
        ("argmax", (("axes", (1,)),), (4, 1), (4,), False),
    ],
)
def test_what_is_done_along_one_element_is_the_array(primitive, sizes, before, after, is_the_array):
    operation = Operation(
        primitive=primitive, scope="", layer="", phase=Phase.FORWARD, operands=(0,), results=(1,), sizes=sizes
    )  # fmt: skip
    values = [Value(shape=shape, dtype="float32", itemsize_bits=32) for shape in (before, after)]
    assert moved(operation, values) == (((1, 0),) if is_the_array else ())


def test_what_is_written_over_the_whole_takes_its_place_and_what_a_loop_stacks_does_not():
    def written(rows, **changes):
        operation = Operation(
            primitive="dynamic_update_slice",
            scope="",
            layer="",
            phase=Phase.FORWARD,
            operands=(0, 1, 2),
            results=(3,),
        )
        values = [Value(shape=shape, dtype="float32", itemsize_bits=32) for shape in ((4, 2), (rows, 2), (), (4, 2))]
        return moved(replace(operation, **changes), values)

    assert written(4) == ((3, 1),)
    assert written(3) == written(4, hands_on=1) == ()
    assert written(4, operands=(0,)) == written(4, operands=()) == written(4, results=()) == ()
