"""The boundary batch: the largest that fits and the next one that does not, both proven by a compile.

Memory is neither linear in the batch nor always monotone: XLA chooses kernels and layouts by size, and near the limit it
computes again what it would otherwise keep. So estimates and the law that the compiles so far follow only choose where to
look next. The answer itself is two compiles, one on either side.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from jaxmem.errors import UsageError
from jaxmem.result import Boundary, Probe

Measure = Callable[[int], Probe]
"""Compiles the program with a batch size."""

Estimate = Callable[[int], int | None]
"""What the formula says of a batch size, in bytes; None where there is no formula."""

CEILING = 1 << 20
"""Where a search without a limit of its own ends, in batches."""

_USUAL = 32
_LEAP = 8
_PATIENCE = 6
"""After so many compiles the law has failed and the search halves what is left."""

_PATIENCE_WITH_ROOM = 10
"""The same where the compiler makes room: then there are two laws to find."""


def find_boundary(
    measure: Measure,
    *,
    estimate: Estimate,
    budget_bytes: int,
    multiple_of: int = 1,
    asked: int | None = None,
    max_batch: int | None = None,
) -> Boundary:
    """Search for the boundary batch.

    Args:
        measure: compiles and judges one batch size. What it says decides.
        estimate: says where to begin.
        budget_bytes: what fits, as far as bytes decide it.
        multiple_of: only multiples of this are admissible batch sizes.
        asked: compile this batch size in any case, before any other.
        max_batch: do not look beyond.

    Raises:
        UsageError: ``asked`` is no admissible batch size, or there is none up to ``max_batch``.
    """
    last = (CEILING if max_batch is None else max_batch) // multiple_of
    if last < 1:
        raise UsageError(f"No multiple of {multiple_of} is {max_batch} or less: there is no batch size to try.")
    if asked is not None and (asked % multiple_of or asked > last * multiple_of):
        raise UsageError(
            f"The batch of {asked} is not among those to try: multiples of {multiple_of} up to {last * multiple_of}."
        )
    search = _Search(budget_bytes=budget_bytes, multiple_of=multiple_of, last=last)
    while (batch := asked if asked and not search.probes else search.next_batch(estimate)) is not None:
        search.probes.append(measure(batch))
    return search.boundary()


@dataclass(slots=True)
class _Search:
    """Steps are batches in units of ``multiple_of``: 1, 2, 3 ... up to ``last``."""

    budget_bytes: int
    multiple_of: int
    last: int
    probes: list[Probe] = field(default_factory=list)

    def next_batch(self, estimate: Estimate) -> int | None:
        """The batch size to compile next; None where the boundary is proven."""
        below, above = self._between()
        if above == below + 1:
            return None
        if not self.probes:
            step = self._by_formula(estimate)
        elif len(self.probes) < _PATIENCE_WITH_ROOM and self._makes_room(estimate):
            step = self._by_what_failed(estimate, below, above)
        elif len(self.probes) >= _PATIENCE:
            step = self._without_law(below, above)
        else:
            step = self._by_law(estimate, below, above)
        return max(below + 1, min(step, above - 1)) * self.multiple_of

    def _between(self) -> tuple[int, int]:
        """The largest step that fits, and the smallest beyond it that does not: 0 and ``last + 1`` where none is known."""
        below = max((self._step(probe) for probe in self.probes if probe.fits), default=0)
        failing = [self._step(probe) for probe in self.probes if not probe.fits]
        return below, min((step for step in failing if step > below), default=self.last + 1)

    def _step(self, probe: Probe) -> int:
        return probe.batch_size // self.multiple_of

    def _by_formula(self, estimate: Estimate) -> int:
        """Where the formula reaches the budget, read as a line through two batch sizes."""
        first = max(1, _USUAL // self.multiple_of)
        line = self._formula_line(estimate, first)
        if line is None:
            return first
        fixed, slope = line
        return int((self.budget_bytes - fixed) / slope) if self.budget_bytes > fixed else 1

    def _formula_line(self, estimate: Estimate, step: int) -> tuple[float, float] | None:
        """What the formula has independently of the batch, and for each step; None where it has no growing line."""
        low, high = min(step, max(1, self.last // 2)), min(2 * step, self.last)
        if low == high:
            return None
        small, large = estimate(low * self.multiple_of), estimate(high * self.multiple_of)
        if small is None or large is None or large <= small:
            return None
        slope = (large - small) / (high - low)
        return max(0.0, small - slope * low), slope

    def _by_law(self, estimate: Estimate, below: int, above: int) -> int:
        """Where the compiles so far say that the budget is reached."""
        near = min(self.probes, key=lambda probe: abs(probe.judged_bytes - self.budget_bytes))
        start = self._step(near)
        slope = self._slope(near, estimate)
        if slope is None:
            return self._without_law(below, above)
        reached = start + (self.budget_bytes - near.judged_bytes) / slope
        # A step that only just fits by the law may as well not fit: with its neighbour compiled too, the pair is likely
        # complete.
        step = int(reached // 1)
        if reached % 1 >= 0.5 and step + 1 < above:
            step += 1
        return step if below < step < above else below + 1 if step <= below else above - 1

    def _makes_room(self, estimate: Estimate) -> bool:
        """Whether memory stops growing below the limit: the compiler computes again, to stay within it, what it would keep.

        Then what fits tells nothing of where the boundary is; what fails follows another law, that of a program which keeps
        as little as it can. Of near neighbours only a clear fall counts: their growth shows the steps in the curve.
        """
        fixed = self._fixed_bytes(estimate)
        fitting = sorted((probe for probe in self.probes if probe.fits), key=self._step)

        def stopped(first: Probe, second: Probe) -> bool:
            start, end = self._step(first), self._step(second)
            growth = (second.judged_bytes - first.judged_bytes) / (end - start)
            before = (first.judged_bytes - min(fixed, first.judged_bytes)) / start
            return (
                4 * growth < before
                if 20 * (end - start) >= end
                else 100 * second.judged_bytes < 99 * first.judged_bytes
            )

        return any(stopped(first, second) for first, second in pairwise(fitting))

    def _by_what_failed(self, estimate: Estimate, below: int, above: int) -> int:
        """Where the law of the compiles that did not fit says that the budget is reached; else the middle, or twice as far."""
        failing = sorted((probe for probe in self.probes if not probe.fits), key=self._step)
        if not failing:
            is_flat = self.probes[-1].judged_bytes == self.probes[-2].judged_bytes
            return (_LEAP if is_flat else 2) * below
        near = failing[0]
        start = self._step(near)
        if len(failing) > 1:
            slope = (failing[1].judged_bytes - near.judged_bytes) / (self._step(failing[1]) - start)
        else:
            slope = (near.judged_bytes - min(self._fixed_bytes(estimate), near.judged_bytes)) / start
        step = int(start - (near.judged_bytes - self.budget_bytes) / slope) if slope > 0 else below
        # Where the law points at what fits already, the next is likely the first that does not; if it fits too, the law is off.
        tried = len(self.probes) > 1 and self._step(self.probes[-2]) == below - 1
        if step <= below and 50 * (below - step) <= below and not tried:
            return below + 1
        return step if below < step < above else (below + above) // 2

    def _fixed_bytes(self, estimate: Estimate) -> float:
        """What the formula has independently of the batch."""
        line = self._formula_line(estimate, max(1, _USUAL // self.multiple_of))
        return line[0] if line is not None else 0.0

    def _without_law(self, below: int, above: int) -> int:
        """The middle, or far beyond what fits where nothing has failed yet."""
        return (below + above) // 2 if above <= self.last else _LEAP * below

    def _slope(self, near: Probe, estimate: Estimate) -> float | None:
        """Bytes a step.

        Through two compiles where they stand on either side of the budget, or far apart; else through one and what the
        formula has independently of the batch. Two neighbours would show the steps in the curve, not its slope. Where two
        compiles in a row fell on one side, a jump may lie before the other: then these two tell the slope.
        """
        start = self._step(near)
        others = [
            probe
            for probe in self.probes
            if probe is not near
            and (probe.fits != near.fits or 4 * abs(self._step(probe) - start) >= max(start, self._step(probe)))
        ]
        previous = self.probes[-2] if len(self.probes) > 1 else near
        bracketed = any(probe.fits != near.fits for probe in others)
        if bracketed and near is self.probes[-1] and previous.fits == near.fits:
            slope = (previous.judged_bytes - near.judged_bytes) / (self._step(previous) - start)
        elif others:
            other = min(others, key=lambda probe: (probe.fits == near.fits, abs(self._step(probe) - start)))
            slope = (other.judged_bytes - near.judged_bytes) / (self._step(other) - start)
        else:
            slope = (near.judged_bytes - min(self._fixed_bytes(estimate), near.judged_bytes)) / start
        return slope if slope > 0 else None

    def boundary(self) -> Boundary:
        """The answer, once `next_batch` has nothing left to compile."""
        below, above = self._between()
        largest = below * self.multiple_of if below else None
        beyond = above * self.multiple_of if above <= self.last else None
        ordered = sorted(self.probes, key=lambda probe: probe.batch_size)
        monotone = all(
            first.required_bytes <= second.required_bytes and first.fits >= second.fits
            for first, second in pairwise(ordered)
        )
        return Boundary(
            largest_batch=largest,
            next_batch=beyond,
            multiple_of=self.multiple_of,
            searched_to=max(probe.batch_size for probe in self.probes),
            compiles=len(self.probes),
            monotone=monotone,
            proof=tuple(self.probes),
            answer=_answer(largest, beyond, self.multiple_of, monotone, ordered),
        )


def _answer(largest: int | None, beyond: int | None, multiple_of: int, monotone: bool, ordered: list[Probe]) -> str:
    if largest is None:
        said = f"Nothing fits: the smallest batch, {beyond}, does not."
    elif beyond is None:
        said = f"Batch {largest} fits, and no larger one was asked about: there is no boundary up to it."
    else:
        which = f", the next multiple of {multiple_of}," if multiple_of > 1 else ""
        said = f"Batch {largest} fits, batch {beyond}{which} does not; both were compiled."
    if monotone:
        return f"{said} Memory grows with the batch in every compile made." if len(ordered) > 1 else said
    odd = next(
        (first, second)
        for first, second in pairwise(ordered)
        if first.required_bytes > second.required_bytes or first.fits < second.fits
    )
    return (
        f"{said} Memory does not always grow with the batch: {odd[0].batch_size} needs {odd[0].required_bytes:,} B"
        f"{'' if odd[0].fits else ' (does not fit)'}, {odd[1].batch_size} needs {odd[1].required_bytes:,} B"
        f"{'' if odd[1].fits else ' (does not fit)'}. Other batches beyond may fit as well."
    )
