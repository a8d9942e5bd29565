"""The plan that a machine with an accelerator carries out, carried out here on a pretended one."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks.accuracy.programs import Question
from benchmarks.measure.attached import Backend, carry_out, largest_workspace
from benchmarks.measure.page import NOT_MEASURED, page, readme_table
from benchmarks.measure.programs import attached_plan, plan_text
from benchmarks.measure.rows import Results
from benchmarks.records import this_setting
from jaxmem.capture import Capture, load
from jaxmem.measure import Counted, Measurement
from jaxmem.unknown import Unknown

GOLDEN = Path(__file__).parents[1] / "golden"
CARD = "NVIDIA H100 80GB HBM3"


@dataclass(slots=True)
class Card:
    """Every program is the same golden one; by its compile it fits up to one batch, in truth it runs up to another.

    Each measurement takes ten seconds.
    """

    fits_to: int = 320
    runs_to: int = 256
    seconds: float = 0.0
    asked: list[Question] = field(default_factory=list)
    pools: list[bool] = field(default_factory=list)

    def compile(self, question: Question) -> Capture:
        self.asked.append(question)
        golden = load(GOLDEN / "pools.h100-sxm.jaxmem")
        usable = 2**34 if question.batch_size <= self.fits_to else 1000
        return replace(
            golden,
            device=replace(golden.device, usable_bytes=usable),
            program=replace(golden.program, batch_size=question.batch_size),
        )

    def measure(self, capture: Capture, pool: bool) -> Measurement:
        self.seconds += 10
        self.pools.append(pool)
        runs = (capture.program.batch_size or 0) <= self.runs_to
        counted = Counted(argument_bytes=1_000_000, step_bytes=4_000_000, is_upper_bound=False, driver_bytes=9_000_000)
        return Measurement(
            device=CARD,
            counted=counted if runs else Unknown("out of memory"),
            what="the counter",
            runs_in_pool=runs,
            statistics=capture.statistics,
            hlo_proto=capture.hlo_proto,
        )

    def backend(self) -> Backend:
        return Backend(capture=self.compile, measure=self.measure, clock=lambda: self.seconds)


def forget(results: Results) -> None:
    """Nothing is written."""


def test_a_plan_stops_when_its_time_is_over_and_goes_on_later() -> None:
    card, kept = Card(), []
    plan = tuple(step for step in attached_plan("attached", ("vgg16", "alexnet", "gpt2")) if step.question is not None)
    empty = Results(setting=this_setting(), device=CARD)
    # Steps of 28 seconds are begun while 28 are left: at 0, 10, 20 and 30 of a minute.
    first = carry_out(plan, empty, card.backend(), minutes=1, keep=kept.append)
    assert len(first.rows) == len(kept) == 4
    assert {row.question for row in first.rows} == {step.question for step in plan[:4]}
    second = carry_out(plan, first, card.backend(), minutes=60, keep=kept.append)
    assert {row.question for row in second.rows} == {step.question for step in plan}
    assert len(kept) == len(plan)


def test_a_row_holds_prediction_and_measurement() -> None:
    card = Card()
    plan = attached_plan("attached", ("vgg16",))[:1]
    results = carry_out(plan, Results(setting=this_setting(), device=CARD), card.backend(), minutes=1, keep=forget)
    (row,) = results.rows
    assert (row.measured_bytes, row.growth_bytes, row.driver_bytes) == (5_000_000, 4_000_000, 9_000_000)
    assert row.on_device_bytes == row.statistics_bytes
    text = page([results])
    assert CARD in text
    assert f"## CPU\n\n{NOT_MEASURED}" in text
    assert "That is the range to expect of *hidden* here." in text


def test_a_program_that_does_not_run_is_a_row_too() -> None:
    plan = attached_plan("attached", ("vgg16",))[:1]
    results = carry_out(
        plan, Results(setting=this_setting(), device=CARD), Card(runs_to=0).backend(), minutes=1, keep=forget
    )
    assert results.rows[0].out_of_memory == "out of memory"
    assert "| out of memory |" in page([results])


def test_the_largest_batch_is_found_by_running() -> None:
    card = Card()
    plan = tuple(step for step in attached_plan("attached") if step.question is None)
    results = carry_out(plan, Results(setting=this_setting(), device=CARD), card.backend(), minutes=5, keep=forget)
    ended = results.boundary
    assert ended is not None
    assert all(card.pools)  # the pool decides
    assert {question.device for question in card.asked} == {"attached"}
    assert (ended.predicted.largest_batch, ended.predicted.next_batch) == (320, 352)
    assert (ended.found.largest_batch, ended.found.next_batch) == (256, 288)
    assert ended.found.proof[0].batch_size == 320  # the runs begin where the compiles ended
    assert "predicted 320, found 256 by running it in JAX's pool. Tried: 320 (out of memory)" in page([results])


def test_without_an_accelerator_the_tables_say_so() -> None:
    assert page([]).count(NOT_MEASURED) == 2
    assert NOT_MEASURED == "not measured yet"
    assert NOT_MEASURED in readme_table([Results(setting=this_setting(), device="cpu")])


def test_the_plan_is_printed_with_its_budget() -> None:
    text = plan_text(attached_plan("attached"), 10)
    assert "the largest batch of resnet50, train" in text
    assert text.splitlines()[-1].endswith("goes on where this one stopped.")
    before, _, _ = text.partition("\n- ")
    assert before.count("batch 32") >= 12  # at least six networks, training and inference, within ten minutes


@pytest.mark.parametrize(("target", "size"), [("__cudnn$convForward", 4096), ("__cublas$gemm", 4096), ("my_kernel", 0)])
def test_the_workspace_of_a_library_call(hlo, target: str, size: int) -> None:
    made = hlo.tuple_of(hlo.f32(8, 8), type(hlo.f32(1))(element_type="u8", dimensions=(4096,)))
    hlo.add("p", "parameter", hlo.f32(8, 8))
    hlo.add("conv", "custom-call", made, "p", custom_call_target=target)
    assert largest_workspace(hlo.module()) == size
