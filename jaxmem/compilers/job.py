"""What crosses between jaxmem and its worker: a folder with these files, and lines on the worker's standard output.

    request.json    a `Request`
    module.mlirbc   the module to compile, MLIR bytecode
    dump/           where XLA writes
    answer.json     an `Answer`; not there if the worker did not come to its end

The worker prints the name of each `Step` as it begins. Its standard input stays open and silent: when it closes,
whoever wanted the answer is gone, and the worker ends and takes the folder with it.
"""

from dataclasses import dataclass
from enum import StrEnum

from jaxmem.capture.data import Cost, MemoryStatistics
from jaxmem.devices import CudaTarget, Topology

REQUEST, MODULE, DUMP, ANSWER = "request.json", "module.mlirbc", "dump", "answer.json"

NUMERIC_OPTIONS = {
    "optimization_level": int,
    "memory_fitting_level": int,
    "exec_time_optimization_effort": float,
    "memory_fitting_effort": float,
}
"""Options that JAX sets itself (``jax/_src/compiler.py``) and wants as numbers; XLA reads all others as text."""


class Step(StrEnum):
    """What a worker is doing, in the order it does it; the value is what it prints."""

    START = "jaxmem-worker: start"
    COMPILE = "jaxmem-worker: compile"
    RUN = "jaxmem-worker: run"
    COLLECT = "jaxmem-worker: collect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the worker is asked for.

    Attributes:
        platform: ``cpu``, ``cuda`` or ``tpu``.
        device_count: devices the program is partitioned over.
        target: of a device that need not be there: the description of a card, or the chips of a TPU; None for the
            processor.
        compiler_options: handed to XLA as they are.
    """

    platform: str
    device_count: int
    target: CudaTarget | Topology | None
    compiler_options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the worker found.

    Attributes:
        statistics, cost: of the executable; all unknown after a failure.
        dump: name of the file in the dump folder that holds the module with its buffer assignment; None without one.
        compile_seconds: inside the compiler alone.
        failure: the compiler's words where it refused the program.
    """

    statistics: MemoryStatistics
    cost: Cost
    dump: str | None
    compile_seconds: float
    failure: str | None
