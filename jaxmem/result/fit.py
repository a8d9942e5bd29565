"""The answer of ``jaxmem fit``: the boundary batch with its proof, what each change really gives, what donation does."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result.facts import DeviceFacts
from jaxmem.result.shown import Shown
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

FIT_SCHEMA = "jaxmem.fit/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One batch size that was compiled.

    Attributes:
        required_bytes: as in a report, of one device.
        judged_bytes: what the verdict held against the budget (see `Verdict`).
        from_cache: it had been compiled before.
    """

    batch_size: int
    required_bytes: int
    judged_bytes: int
    fits: bool
    from_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Between which batch sizes a program stops fitting. Both sides are compiled, never extrapolated.

    Attributes:
        largest_batch: fits; None where even the smallest admissible batch does not.
        next_batch: the next admissible one, which does not fit; None where none was found up to ``searched_to``.
        multiple_of: a batch is admissible if it is a multiple of this.
        searched_to: the largest batch that was asked about.
        compiles: how many different programs the search needed; those that the cache had already count too.
        monotone: among the batches probed, a larger one never needs less, nor fits where a smaller one does not.
        proof: every batch probed, in the order of the search.
        answer: all this in a sentence.

    Raises:
        InvariantError: a side of the boundary is not proven.
    """

    largest_batch: int | None
    next_batch: int | None
    multiple_of: int
    searched_to: int
    compiles: int
    monotone: bool
    proof: tuple[Probe, ...]
    answer: str

    def __post_init__(self) -> None:
        fits = {probe.batch_size: probe.fits for probe in self.proof}
        if self.compiles != len(fits) or len(fits) != len(self.proof):
            raise InvariantError(f"{self.compiles} compiles are counted, and {len(self.proof)} batches were probed.")
        if self.largest_batch is not None and fits.get(self.largest_batch) is not True:
            raise InvariantError(
                f"batch {self.largest_batch} is called the largest, and no compile shows that it fits."
            )
        if self.next_batch is not None and fits.get(self.next_batch) is not False:
            raise InvariantError(f"batch {self.next_batch} is said not to fit, and no compile shows that.")
        if self.next_batch is not None and self.next_batch - (self.largest_batch or 0) != self.multiple_of:
            raise InvariantError(f"between the batches {self.largest_batch} and {self.next_batch} lie others.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One change to the program, compiled beside the program without it. Sizes are of one device.

    Attributes:
        change: what was changed.
        how: how to have it: an option of the command line, or what to write and where.
        before_bytes, after_bytes: required without and with the change; unknown where the changed program did not compile.
        saved_bytes: before minus after, negative where it needs more.
        extra_flops: multiplications and additions of the matrix products and convolutions with the change minus those
            without, per step on all devices together; unknown where a loop does not say how often it runs.
        helps: it saves memory.
        fits: the changed program fits.
        note: what a reader must know besides.
    """

    change: str
    how: str
    before_bytes: int
    after_bytes: int | Unknown
    saved_bytes: int | Unknown
    extra_flops: int | Unknown
    helps: bool
    fits: bool
    note: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.after_bytes, Unknown):
            consistent = isinstance(self.saved_bytes, Unknown) and not self.helps and not self.fits
        else:
            consistent = self.saved_bytes == self.before_bytes - self.after_bytes and self.helps == (
                self.before_bytes > self.after_bytes
            )
        if not consistent:
            raise InvariantError(
                f"the advice {self.change!r} says {self.saved_bytes} B saved, which is not its difference."
            )


DonationOutcome = Literal["aliased", "copied", "not requested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationLeaf:
    """What became of one array that was donated, or that could have been.

    Attributes:
        path: of the argument.
        bytes: on one device.
        outcome: ``aliased``: a result is written over it. ``copied``: it was donated, and no result takes its memory.
            ``not requested``: a result replaces it, and it was not donated.
        reason: why, in a sentence without its full stop.
    """

    path: str
    role: Role
    bytes: int
    outcome: DonationOutcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Fit(Shown):
    """How much of a program fits on a device, and what would change that.

    Attributes:
        program: without its batch size where several were compiled.
        budget_bytes: what the program may take: what is usable, or the limit asked for, less what else lives there and the
            margin.
        limit_bytes, resident_bytes, margin_bytes: as asked for; None and 0 where nothing was.
        rule: whose check the verdict is, in a sentence.
        asked_batch: the batch size asked about, which is among the proof; None where none was.
        fits: that batch fits; where none was asked about, any does.
        advised_batch: the batch size that the advice was compiled at; None where there is none.
        advice: the most useful first.
        donation: largest first, of the largest batch that fits, else of the smallest that does not.
        notes: what a reader must know besides, one sentence each.
    """

    program: ProgramFacts
    device: DeviceFacts
    budget_bytes: int
    limit_bytes: int | None
    resident_bytes: int
    margin_bytes: int
    rule: str
    asked_batch: int | None
    fits: bool
    boundary: Boundary
    advised_batch: int | None
    advice: tuple[Advice, ...]
    donation: tuple[DonationLeaf, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [row.saved_bytes if isinstance(row.saved_bytes, int) else -(1 << 62) for row in self.advice]
        if any(first < second for first, second in pairwise(known)):
            raise InvariantError("the advice is not in the order of what it saves.")
        if self.asked_batch is not None and self.asked_batch not in [probe.batch_size for probe in self.boundary.proof]:
            raise InvariantError(f"batch {self.asked_batch} was asked about, and no compile shows whether it fits.")

    def _in_file(self) -> "Fits":
        return Fits(reports=(self,))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Fits(Shown):
    """The answers of one request: one per program, mode and device."""

    schema: Literal["jaxmem.fit/1"] = FIT_SCHEMA
    reports: tuple[Fit, ...]
