"""The formula as data: leaves with their derivation, summed into terms."""

from dataclasses import dataclass

from jaxmem.layer_table import LayerTable
from jaxmem.roles import Phase, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One array that the formula speaks of.

    Attributes:
        role: what it is for.
        layer: whose it is.
        name: what a person calls it: ``feature map (max)``, ``mask (gt)``, the path of an argument.
        primitive: the operation that makes it; empty for arguments and outputs.
        phase: when it is made.
        elements, itemsize_bits, bytes: its size without padding; ``itemsize_bits`` is 0 where it is no array.
        counted: it is live at the formula's own peak, so its bytes are in the sum.
        why: the rule that says so, in a sentence.
        path: of the argument or output it is; for a gradient that of its parameter inside the parameter tree.
        keeps: it is listed by autodiff as kept for the backward pass.
        divided_over: devices among which the whole array is divided, each of which has ``elements``.
        is_result: it is a result of the program, or the table of its results.
        of_backend: the backend makes it for its own sake; no operation of the program does.
        value: the array of the traced program that it is, by its place in the layer table; None for any other.
    """

    role: Role
    layer: str
    name: str
    primitive: str = ""
    phase: Phase = Phase.UNKNOWN
    elements: int
    itemsize_bits: int = 0
    bytes: int
    counted: bool
    why: str
    path: str = ""
    keeps: bool = False
    is_result: bool = False
    divided_over: int = 1
    of_backend: bool = False
    value: int | None = None

    @property
    def text(self) -> str:
        """How a ledger names it."""
        return f"{self.layer}: {self.name}" if self.layer else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Textbook:
    """A formula that people answer with, computed as written. ``formula`` has the numbers put in."""

    name: str
    formula: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """What the memory should be.

    Attributes:
        leaves: every array of the program; those that are `counted` make up the sum.
        peak: the moment of the formula's own peak, in words.
        symbols: role → how the formula writes the term.
        textbook: other formulas beside it.
        table: the traced program that it was derived from; None where it was written by hand.
    """

    leaves: tuple[Leaf, ...]
    peak: str
    symbols: tuple[tuple[Role, str], ...]
    textbook: tuple[Textbook, ...]
    table: LayerTable | None = None

    @property
    def bytes(self) -> int:
        """The sum."""
        return sum(leaf.bytes for leaf in self.leaves if leaf.counted)

    def symbol(self, role: Role) -> str:
        """How the formula writes a term."""
        return dict(self.symbols).get(role, "")
