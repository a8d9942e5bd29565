"""What the memory should be, derived by hand, without a compile."""

from jaxmem.formula.derive import derive_formula
from jaxmem.formula.leaves import Formula, Leaf, Textbook

__all__ = ["Formula", "Leaf", "Textbook", "derive_formula"]
