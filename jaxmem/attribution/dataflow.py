"""One dataflow graph over a whole compiled module.

A node is one array an instruction makes: (instruction, shape index). Fusions, calls, loops and branches are entered, so that
a node inside a fusion is as visible as one outside; tuples, bitcasts and boundaries only hand a node on, copies
and transposes (`MOVES`) keep its numbers in new bytes. Everything the rules ask about a buffer is asked of this graph.
"""

from collections.abc import Container, Mapping, Sequence

from jaxmem.attribution.graph import ELEMENTWISE, MOVES, Graph, Node
from jaxmem.xla.hlo import Instruction, Module

PRODUCTS = frozenset({"dot", "convolution"})

_WIDENED = frozenset({"bf16", "f16", "f32"})
"""Number formats between which a compiler changes where it cannot compute in the narrow one."""


def _is_compilers_cast(cast: Instruction, operand: Instruction) -> bool:
    """A cast without a name, or under the name of what it casts, of a scope around that, of a loop or branch, of a mere
    movement, or of a product that is done by what it casts: the program did not ask for it.
    """
    widens = {cast.shape.element_type, operand.shape.element_type} <= _WIDENED
    moves = widens and cast.op_name.endswith(("/reshape", "/transpose", "/squeeze", "/copy", "/while", "/cond"))
    nameless = widens and not operand.op_name and operand.opcode in PRODUCTS
    ends = nameless and not cast.op_name.endswith("/convert_element_type")
    return moves or ends or cast.op_name in ("", operand.op_name) or operand.op_name.startswith(f"{cast.op_name}/")


class Dataflow(Graph):
    """The graph, and what is asked of it. Building it and every question below are linear in the size of the module.

    Attributes:
        value_numbers: for each node a number, such that equal numbers mean the same computation on the same arguments. XLA
            computes a value twice rather than keep it, in two fusions; this is how the two are known to be one. A copy has its
            source's number; where ways of a loop meet, a value is nobody's equal.
        origins: for each node the node that first made its numbers: back through aliases, copies, transposes and reshapes, and
            through casts that the program did not ask for: a mask widened to bytes, an operand narrowed for a matrix unit.
    """

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.value_numbers: list[int] = []
        self.origins: list[int] = []
        self._find_values()
        self._readers: dict[int, tuple[Node, ...]] = {}

    def _find_values(self) -> None:
        nodes, numbers, origins = self.nodes, self.value_numbers, self.origins
        known: dict[tuple[object, ...], int] = {}
        number_of = numbers.__getitem__
        for node in nodes:
            operands, instruction = node.operands, node.instruction
            opcode = instruction.opcode
            made_of_one = len(operands) == 1
            if node.hands_on and made_of_one:
                numbers.append(numbers[operands[0]])
                origins.append(origins[operands[0]])
                continue
            origin = node.index
            if made_of_one:
                source = origins[operands[0]]
                if opcode in MOVES or (
                    opcode == "convert" and _is_compilers_cast(instruction, nodes[source].instruction)
                ):
                    origin = source
            origins.append(origin)
            if made_of_one and opcode in ("copy", "copy-start"):
                numbers.append(numbers[operands[0]])
                continue
            if node.hands_on or opcode == "parameter":
                what = (node.index,)  # like no other
            elif opcode == "broadcast" and nodes[operands[0]].elements == 1:
                what = (opcode, node.elements, numbers[operands[0]])  # one number so many times, in whatever shape
            else:
                what = (instruction.fingerprint, node.shape_index, *map(number_of, operands))
            numbers.append(known.setdefault(what, len(known)))

    def readers(self, node: int) -> tuple[Node, ...]:
        """The nodes that really read an array: users, seen through names and boundaries.

        Where ways meet (what a loop carries) another array begins, and the meeting point is the reader.
        """
        found = self._readers.get(node)
        if found is None:
            found = self._readers[node] = self._find_readers(node)
        return found

    def is_read(self, node: int) -> bool:
        """Whether an array has readers."""
        nodes = self.nodes
        return any(not nodes[user].hands_on for user in nodes[node].users) or bool(self.readers(node))

    def _find_readers(self, node: int) -> tuple[Node, ...]:
        nodes, users = self.nodes, self.nodes[node].users
        if len(users) == 1 and not nodes[users[0]].hands_on:
            return (nodes[users[0]],)
        found: dict[int, Node] = {}
        waiting, seen = list(users), {node}
        while waiting:
            user = nodes[waiting.pop()]
            index = user.index
            if index in seen:
                continue
            seen.add(index)
            if user.hands_on and len(user.operands) == 1:
                waiting += user.users
            else:
                found[index] = user
        return tuple(found.values())

    def spread(
        self,
        start: Mapping[int, int],
        *,
        backwards: bool = False,
        anew: Container[int] = frozenset(),
        made_of: Mapping[int, Sequence[int]] | None = None,
    ) -> list[int]:
        """Bits that flow along the graph from ``start`` (node → bits) until nothing changes, to users or to operands.

        ``anew``: nodes that a loop carries but that begin anew in each turn: nothing flows into them from the turn before.
        ``made_of``: nodes into which less flows than all of their operands, each with what does.
        """
        nodes, bits = self.nodes, [0] * len(self.nodes)
        for node, value in start.items():
            bits[node] = value
        gathers: list[Sequence[int]] = list(self.users if backwards else self.operands)
        for index, made in (made_of or {}).items():
            gathers[index] = made
        way_round = []
        for leaves, receives in self.way_round:
            taker, giver = (leaves, receives) if backwards else (receives, leaves)
            if receives in anew:
                gathers[taker] = [each for each in gathers[taker] if each != giver]
            else:
                way_round.append((taker, giver))
        first, last = (0, len(nodes) - 1) if way_round else (min(start, default=0), max(start, default=-1))
        order = range(last, -1, -1) if backwards else range(first, len(nodes))
        while True:
            for index in order:
                gathered = bits[index]
                for neighbour in gathers[index]:
                    gathered |= bits[neighbour]
                bits[index] = gathered
            # Only the way round a loop can need another pass.
            if all(bits[giver] | bits[taker] == bits[taker] for taker, giver in way_round):
                return bits


__all__ = ["ELEMENTWISE", "MOVES", "Dataflow", "Node"]
