"""What is asked of a measuring process, what it answers, and what a measurement consists of. Data only."""

from dataclasses import dataclass, field

from jaxmem.capture import MemoryStatistics
from jaxmem.unknown import Unknown

REQUEST, MODULE, DUMP, EXECUTABLE, ANSWER = "request.json", "module.mlirbc", "dump", "executable", "answer.json"
"""The files of a measuring process's folder. It loads the executable where there is one, else it compiles the module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """An argument to be made, of one value throughout. ``dtype`` is JAX's name of it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """What a measuring process is asked for.

    Attributes:
        platform: as in `jaxmem.devices.Device`.
        compiler_options: handed to XLA as they are.
        arguments: of the compiled program, in its own order.
        runs: run it once; otherwise compile it and leave the executable and the compiled module in the folder.
    """

    platform: str
    compiler_options: tuple[tuple[str, str], ...]
    arguments: tuple[Filled, ...]
    runs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the counters of one process said.

    Attributes:
        argument_bytes: what making the arguments took.
        step_bytes: by how much the run went above that, at its most.
        is_upper_bound: the counter stood higher before the run than the arguments explain, and the run did not pass
            that: it took ``step_bytes`` or less.
        driver_bytes: what the driver says the process holds after the run.
    """

    argument_bytes: int
    step_bytes: int
    is_upper_bound: bool
    driver_bytes: int | Unknown

    @property
    def peak_bytes(self) -> int:
        """Arguments and run together: what *required* speaks of."""
        return self.argument_bytes + self.step_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswer:
    """What a measuring process found.

    Attributes:
        statistics: of the executable, as JAX reports them.
        dump: name of the compiled module in the dump folder, where one was left.
        counted: None where it did not run to its end, or was not asked to.
        out_of_memory: the words in which the device refused; None where it did not.
    """

    statistics: MemoryStatistics
    dump: str | None = None
    counted: Counted | None = None
    out_of_memory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One program, run on the attached device.

    Attributes:
        device: what it ran on, as people call it.
        counted: unknown where the device ran out of memory; the reason has its words.
        what: the counter that was read, in a phrase.
        runs_in_pool: whether it also ran in the pool that JAX takes at the start; unknown where there is no such pool or
            nobody asked.
        statistics: of the program as compiled on the device.
        hlo_proto: the module compiled on the device, with its buffer assignment; None where it is the capture's own.
    """

    device: str
    counted: Counted | Unknown
    what: str
    runs_in_pool: bool | Unknown
    statistics: MemoryStatistics
    hlo_proto: bytes | None = field(default=None, repr=False)
