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
}


@pytest.mark.parametrize("story", STORIES)
def test_the_ledger_closes(story, compiled):
    report = read_report(compiled(build(STORIES[story])))
    assert report.unexplained_bytes == 0, [row for row in report.ledger if row.unexplained_bytes]
    assert sum(report.roles.values()) == report.required_bytes


@pytest.mark.parametrize("wrap", ["fori", "cond", "switch"])
def test_a_loop_or_branch_over_several_devices_with_a_literal_among_its_operands_is_traced(wrap):
    traced = trace(build(plan("all_to_all", wrap, devices=2)))
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    assert any(value.divided_over == 2 for value in table.values)
