"""Defects that random programs found, each the smallest program that showed it."""

import pytest

from benchmarks.random_programs.build import build
from benchmarks.random_programs.plan import Block, Plan
from jaxmem.assemble import read_report
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table


def plan(name: str, *wraps: str, **settings) -> Plan:
    given = {"seed": 0, "mode": "infer", "batch": 4, "width": 16, "dtype": "float32"} | settings
    return Plan(blocks=(Block(name=name, wraps=wraps),), **given)


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
}


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
