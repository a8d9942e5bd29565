"""Many programs, devices and batch sizes at once: begun here, worked on anywhere, each with an outcome of its own.

A cell is begun in this process, since the functions that make programs live here. What is left to do is a `Job`: a function
of a module and plain data, which any ``concurrent.futures.Executor`` may carry to another process or machine.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jaxmem.errors import JaxmemError

Cell = TypeVar("Cell")
Result = TypeVar("Result")

_DEFECT_EXIT_CODE = JaxmemError.exit_code
_EXECUTOR_EXIT_CODE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A cell without a result. ``exit_code`` is what a command with this cell alone would end with."""

    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Result]):
    """The part of a cell that can be done elsewhere.

    Attributes:
        function, arguments: called by the executor; both can be pickled, and neither is a user's.
        finish: turns what came back into the result, here.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    finish: Callable[[Any], Result]


def sweep(
    cells: Sequence[Cell],
    begin: Callable[[Cell], Result | Job[Result]],
    *,
    executor: Executor,
    on_outcome: Callable[[Cell, Result | Failed], None],
) -> tuple[Result | Failed, ...]:
    """Work on every cell; a failure is the outcome of its cell and stops no other.

    Args:
        cells: what is to be done, in the order in which it is begun.
        begin: gives the result of a cell, or the job that leads to it.
        executor: carries out the jobs.
        on_outcome: told of every cell as it is done, whatever the order.

    Returns:
        The outcomes in the order of the cells.

    Raises:
        KeyboardInterrupt: and whatever else ends the process: what has not begun is cancelled.
    """
    outcomes: dict[int, Result | Failed] = {}
    waiting: dict[Future[Any], tuple[int, Job[Result]]] = {}

    def settle(index: int, outcome: Result | Failed) -> None:
        outcomes[index] = outcome
        on_outcome(cells[index], outcome)

    def collect(future: Future[Any]) -> None:
        index, job = waiting.pop(future)
        came_back = _attempt(future.result, _executor_failed)
        settle(index, came_back if isinstance(came_back, Failed) else _attempt(lambda: job.finish(came_back), _defect))

    try:
        for index, cell in enumerate(cells):
            begun = _attempt(lambda cell=cell: begin(cell), _defect)
            if isinstance(begun, Job):
                submitted = _attempt(lambda job=begun: executor.submit(job.function, *job.arguments), _executor_failed)
                if isinstance(submitted, Failed):
                    settle(index, submitted)
                else:
                    waiting[submitted] = (index, begun)
            else:
                settle(index, begun)
            for future in [future for future in waiting if future.done()]:
                collect(future)
        for future in as_completed(list(waiting)):
            collect(future)
    except BaseException:
        for future in waiting:
            future.cancel()
        raise
    return tuple(outcomes[index] for index in range(len(cells)))


def _attempt(work: Callable[[], Any], otherwise: Callable[[Exception], Failed]) -> Any:
    try:
        return work()
    except JaxmemError as error:
        return Failed(reason=str(error), exit_code=error.exit_code)
    except Exception as error:
        return otherwise(error)


def _executor_failed(error: Exception) -> Failed:
    """What carries the jobs raises what it likes: a broken pool, a lost worker, a job that was cancelled."""
    return Failed(
        reason=f"The executor did not bring it back: {_spelled(error)}. Start again: what was done is kept.",
        exit_code=_EXECUTOR_EXIT_CODE,
    )


def _defect(error: Exception) -> Failed:
    return Failed(
        reason=f"An error that jaxmem did not expect: {_spelled(error)}. It is a defect: `jaxmem report` of this program "
        "shows where it comes from.",
        exit_code=_DEFECT_EXIT_CODE,
    )


def _spelled(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": .")
