"""Sweeps: every cell has its outcome, whatever happens to the others."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmem.errors import EnvironmentFailure, InputError
from jaxmem.planner import Failed, Job, sweep

KINDS = ("known", "job", "input", "defect", "job fails", "job is lost", "finish fails")


class Lazy(Executor):
    """Does its work when somebody asks for the result of something, the last job first."""

    def __init__(self, refuse_after: int = 1000) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.refuse_after = refuse_after

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if len(self.jobs) >= self.refuse_after:
            raise BrokenProcessPool("a child process terminated abruptly")
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        if len(self.jobs) % 3 == 0:
            self.work()
        return future

    def work(self) -> None:
        for future, job in reversed(self.jobs):
            if future.done():
                continue
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)


def compile_text(kind: str, number: int) -> str:
    if kind == "job fails":
        raise EnvironmentFailure("the compiler was killed")
    if kind == "job is lost":
        raise RuntimeError("worker lost")
    return f"compiled {number}"


def begin(cell: tuple[int, str]) -> Any:
    number, kind = cell
    match kind:
        case "known":
            return f"known {number}"
        case "input":
            raise InputError("no such module")
        case "defect":
            raise ZeroDivisionError("oh")

    def finish(text: str) -> str:
        if kind == "finish fails":
            raise InputError("damaged")
        return f"read {text}"

    return Job(function=compile_text, arguments=(kind, number), finish=finish)


def expected(number: int, kind: str) -> Any:
    reasons = {
        "input": ("no such module", 3),
        "defect": ("ZeroDivisionError: oh", 4),
        "job fails": ("the compiler was killed", 5),
        "job is lost": ("RuntimeError: worker lost", 5),
        "finish fails": ("damaged", 3),
    }
    return reasons.get(kind, f"known {number}" if kind == "known" else f"read compiled {number}")


@given(st.lists(st.sampled_from(KINDS), max_size=12))
def test_every_cell_has_its_own_outcome(kinds: list[str]) -> None:
    cells = list(enumerate(kinds))
    told: dict[tuple[int, str], Any] = {}
    with ThreadPoolExecutor(2) as executor:
        outcomes = sweep(cells, begin, executor=executor, on_outcome=told.__setitem__)
    assert len(outcomes) == len(cells)
    assert [told[cell] for cell in cells] == list(outcomes)
    for cell, outcome in zip(cells, outcomes, strict=True):
        wanted = expected(*cell)
        if isinstance(outcome, Failed):
            assert wanted[0] in outcome.reason
            assert outcome.exit_code == wanted[1]
        else:
            assert outcome == wanted


def test_what_is_done_is_told_before_the_rest_has_begun() -> None:
    order: list[str] = []

    def begin_and_say(cell: tuple[int, str]) -> Any:
        order.append(f"begin {cell[0]}")
        return begin(cell)

    executor = Lazy()
    cells = [(number, "job") for number in range(6)]
    sweep(cells, begin_and_say, executor=executor, on_outcome=lambda cell, outcome: order.append(f"done {cell[0]}"))
    assert order == [
        *("begin 0", "begin 1", "begin 2", "done 0", "done 1", "done 2"),
        *("begin 3", "begin 4", "begin 5", "done 3", "done 4", "done 5"),
    ]


def test_a_broken_executor_fails_the_rest_and_keeps_what_was_done() -> None:
    cells = [(number, "job") for number in range(5)]
    outcomes = sweep(cells, begin, executor=Lazy(refuse_after=3), on_outcome=lambda cell, outcome: None)
    assert outcomes[:3] == ("read compiled 0", "read compiled 1", "read compiled 2")
    for outcome in outcomes[3:]:
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("The executor did not bring it back: BrokenProcessPool")


def test_an_interruption_cancels_what_has_not_begun() -> None:
    executor = Lazy()

    def interrupted(cell: tuple[int, str]) -> Any:
        if cell[0] == 2:
            raise KeyboardInterrupt
        return begin(cell)

    with pytest.raises(KeyboardInterrupt):
        sweep(
            [(number, "job") for number in range(4)],
            interrupted,
            executor=executor,
            on_outcome=lambda cell, outcome: None,
        )
    assert [future.cancelled() for future, _ in executor.jobs] == [True, True]
