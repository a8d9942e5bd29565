"""What lives on a device at once over a whole training run."""

from dataclasses import dataclass
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result.facts import DeviceFacts, Verdict
from jaxmem.result.out_of_memory import NamedSize
from jaxmem.result.shown import Shown

TOGETHER_SCHEMA = "jaxmem.together/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One program of the run, while it is at work.

    Attributes:
        name: ``init``, ``train`` or ``evaluate``.
        program_bytes: what the program requires, arguments and results included; ``is_lower_bound`` as in a `Report`.
        beside: what lives on the device meanwhile and is no argument of the program.
        required_bytes: both together.
    """

    name: str
    program: ProgramFacts
    program_bytes: int
    is_lower_bound: bool
    beside: tuple[NamedSize, ...]
    required_bytes: int

    def __post_init__(self) -> None:
        total = self.program_bytes + sum(part.bytes for part in self.beside)
        if total != self.required_bytes:
            raise InvariantError(f"the parts of {self.name} add up to {total} B, not to {self.required_bytes} B.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Together(Shown):
    """The most that a training run needs at any moment. Sizes are for one device.

    Attributes:
        state_bytes: parameters, optimizer and other state, each array once.
        moments: one for each program, in the order of the run.
        required_bytes: that of the moment that needs most, ``largest``.
        verdict: does every moment fit?

    Raises:
        InvariantError: no moment needs what is said to be the most.
    """

    schema: Literal["jaxmem.together/1"] = TOGETHER_SCHEMA
    device: DeviceFacts
    state_bytes: int
    moments: tuple[Moment, ...]
    largest: str
    required_bytes: int
    verdict: Verdict

    def __post_init__(self) -> None:
        most = max(self.moments, key=lambda moment: moment.required_bytes)
        if (most.name, most.required_bytes) != (self.largest, self.required_bytes):
            raise InvariantError(f"the most is {most.required_bytes} B in {most.name}, not {self.required_bytes} B.")
