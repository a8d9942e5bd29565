"""Defects that random programs found, each the smallest program that showed it."""

import pytest

from benchmarks.random_programs.build import build
from benchmarks.random_programs.check import capture_of, in_this_process
from benchmarks.random_programs.plan import Block, Plan
from jaxmem.assemble import read_report
from jaxmem.roles import Role
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table


def plan(name: str, *wraps: str, wide: int = 8, then: tuple[Block, ...] = (), **settings) -> Plan:
    given = {"seed": 0, "mode": "infer", "batch": 4, "width": 16, "dtype": "float32"} | settings
    return Plan(blocks=(Block(name=name, width=wide, wraps=wraps), *then), **given)


STORIES = {
    "a result that is written over a donated input was counted beside it": plan("transpose", donated=("inputs",)),
    "new parameters take the slot of a moment where the state alone is donated": plan(
        "einsum", mode="train", optimizer="adamw", donated=("state",)
    ),
    "the counter of a loop stays a constant": plan("relu", "fori"),
    "a result of several devices is divided like the batch, and a part of a sum waits for the others": plan(
        "dense", devices=2
    ),
    "what shard_map returns is traced as one device's part": plan("psum", devices=2),
    "a program may call its collectives itself": plan("all_gather", mode="train", devices=2),
    "what the branches of a conditional leave is kept for the backward pass": plan(
        "dense", "cond", mode="train", batch=8
    ),
    "a branch that hands a parameter on makes no next version of it": plan("layer_norm", "switch", mode="train"),
    "a gradient made in a branch is one array there, and another where the branches meet": plan(
        "dense", "cond", mode="train", dtype="float16", batch=8
    ),
    "a scan of one turn is no loop": plan("recurrence", mode="train", width=1),
    "what a scan stacks and the compiler widens as a whole is the same stack": plan(
        "embedding", "checkpointed_scan", mode="train", dtype="bfloat16"
    ),
    "an argument may be there in another number format alone": plan("scalar", "while", dtype="bfloat16"),
    "a result is computed in another number format than it is handed over in": plan("depthwise", dtype="float16"),
    "what is done along a dimension of one element is not done": plan("cumsum", "while", width=1),
    "a mean that the variance wants, too, is computed once": plan("batch_norm", "while"),
    "the partitioner gathers the inputs of an operation that it cannot divide": plan("top_k", devices=2),
    "a cast by the compiler goes by the name of a scope alone": plan(
        "mlp", "jit", wide=32, mode="train", width=3, dtype="bfloat16"
    ),
    "of two arrays that branches leave one is a mask": plan(
        "dense", mode="train", then=(Block(name="relu", wraps=("cond",)),)
    ),
    "a running sum of one element is computed where it is computed in 32 bits": plan(
        "cumsum", mode="train", width=1, dtype="bfloat16", then=(Block(name="cumsum", wraps=("cond",)),)
    ),
    "what is gathered of one place is a broadcast, and chosen from": plan(
        "gather", batch=8, width=1, dtype="bfloat16", then=(Block(name="dense"),)
    ),
    "a gather and its choice are two steps to one result": plan("gather", batch=3, width=4, dtype="bfloat16"),
    "a division by exp(x) is a multiplication by exp(-x)": plan("attention", "jit", "vmap", mode="train", width=1),
    "the sum of what lies side by side is added up part by part": plan("concatenate", "scan", batch=12, width=8),
    "a division begins with the reciprocal and ends in another number format": plan(
        "softmax", batch=1, width=12, dtype="bfloat16"
    ),
    "a long sum has a window before it, and an addition behind": plan("dense", wide=24, batch=1, width=37),
    "a result is copied into its place from elsewhere": plan("recurrence", wide=32, mode="gradient", batch=8, width=1),
    "a product without a name has its own in the cast behind it": plan(
        "einsum", "cond", wide=32, mode="train", width=1, dtype="float16"
    ),
    "a part is written into the memory of the result": plan(
        "zero_sized", batch=8, then=(Block(name="dynamic_update"),)
    ),
    "what several devices have in parts of one element they add up all the same": plan(
        "layer_norm", mode="train", devices=4
    ),
    "a part of what shard_map returned is no whole of it": plan(
        "psum", batch=2, width=5, devices=2, then=(Block(name="dynamic_update", width=3),)
    ),
    "a gradient that a leaf beside the sum speaks of is cast": plan(
        "conv", "cond", "fori", wide=3, mode="train", width=1, dtype="bfloat16"
    ),
    "of two arrays of one operation the one in parts has the size of the other as a whole": plan(
        "all_gather",
        wide=32,
        mode="train",
        batch=12,
        width=32,
        dtype="bfloat16",
        devices=4,
        then=(Block(name="attention", width=5),),
    ),
    "what is computed again is computed twice on several devices": plan(
        "concatenate",
        wide=16,
        mode="gradient",
        batch=8,
        width=4,
        dtype="bfloat16",
        devices=4,
        sharded_parameters=True,
        then=(Block(name="attention", width=4, wraps=("remat",)),),
    ),
    "a sum over micro-batches is divided as what it becomes": plan(
        "dense", wide=16, mode="train", batch=8, width=1, micro_batches=2, devices=4, sharded_parameters=True
    ),
    "a kernel is divided in two dimensions, rounded up in both, and gathered after the update": plan(
        "gather",
        wide=32,
        mode="train",
        devices=4,
        optimizer="by_hand",
        donated=("parameters", "state", "inputs"),
        tree="list",
        then=(
            Block(name="concatenate"),
            Block(name="constraint", width=32, wraps=("fori", "while")),
            Block(name="conv", wraps=("fori",)),
        ),
    ),
    "the compiler refuses a donation that another result would have had": plan(
        "transpose",
        mode="train",
        batch=8,
        width=4,
        devices=2,
        donated=("inputs",),
        then=(Block(name="dense", width=16), Block(name="constraint", width=4, wraps=("fori",))),
    ),
    "a product is the result of the program in another order": plan(
        "einsum",
        wide=16,
        batch=32,
        width=24,
        devices=4,
        sharded_parameters=True,
        donated=("parameters",),
        then=(Block(name="transpose"),),
    ),
    "the pieces of an array that are sent go by the name of what they are sent for": plan(
        "einsum", then=(Block(name="constraint"),), mode="train", devices=2, width=8, batch=8
    ),
    "micro-batches add up gradients that are divided like the parameters": plan(
        "mlp", mode="train", devices=2, sharded_parameters=True, micro_batches=2, batch=8
    ),
}

ON_A_GPU = {
    "a parameter that a loop reads is whole before the loop": plan(
        "layer_norm", "while", devices=2, sharded_parameters=True
    ),
    "a loss and the gradients that the caller wants are packed into one sum": plan("mlp", mode="gradient", devices=2),
    "a program for one device makes of its part the whole": plan("all_gather", "checkpointed_scan", devices=4),
    "new state that the program leaves as it likes may be whole": plan(
        "recurrence", "while", mode="gradient", devices=2, sharded_parameters=True
    ),
    "what came in pieces from the devices is gathered once more": plan(
        "cumsum", then=(Block(name="constraint"),), mode="train", devices=2
    ),
    "whether a loop goes on is decided in a byte": plan("relu", "while", mode="train", steps=2),
    "a product between borders is wanted in part, as a gradient": plan(
        "dense", "cond", mode="train", width=5, dtype="float16"
    ),
    "a call of the library takes the gradient from the kernel": plan("conv", mode="train", batch=2, width=4),
}


@pytest.mark.parametrize("story", ON_A_GPU)
def test_the_ledger_closes_on_a_gpu(story):
    with in_this_process():
        report = read_report(capture_of(ON_A_GPU[story], "h100-sxm"))
    assert report.unexplained_bytes == 0, [row for row in report.ledger if row.unexplained_bytes]
    assert not report.roles.get(Role.UNATTRIBUTED)


@pytest.mark.parametrize("story", STORIES)
def test_the_ledger_closes(story, compiled):
    report = read_report(compiled(build(STORIES[story])))
    assert report.unexplained_bytes == 0, [row for row in report.ledger if row.unexplained_bytes]
    assert sum(report.roles.values()) == report.required_bytes


def test_a_reduction_runs_its_body_on_single_numbers_and_is_no_call():
    traced = trace(build(plan("average_pool")))
    primitives = [operation.primitive for operation in layer_table(traced.closed_jaxpr, traced.arguments).operations]
    assert "reduce_window" in primitives
    assert "add" not in primitives


@pytest.mark.parametrize("wrap", ["fori", "cond", "switch"])
def test_a_loop_or_branch_over_several_devices_with_a_literal_among_its_operands_is_traced(wrap):
    traced = trace(build(plan("all_to_all", wrap, devices=2)))
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    assert any(value.divided_over == 2 for value in table.values)
