"""What XLA's compiler for CPUs hands to its library, YNNPACK, in one piece: `LibraryRewriter`, step by step.

(xla/backends/cpu/transforms/library_rewriter.cc and ynn_matcher.h, xla/backends/cpu/ynn_support.cc.)

- Convolutions, matrix products, reductions and windows that do not overlap start a fusion, from the end of the program to its
  beginning. One that a reduction or a window started grows; one of a convolution or a product is only taken in.
- It grows down, into the only operation that reads it, and up, into an operand that nothing else reads, breadth first, again
  and again until nothing is left to take. What the library knows is taken, element by element or spread out; a fusion that was
  there before is taken in whole. What has fewer than 4,096 elements, and reads as few, is left to XLA's own loops: so a program
  falls into other pieces with a larger batch.
- It ends at 100 instructions, those that stand for its operands included.

What is spread over a larger shape (`jaxmem.formula.library_instructions`) is in a fusion, and takes nothing, where all are that
read it.
"""

from collections import deque
from dataclasses import dataclass

from jaxmem.formula.equal import Equals
from jaxmem.formula.library_instructions import (
    LIBRARY_CONTRACTIONS,
    LIBRARY_REDUCTIONS,
    LIBRARY_WINDOWS,
    Growing,
    Instructions,
)
from jaxmem.layer_table import LayerTable

MOST_INSTRUCTIONS = 100
"""Of a fusion (`MaxFusionSize`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """An array that lies in memory at the size of what reads it.

    Attributes:
        value: what is spread out; None for a number of the program.
        shape: over which.
        readers: the operations of the library that read it, by index; of a fusion that ends with it, those behind.
    """

    value: int | None
    shape: tuple[int, ...]
    readers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFusions:
    """What the library computes.

    Attributes:
        fusions: the operations of each fusion, by index and in the order of the program; the last one's result is written.
        spreads: what is spread out for them.
    """

    fusions: tuple[tuple[int, ...], ...] = ()
    spreads: tuple[Spread, ...] = ()


def find_library_fusions(table: LayerTable, equals: Equals) -> LibraryFusions:
    """Which operations the library computes together."""
    return _Rewriter(table, equals).run()


class _Rewriter:
    """The pass itself."""

    def __init__(self, table: LayerTable, equals: Equals) -> None:
        self.table = table
        instructions = Instructions(table, equals)
        self.nodes, self.stays = instructions.nodes, instructions.stays

    def run(self) -> LibraryFusions:
        """Start fusions from the end of the program, and let them grow."""
        starters = [
            (number, self.table.operations[node.operation].primitive)
            for number, node in enumerate(self.nodes)
            if node.operation is not None and node.is_known
        ]
        for number, primitive in reversed(starters):
            node = self.nodes[number]
            if primitive not in LIBRARY_CONTRACTIONS | LIBRARY_REDUCTIONS | LIBRARY_WINDOWS or node.fusion is not None:
                continue
            node.fusion = Growing([number], number)
            if primitive not in LIBRARY_CONTRACTIONS:
                fusion: Growing = node.fusion
                while self.grow(fusion):
                    fusion = self.nodes[number].fusion or fusion
        return self.found()

    def grow(self, fusion: Growing) -> bool:
        """Once breadth first; whether anything was taken."""
        waiting: deque[tuple[int, bool]] = deque()
        seen: set[int] = set()
        self.look_around(fusion, fusion.members, fusion.root, waiting, seen, up=True, down=True)
        changed = False
        while waiting and not self.is_full(fusion):
            number, is_up = waiting.popleft()
            node = self.nodes[number]
            if node.fusion is not None:
                other = node.fusion
                if other is fusion or self.instructions(fusion) + self.instructions(other) > MOST_INSTRUCTIONS:
                    continue
                if not is_up:
                    fusion.root = other.root
                for member in other.members:
                    self.nodes[member].fusion = fusion
                fusion.members.extend(other.members)
                changed = True
                continue
            if not node.is_known:
                continue
            node.fusion = fusion
            fusion.members.append(number)
            if is_up:
                self.look_around(fusion, [number], number, waiting, seen, up=True, down=False)
            else:
                fusion.root = number
                self.look_around(fusion, [number], number, waiting, seen, up=False, down=True)
            changed = True
        return changed

    def look_around(
        self,
        fusion: Growing,
        members: list[int],
        end: int,
        waiting: deque[tuple[int, bool]],
        seen: set[int],
        *,
        up: bool,
        down: bool,
    ) -> None:
        """What could be taken next: operands that only the fusion reads, and the only reader of its end."""
        if up:
            for member in members:
                for operand in self.nodes[member].operands:
                    holder = self.nodes[operand].fusion
                    if holder is fusion or operand in seen or operand in self.stays:
                        continue
                    if all(self.nodes[user].fusion is fusion for user in self.nodes[operand].users):
                        seen.add(operand)
                        waiting.append((operand, True))
        if down and end not in self.stays:
            users = self.nodes[end].users
            entities = {id(self.nodes[user].fusion) if self.nodes[user].fusion else -user for user in users}
            if len(entities) == 1 and users[0] not in seen and self.nodes[users[0]].fusion is not fusion:
                seen.add(users[0])
                waiting.append((users[0], False))

    def is_full(self, fusion: Growing) -> bool:
        """Whether a fusion has as many instructions as it may have; each has two operands at most, one of them inside."""
        return 2 * len(fusion.members) + 1 >= MOST_INSTRUCTIONS and self.instructions(fusion) >= MOST_INSTRUCTIONS

    def instructions(self, fusion: Growing) -> int:
        """Instructions of a fusion, with those that stand for its operands."""
        inside = set(fusion.members)
        outside = {operand for member in fusion.members for operand in self.nodes[member].operands} - inside
        return len(inside) + len(outside)

    def found(self) -> LibraryFusions:
        """What has come of it, in the program's own terms."""
        fusions: dict[int, Growing] = {}
        for node in self.nodes:
            if node.fusion is not None:
                fusions[id(node.fusion)] = node.fusion
        spreads: dict[int, list[int]] = {}
        pieces = []
        for fusion in fusions.values():
            members = sorted(fusion.members)
            while self.nodes[fusion.root].operation is None or self.nodes[fusion.root].is_spread:
                # It ends with spreading: what it spreads out lies in memory at the size of what reads it.
                if self.nodes[fusion.root].is_spread:
                    spreads.setdefault(fusion.root, []).extend(self.nodes[fusion.root].users)
                members.remove(fusion.root)
                fusion.root = self.nodes[fusion.root].operands[0]
            inside = set(members)
            operations = [each for member in members if (each := self.nodes[member].operation) is not None]
            for member in members:
                for operand in self.nodes[member].operands:
                    node = self.nodes[operand]
                    # What the trace spreads out is a value of its own.
                    if operand not in inside and node.is_spread and node.operation is None:
                        spreads.setdefault(operand, []).append(member)
            last = self.nodes[fusion.root].operation
            assert last is not None
            operations.remove(last)
            pieces.append((*operations, last))
        return LibraryFusions(
            fusions=tuple(pieces), spreads=tuple(self.spread(number, readers) for number, readers in spreads.items())
        )

    def spread(self, number: int, readers: list[int]) -> Spread:
        """What is spread out for some instructions, or for what those that the trace does not show are made for."""
        found: list[int] = []
        waiting = list(readers)
        while waiting:
            node = self.nodes[waiting.pop(0)]
            if node.operation is None:
                waiting.extend(node.users)
            elif node.operation not in found:
                found.append(node.operation)
        node = self.nodes[number]
        return Spread(value=node.value, shape=node.shape, readers=tuple(found))
