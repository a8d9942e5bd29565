"""The ledger, formula against compiler row by row, and what else is laid beside the compiler."""

from dataclasses import dataclass

from jaxmem.unknown import Unknown

EvidenceValue = str | int | tuple[int, ...] | tuple[str, ...]
Evidence = tuple[tuple[str, EvidenceValue], ...]
"""What an item of the ledger points at, as (what, which) pairs: ``(("buffer", "fusion.7"), ("live", (12, 80)))``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerItem:
    """One named part of the difference between formula and compiler.

    Attributes:
        kind: from the closed list of `jaxmem.reconcile`.
        bytes: signed; what this adds to the formula's number.
        evidence: what on the compiled side, or in the formula, shows it.
    """

    kind: str
    bytes: int
    evidence: Evidence = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.evidence]
        if len(set(names)) < len(names):
            raise ValueError(f"evidence names one thing twice: {names}. Put several of a kind into one tuple.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One row of formula against compiler.

    Attributes:
        term: what the row is about, for people: ``parameters``, ``saved activations``.
        symbol: the term as the formula writes it: ``w``, ``2w + 4``, ``B·saved``.
        layer: layer path; empty where the row belongs to the whole program.
        formula_bytes: what the formula says; unknown where there is no program to derive it from.
        compiled_bytes: what the compiled program has.
        items: what the difference consists of.
        reason: the same in a sentence.
    """

    term: str
    symbol: str
    layer: str = ""
    formula_bytes: int | Unknown
    compiled_bytes: int
    items: tuple[LedgerItem, ...] = ()
    reason: str = ""

    @property
    def difference_bytes(self) -> int | Unknown:
        """Compiled minus formula."""
        return (
            self.formula_bytes if isinstance(self.formula_bytes, Unknown) else self.compiled_bytes - self.formula_bytes
        )

    @property
    def unexplained_bytes(self) -> int | Unknown:
        """By how much difference and items disagree, in absolute value."""
        difference = self.difference_bytes
        return (
            difference if isinstance(difference, Unknown) else abs(difference - sum(item.bytes for item in self.items))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One formula's answer beside the compiler's.

    Attributes:
        name: ``jaxmem``, or ``textbook: 4w + B·ΣF``.
        formula: with the numbers put in.
        error_percent: against ``required_bytes``, positive where the formula says more.
    """

    name: str
    formula: str
    bytes: int | Unknown
    error_percent: float | Unknown


def error_percent(estimated_bytes: int | Unknown, true_bytes: int) -> float | Unknown:
    """How far an estimate is off, in percent of the truth; positive where it says more."""
    if isinstance(estimated_bytes, Unknown):
        return estimated_bytes
    if true_bytes == 0:
        return Unknown("the program needs no memory, so there is no percentage of it")
    return round(100 * (estimated_bytes - true_bytes) / true_bytes, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The same bytes by the formula and by the compiler."""

    formula_bytes: int | Unknown
    compiled_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """What one layer takes. ``layer`` is its path; empty for what belongs to no layer."""

    layer: str
    parameters: Compared
    gradients: Compared
    optimizer: Compared
    activations: Compared
