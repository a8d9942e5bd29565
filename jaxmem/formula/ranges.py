"""The formula's schedule as data."""

from dataclasses import dataclass

from jaxmem.formula.kernels import Addition


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRanges:
    """The formula's schedule.

    Attributes:
        origin: for each value the value that first made its numbers (back through reshapes and transposes).
        exists: for each value whether its bytes exist in a place of their own.
        order: the operation that runs at each position.
        start, end: positions in the order between which a value exists, both included.
        residual: autodiff keeps the value for the backward pass; only ever true of origins.
        constant: the value depends on no argument.
        peak: position at which the most bytes exist.
        additions: what the backend adds, and whether it exists at the peak.
        gap_bytes: between the temporaries, where none of them fits.
        hidden_bytes: what a library allocates for itself while it runs.
        in_float32: values that exist in float32, whatever their number format.
        again: values that the trace computes a second time and the compiler, so the formula, does not.
        on_chip: everything that the program computes lies in on-chip memory, an account of its own.
    """

    order: tuple[int, ...]
    origin: tuple[int, ...]
    exists: tuple[bool, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    residual: tuple[bool, ...]
    constant: tuple[bool, ...]
    peak: int
    additions: tuple[tuple[Addition, bool], ...]
    gap_bytes: int = 0
    hidden_bytes: int = 0
    in_float32: frozenset[int] = frozenset()
    again: frozenset[int] = frozenset()
    on_chip: bool = False

    def at_peak(self, value: int) -> bool:
        """Whether a value's bytes exist at the peak."""
        return self.exists[value] and self.start[value] <= self.peak <= self.end[value]
