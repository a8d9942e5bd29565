"""What the traced program testifies: that a leaf is an array of it, and where in it its operation stands."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from math import prod

from jaxmem.formula import Formula, Leaf
from jaxmem.layer_paths import place
from jaxmem.reconcile.evidence import Place


class Traced:
    """The arrays of the traced program, for the leaves that speak of them."""

    def __init__(self, formula: Formula) -> None:
        self._table = formula.table
        self._leaves = formula.leaves
        self._places: dict[str, tuple[str, ...]] = {}
        self._sizes: dict[int, tuple[int, int, int, int]] = {}
        self._uneven: dict[tuple[int, ...], set[int]] = {}

    def place(self, leaf: Leaf) -> Place | None:
        """The operation that makes a leaf and where it stands; None for what no operation of the program makes."""
        if self._table is None or leaf.value is None:
            return None
        made = self._table.values[leaf.value].operation
        if made is None:
            return None
        scope = self._table.operations[made].scope
        if scope not in self._places:
            self._places[scope] = place(scope)
        return leaf.primitive, self._places[scope]

    def result_elements(self, position: int) -> int:
        """Elements of a result of the program as it is traced; 0 where nothing computes it."""
        index = self._table.outputs[position] if self._table is not None else None
        return prod(self._table.values[index].shape) if self._table is not None and index is not None else 0

    def uneven_parts(self, leaf: Leaf, divisions: Sequence[int]) -> set[int]:
        """Elements that one device may have of a leaf of which no dimension need be a multiple of the devices.

        The partitioner rounds up: of nine rows two devices have five each, the last of them empty; of 3 × 3 numbers that four
        devices have 2 × 2, each has four.

        Args:
            divisions: in how many parts the devices may have an array, the last of them in one for each device.
        """
        if self._table is None or leaf.value is None or len(divisions) == 1:
            return set()
        shape = self._table.values[leaf.value].shape
        if shape not in self._uneven:
            parts = {(1, 1, False)}  # elements, among how many devices, some of them rounded up
            for size in shape:
                parts = {
                    (elements * -(-size // over), devices * over, rounded or size % over > 0)
                    for elements, devices, rounded in parts
                    for over in divisions
                    if divisions[-1] % (devices * over) == 0
                }
            self._uneven[shape] = {elements for elements, _, rounded in parts if rounded}
        return self._uneven[shape]

    @cached_property
    def _speak(self) -> Counter[int | None]:
        """Value of the traced program → how many leaves speak of it."""
        return Counter(leaf.value for leaf in self._leaves)

    def is_array(self, leaf: Leaf) -> bool:
        """Whether a leaf is an array of the program, in size and number format, and the only leaf that speaks of it."""
        return self._table is not None and leaf.value is not None and self._speak[leaf.value] == 1 and self.agrees(leaf)

    def agrees(self, leaf: Leaf) -> bool:
        """Whether nothing in the traced program contradicts the size of a leaf, and among how many devices it is divided."""
        if self._table is None or leaf.value is None:
            return True
        traced = self._sizes.get(leaf.value)
        if traced is None:
            value = self._table.values[leaf.value]
            traced = (value.elements, value.itemsize_bits, value.logical_bytes, value.divided_over)
            self._sizes[leaf.value] = traced
        return traced == (leaf.elements, leaf.itemsize_bits, leaf.bytes, leaf.divided_over)
