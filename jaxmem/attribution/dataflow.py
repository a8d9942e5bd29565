"""One dataflow graph over a whole compiled module.

A node is one array an instruction makes: (instruction, shape index). Fusions, calls, loops and branches are entered, so that
a node inside a fusion is as visible as one outside; tuples, bitcasts and boundaries only hand a node on (`ALIAS`), copies
and transposes keep its numbers in new bytes (`MOVEMENT`). Everything the rules ask about a buffer is asked of this graph.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxmem.attribution.collectives import DONES, PIECEWISE, STARTS
from jaxmem.profile import Leaf, flatten_schedule, instruction_order
from jaxmem.xla.hlo import Instruction, Module, Shape

_HANDS_ON = frozenset({"bitcast", "optimization-barrier", "get-tuple-element", "tuple", "add-dependency", "domain"})
MOVES = frozenset({"copy", "transpose", "reshape", "reverse", "copy-start", "copy-done", "bitcast-convert"})
"""Opcodes whose result holds the numbers of their operand, in another order or place."""

_OF_THEIR_OWN = (
    _HANDS_ON
    | {"parameter", "fusion", "call", "while", "conditional", "async-start", "async-done", "async-update", "copy-done"}
    | DONES.keys()
    | STARTS
    | PIECEWISE
)
"""Opcodes whose results are more, or something else, than computed from all operands."""

ELEMENTWISE = frozenset(
    """abs add and atan2 cbrt ceil clamp compare convert cosine divide erf exponential exponential-minus-one floor
    is-finite log log-plus-one logistic maximum minimum multiply negate not or power reduce-precision remainder
    round-nearest-afz round-nearest-even rsqrt select shift-left shift-right-arithmetic shift-right-logical sign sine sqrt
    subtract tan tanh xor stochastic-convert""".split()
) | (MOVES | _HANDS_ON)


@dataclass(slots=True)
class Node:
    """One array of the module.

    Attributes:
        leaf: where it is made.
        shape: of the array.
        operands: nodes it is computed from.
        users: nodes computed from it.
        fusion: id of the outermost fusion around it; None for an instruction that runs on its own.
        position: when it runs: its place in the flattened schedule.
        hands_on: it is another node under another name and has no bytes of its own; more than one operand where ways meet.
    """

    index: int
    instruction: Instruction
    leaf: Leaf
    shape: Shape
    operands: list[int]
    users: list[int] = field(default_factory=list)
    fusion: int | None = None
    position: int = 0
    hands_on: bool = False

    @property
    def elements(self) -> int:
        """Number of elements of the array."""
        return self.shape.elements

    @property
    def bits(self) -> int:
        """Bits of one element as stored."""
        return 8 * self.shape.logical_bytes // self.shape.elements if self.shape.elements else 0

    @property
    def dtype(self) -> str:
        """Element type by XLA's name."""
        return self.shape.element_type


_WIDENED = frozenset({"bf16", "f16", "f32"})
"""Number formats between which a compiler changes where it cannot compute in the narrow one."""


def _is_compilers_cast(cast: Instruction, operand: Instruction) -> bool:
    """A cast without a name, or under the name of what it casts, or of a mere movement: the program did not ask for it."""
    if cast.opcode != "convert":
        return False
    widens = {cast.shape.element_type, operand.shape.element_type} <= _WIDENED
    moves = widens and cast.op_name.endswith(("/reshape", "/transpose", "/squeeze", "/copy"))
    return moves or cast.op_name in ("", operand.op_name)


class Dataflow:
    """The graph. Building it and every question below are linear in the size of the module."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.nodes: list[Node] = []
        self.node_at: dict[Leaf, int] = {}
        self.selectors: set[int] = set()
        """Nodes that decide which branch of a conditional runs."""
        self.loop_state: dict[int, int] = {}
        """Every node that is an array which a loop carries from turn to turn, in its condition, in its body and as its result →
        the one in the body."""
        self.next_version: dict[int, int] = {}
        """What a turn leaves → the array that the loop carries, in the body, over which it is written."""
        self._way_round: list[tuple[int, int]] = []
        """(what a turn leaves, what the next one receives): the only edges against the order of the nodes."""
        self.schedule = flatten_schedule(module)
        self._position = {identifier: position for position, identifier in enumerate(self.schedule)}
        self._visit(module.entry_computation_id, parameters=None, fusion=None, position=None)
        nodes = self.nodes
        for node in nodes:
            for operand in node.operands:
                nodes[operand].users.append(node.index)
        self._readers: dict[int, tuple[Node, ...]] = {}
        self.value_numbers = self._number_values()
        self.origins = self._find_origins()

    # Building.

    def _add(
        self, instruction: Instruction, index: tuple[int, ...], operands: Iterable[int], *, hands_on: bool = False
    ) -> int:
        number, leaf = len(self.nodes), (instruction.id, index)
        shape = instruction.shape.subshape(index) if index else instruction.shape
        self.nodes.append(Node(number, instruction, leaf, shape, list(operands), [], *self._where, hands_on))
        self.node_at[leaf] = number
        return number

    def _visit(
        self,
        computation_id: int,
        *,
        parameters: Sequence[Mapping[tuple[int, ...], int]] | None,
        fusion: int | None,
        position: int | None,
    ) -> dict[tuple[int, ...], int]:
        """Add a computation's nodes and return the root's leaves; ``parameters``: which outer node each parameter receives.

        What most instructions make is computed from everything they are given.
        """
        module = self.module
        made: dict[int, dict[tuple[int, ...], int]] = {}
        for identifier in instruction_order(module, computation_id):
            instruction = module.instructions[identifier]
            self._where = (fusion, self._position.get(identifier, 0) if position is None else position)
            if instruction.opcode in _OF_THEIR_OWN:
                made[identifier] = self._visit_instruction(instruction, made, parameters, fusion, position)
                continue
            everything: list[int] = []
            for operand in instruction.operand_ids:
                everything += made[operand].values()
            if instruction.shape.is_tuple:
                made[identifier] = {i: self._add(instruction, i, everything) for i in instruction.shape.indices}
            else:
                made[identifier] = {(): self._add(instruction, (), everything)}
        return made[module.computations[computation_id].root_id]

    def _visit_instruction(
        self,
        instruction: Instruction,
        made: dict[int, dict[tuple[int, ...], int]],
        parameters: Sequence[Mapping[tuple[int, ...], int]] | None,
        fusion: int | None,
        position: int | None,
    ) -> dict[tuple[int, ...], int]:
        opcode, leaves, where = instruction.opcode, instruction.shape.indices, self._where
        if opcode == "parameter":
            given = parameters[instruction.parameter_number or 0] if parameters is not None else {}
            return {
                index: self._add(instruction, index, [given[index]] if index in given else (), hands_on=bool(given))
                for index in leaves
            }
        operands = [made[operand] for operand in instruction.operand_ids]
        if opcode == "get-tuple-element":
            prefix = (instruction.tuple_index or 0,)
            return {i: self._add(instruction, i, [operands[0][prefix + i]], hands_on=True) for i in leaves}
        if opcode == "tuple":
            elements: dict[tuple[int, ...], int] = {
                (k, *i): node for k, operand in enumerate(operands) for i, node in operand.items()
            }
            return {i: self._add(instruction, i, [elements[i]], hands_on=True) for i in leaves}
        if opcode in ("fusion", "call"):
            body = self._visit(
                instruction.called_computation_ids[0],
                parameters=operands,
                fusion=(fusion or instruction.id) if opcode == "fusion" else fusion,
                position=where[1] if opcode == "fusion" else position,
            )
            self._where = where
            return {index: self._add(instruction, index, [body[index]], hands_on=True) for index in leaves}
        if opcode == "while":
            return self._visit_while(instruction, operands[0], leaves, where)
        if opcode == "conditional":
            self.selectors.add(self.named_first(operands[0][()]))
            branches = [
                self._visit(
                    branch,
                    parameters=[operands[number + 1]],
                    fusion=None,
                    position=None,
                )
                for number, branch in enumerate(instruction.called_computation_ids)
            ]
            self._where = where
            return {i: self._add(instruction, i, [branch[i] for branch in branches], hands_on=True) for i in leaves}
        if opcode == "async-start" and instruction.called_computation_ids:
            body = self._visit(
                instruction.called_computation_ids[0],
                parameters=operands,
                fusion=fusion,
                position=position,
            )
            self._where = where
            result = {}
            for index in leaves:
                part, *rest = index
                if part == 0 and rest and rest[0] < len(operands):
                    source = operands[rest[0]].get(tuple(rest[1:]))
                elif part == 1:
                    source = body.get(tuple(rest))
                else:
                    source = None
                result[index] = self._add(
                    instruction, index, [source] if source is not None else (), hands_on=source is not None
                )
            return result
        if opcode in ("async-done", "async-update"):
            prefix = (1,) if opcode == "async-done" else ()
            return {
                i: self._add(
                    instruction, i, [operands[0][prefix + i]] if prefix + i in operands[0] else (), hands_on=True
                )
                for i in leaves
            }
        if opcode == "copy-done":
            return {(): self._add(instruction, (), [operands[0][(0,)]], hands_on=True)}
        if opcode in _HANDS_ON and len(operands) >= 1 and set(operands[0]) == set(leaves):
            return {index: self._add(instruction, index, [operands[0][index]], hands_on=True) for index in leaves}
        if opcode in DONES:
            prefix = DONES[opcode]
            return {i: self._add(instruction, i, [operands[0][prefix + i]], hands_on=True) for i in leaves}
        if opcode in STARTS:
            return self._visit_start(instruction, operands, leaves)
        if opcode in PIECEWISE and len(operands) > 1:
            return {i: self._add(instruction, i, [operands[i[0]][i[1:]]]) for i in leaves}
        everything = [node for operand in operands for node in operand.values()]
        return {index: self._add(instruction, index, everything) for index in leaves}

    def _visit_start(
        self,
        instruction: Instruction,
        operands: list[dict[tuple[int, ...], int]],
        leaves: tuple[tuple[int, ...], ...],
    ) -> dict[tuple[int, ...], int]:
        """A collective that begins: part 0 are its operands under another name, part 1 its results."""
        made = {}
        for index in leaves:
            part, *rest = index
            place = rest[0] if len(operands) > 1 and rest else 0
            inner = tuple(rest[1:] if len(operands) > 1 else rest)
            source = operands[place].get(inner) if part < 2 else None
            operand = [source] if source is not None else []
            made[index] = self._add(instruction, index, operand, hands_on=part == 0 and bool(operand))
        return made

    def _visit_while(
        self,
        instruction: Instruction,
        initial: dict[tuple[int, ...], int],
        leaves: tuple[tuple[int, ...], ...],
        where: tuple[int | None, int],
    ) -> dict[tuple[int, ...], int]:
        roots = []
        parameter_ids = []
        for computation in instruction.called_computation_ids:
            roots.append(self._visit(computation, parameters=[initial], fusion=None, position=None))
            parameter_ids.append(
                next(
                    identifier
                    for identifier in self.module.computations[computation].instruction_ids
                    if self.module.instructions[identifier].opcode == "parameter"
                )
            )
        body_root, body_parameter = next(
            (root, parameter)
            for root, parameter, computation in zip(
                roots, parameter_ids, instruction.called_computation_ids, strict=True
            )
            if self.module.instructions[self.module.computations[computation].root_id].shape.is_tuple
            == instruction.shape.is_tuple
            and set(root) == set(leaves)
        )
        # What one turn leaves is what the next receives; what the body hands on untouched is the same array all the time.
        carried = {index for index in leaves if not self._is_handed_on(body_root[index], body_parameter, index)}
        for parameter in parameter_ids:
            for index in carried:
                if (node := self.node_at.get((parameter, index))) is not None:
                    self.nodes[node].operands.append(body_root[index])
                    if body_root[index] >= node:
                        self._way_round.append((body_root[index], node))
                    self.loop_state[node] = self.node_at[body_parameter, index]
        self._where = where
        made = {
            i: self._add(instruction, i, [body_root[i], initial[i]] if i in carried else [initial[i]], hands_on=True)
            for i in leaves
        }
        for index in carried:
            state = self.node_at[body_parameter, index]
            self.loop_state[made[index]] = state
            self.next_version.setdefault(self.named_first(body_root[index]), state)
        return made

    def named_first(self, node: int) -> int:
        """The node whose bytes a node is, back through its other names."""
        while self.nodes[node].hands_on and len(self.nodes[node].operands) == 1:
            node = self.nodes[node].operands[0]
        return node

    def _is_handed_on(self, node: int, parameter: int, index: tuple[int, ...]) -> bool:
        while self.nodes[node].hands_on and len(self.nodes[node].operands) == 1:
            if self.nodes[node].leaf == (parameter, index):
                return True
            node = self.nodes[node].operands[0]
        return False

    # Questions.

    def _number_values(self) -> list[int]:
        """A number for each node such that equal numbers mean the same computation on the same arguments.

        XLA computes a value twice rather than keep it, in two fusions; this is how the two are known to be one. A copy has
        its source's number; where ways of a loop meet, a value is nobody's equal.
        """
        numbers: list[int] = []
        known: dict[tuple[object, ...], int] = {}
        for node in self.nodes:
            instruction, operands = node.instruction, node.operands
            same = node.hands_on or instruction.opcode in ("copy", "copy-start")
            if same and len(operands) == 1 and operands[0] < node.index:
                numbers.append(numbers[operands[0]])
                continue
            if instruction.opcode == "parameter" or node.hands_on:
                made_of: Iterable[int | str] = ("node", node.index)  # like no other
            else:
                made_of = map(numbers.__getitem__, operands)
            what = (instruction.fingerprint, node.leaf[1], *made_of)
            numbers.append(known.setdefault(what, len(known)))
        return numbers

    def _find_origins(self) -> list[int]:
        """For each node the node that first made its numbers.

        Back through aliases, copies, transposes and reshapes, and through casts that the program did not ask for: a mask
        widened to bytes, an operand narrowed for a matrix unit.
        """
        origins: list[int] = []
        for node in self.nodes:
            origin = node.index
            if len(node.operands) == 1 and node.operands[0] < node.index:
                source = origins[node.operands[0]]
                moved = node.hands_on or node.instruction.opcode in MOVES
                if moved or _is_compilers_cast(node.instruction, self.nodes[source].instruction):
                    origin = source
            origins.append(origin)
        return origins

    def readers(self, node: int) -> tuple[Node, ...]:
        """The nodes that really read an array: users, seen through names and boundaries.

        Where ways meet (what a loop carries) another array begins, and the meeting point is the reader.
        """
        found = self._readers.get(node)
        if found is None:
            found = self._readers[node] = tuple(self._find_readers(node))
        return found

    def _find_readers(self, node: int) -> Iterator[Node]:
        seen = {node}
        waiting = list(self.nodes[node].users)
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            user = self.nodes[index]
            if user.hands_on and len(user.operands) == 1:
                waiting.extend(user.users)
            else:
                yield user

    def spread(
        self, start: Mapping[int, int], *, backwards: bool = False, anew: Container[int] = frozenset()
    ) -> list[int]:
        """Bits that flow along the graph from ``start`` (node → bits) until nothing changes, to users or to operands.

        ``anew``: nodes that a loop carries but that begin anew in each turn: nothing flows into them from the turn before.
        """
        nodes, bits = self.nodes, [0] * len(self.nodes)
        for node, value in start.items():
            bits[node] = value
        gathers = [node.users if backwards else node.operands for node in nodes]
        way_round = []
        for leaves, receives in self._way_round:
            taker, giver = (leaves, receives) if backwards else (receives, leaves)
            if receives in anew:
                gathers[taker] = [each for each in gathers[taker] if each != giver]
            else:
                way_round.append((taker, giver))
        order = range(len(nodes) - 1, -1, -1) if backwards else range(len(nodes))
        while True:
            for index in order:
                gathered = bits[index]
                for neighbour in gathers[index]:
                    gathered |= bits[neighbour]
                bits[index] = gathered
            # Only the way round a loop can need another pass.
            if all(bits[giver] | bits[taker] == bits[taker] for taker, giver in way_round):
                return bits
