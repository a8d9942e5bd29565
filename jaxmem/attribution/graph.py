"""The nodes of the dataflow graph, made computation by computation: which array each is, and what it is computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from jaxmem.attribution.collectives import DONES, PIECEWISE, STARTS, SUMS
from jaxmem.profile import Leaf, flatten_schedule, instruction_order
from jaxmem.xla.hlo import Instruction, Module, Shape, ShapeIndex

_HANDS_ON = frozenset({"bitcast", "optimization-barrier", "get-tuple-element", "tuple", "add-dependency", "domain"})
MOVES = frozenset({"copy", "transpose", "reshape", "reverse", "copy-start", "copy-done", "bitcast-convert"})
"""Opcodes whose result holds the numbers of their operand, in another order or place."""

ELEMENTWISE = frozenset(
    """abs add and atan2 cbrt ceil clamp compare convert cosine divide erf exponential exponential-minus-one floor
    is-finite log log-plus-one logistic maximum minimum multiply negate not or power reduce-precision remainder
    round-nearest-afz round-nearest-even rsqrt select shift-left shift-right-arithmetic shift-right-logical sign sine sqrt
    subtract tan tanh xor stochastic-convert""".split()
) | (MOVES | _HANDS_ON)

_FROM_NOTHING = frozenset({"constant", "iota", "broadcast"})
"""Opcodes of what a fusion makes of nothing, in each place where it needs it."""

_ENDS: Mapping[str, int | None] = {"async-done": 1, "async-update": None, "copy-done": 0, **DONES}
"""Opcode that ends, or goes on with, what its operand has begun → which element of the operand it hands on; None for all."""

_OF_THEIR_OWN = (
    _HANDS_ON
    | {"parameter", "fusion", "call", "while", "conditional", "async-start"}
    | _ENDS.keys()
    | STARTS
    | PIECEWISE
)
"""Opcodes whose results are more, or something else, than computed from all operands."""

Arrays = tuple[int, ...]
"""The nodes of the arrays of one instruction, in the order of its shape's leaves."""


@dataclass(slots=True)
class Node:
    """One array of the module.

    Attributes:
        shape_index: where it is in what the instruction makes.
        operands: nodes it is computed from.
        users: nodes computed from it.
        fusion: id of the outermost fusion around it, of those that make the same constant the first; None for an instruction
            that runs on its own.
        position: when it runs: its place in the flattened schedule.
        hands_on: it is another node under another name and has no bytes of its own; more than one operand where ways meet.
    """

    index: int
    instruction: Instruction
    shape_index: ShapeIndex
    shape: Shape
    operands: Sequence[int]
    users: list[int]
    fusion: int | None
    position: int
    hands_on: bool

    @property
    def leaf(self) -> Leaf:
        """Where it is made."""
        return self.instruction.id, self.shape_index

    @property
    def elements(self) -> int:
        """Number of elements of the array."""
        return self.shape.elements

    @property
    def bits(self) -> int:
        """Bits of one element as stored."""
        return self.shape.bits

    @property
    def dtype(self) -> str:
        """Element type by XLA's name."""
        return self.shape.element_type


class _Around(NamedTuple):
    """Where a computation stands.

    Attributes:
        parameters: the arrays that each of its parameters receives; None for the entry computation.
        fusion: as in `Node`.
        position: when all of it runs; None where its own instructions have places in the schedule.
    """

    parameters: Sequence[Arrays] | None
    fusion: int | None = None
    position: int | None = None


def is_meeting(node: Node) -> bool:
    """Whether ways meet at a node: what a loop carries, or what either branch leaves."""
    return node.hands_on and len(node.operands) > 1


class Graph:
    """The nodes of a module; fusions, calls, loops and branches are entered.

    Attributes:
        arrays: instruction id → its nodes; of one that is entered several times, those of the last time. What a fusion is given
            it reads where it is: its parameters have no nodes of their own. What it makes of nothing on the way, a constant,
            is one node for all fusions that make the same under the same name.
        operands, users: those of every node.
        selectors: nodes that decide which branch of a conditional runs, or whether a loop goes on.
        sums: what the devices add up.
        loop_state: every node that is an array which a loop carries from turn to turn, in its condition, in its body and as its
            result → the one in the body.
        next_version: what a turn leaves → the array that the loop carries, in the body, over which it is written.
        way_round: (what a turn leaves, what the next one receives): the only edges against the order of the nodes.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.nodes: list[Node] = []
        self.arrays: dict[int, Arrays] = {}
        self.selectors: set[int] = set()
        self.sums: list[int] = []
        self.loop_state: dict[int, int] = {}
        self.next_version: dict[int, int] = {}
        self.way_round: list[tuple[int, int]] = []
        self.schedule = flatten_schedule(module)
        self._from_nothing: set[int] = set()
        self._once: dict[tuple[int, str, Arrays], Arrays] = {}
        self._position = {identifier: position for position, identifier in enumerate(self.schedule)}
        self._enter(module.entry_computation_id, _Around(None))
        self.operands: list[Sequence[int]] = [node.operands for node in self.nodes]
        self.users = [node.users for node in self.nodes]
        users = self.users
        for index, operands in enumerate(self.operands):
            for operand in operands:
                users[operand].append(index)

    def node_at(self, leaf: Leaf) -> int | None:
        """The node that is made at a leaf; None where there is no array, or the computation is not entered."""
        identifier, index = leaf
        arrays = self.arrays.get(identifier)
        if not arrays:
            return None
        place = self.module.instructions[identifier].shape.places.get(index)
        return None if place is None else arrays[place]

    def named_first(self, node: int) -> int:
        """The node whose bytes a node is, back through its other names."""
        while self.nodes[node].hands_on and len(self.nodes[node].operands) == 1:
            node = self.nodes[node].operands[0]
        return node

    def _enter(self, computation_id: int, around: _Around) -> Arrays:
        """Add a computation's nodes and return its root's. What most instructions make is computed from all they are given."""
        instructions, arrays, nodes, positions = self.module.instructions, self.arrays, self.nodes, self._position
        parameters, fusion, position = around
        root = instructions[self.module.computations[computation_id].root_id]
        # Also of nothing, what a fusion writes is an array of its own: one that is given nothing has nothing else to do.
        made_once = _FROM_NOTHING if fusion is not None and parameters else ()
        written = root.operand_ids if root.opcode == "tuple" else (root.id,)
        for identifier in instruction_order(self.module, computation_id):
            instruction = instructions[identifier]
            opcode, shape = instruction.opcode, instruction.shape
            here = positions.get(identifier, 0) if position is None else position
            if opcode == "parameter" and parameters is not None:
                operands, is_received = parameters[instruction.attributes.parameter_number or 0], True
                if fusion is not None:
                    arrays[identifier] = operands
                    continue
            elif opcode in _OF_THEIR_OWN:
                arrays[identifier] = self._make(instruction, around, here)
                continue
            else:
                operands, is_received = self._everything(instruction), False
            if shape.is_tuple:
                each = [(one,) for one in operands] if is_received else [operands] * len(shape.leaves)
                arrays[identifier] = self._add(instruction, each, fusion, here, hands_on=is_received)
                continue
            if opcode in made_once and identifier not in written and self._from_nothing.issuperset(operands):
                arrays[identifier] = self._make_once(instruction, operands, fusion, here)
                continue
            number = len(nodes)
            nodes.append(Node(number, instruction, (), shape, operands, [], fusion, here, is_received))
            arrays[identifier] = (number,)
        return arrays[root.id]

    def _everything(self, instruction: Instruction) -> Arrays:
        """All arrays that an instruction is given: most have one or two operands."""
        arrays, operands = self.arrays, instruction.operand_ids
        if not operands:
            return ()
        if len(operands) == 2:
            return arrays[operands[0]] + arrays[operands[1]]
        if len(operands) == 1:
            return arrays[operands[0]]
        return tuple(chain.from_iterable([arrays[operand] for operand in operands]))

    def _make_once(self, instruction: Instruction, operands: Arrays, fusion: int | None, here: int) -> Arrays:
        """What a fusion makes of nothing: the node of another that makes the same, if there is one."""
        what = instruction.fingerprint, instruction.op_name, operands
        made = self._once.get(what)
        if made is None:
            made = self._once[what] = self._add(instruction, [operands], fusion, here, hands_on=False)
            self._from_nothing.update(made)
        return made

    def _make(self, instruction: Instruction, around: _Around, here: int) -> Arrays:
        """The nodes of an instruction whose results are not just computed from all operands."""
        opcode, fusion = instruction.opcode, around.fusion
        if opcode == "parameter":  # of the entry computation
            return self._add(instruction, [()] * len(instruction.shape.leaves), fusion, here, hands_on=False)
        operands = [self.arrays[operand] for operand in instruction.operand_ids]
        if opcode == "fusion":
            inside = _Around(operands, fusion or instruction.id, here)
            return self._hand_on(instruction, self._enter(instruction.called_computation_ids[0], inside), fusion, here)
        if opcode == "get-tuple-element":
            given = self._element(instruction.operand_ids[0], instruction.tuple_index or 0)
            return self._hand_on(instruction, given, fusion, here)
        if opcode == "tuple":
            return self._hand_on(instruction, self._everything(instruction), fusion, here)
        if opcode == "call":
            inside = _Around(parameters=operands, fusion=fusion, position=around.position)
            return self._hand_on(instruction, self._enter(instruction.called_computation_ids[0], inside), fusion, here)
        if opcode == "while":
            return self._enter_loop(instruction, operands[0], fusion, here)
        if opcode == "conditional":
            self.selectors.add(self.named_first(operands[0][0]))
            branches = [
                self._enter(branch, _Around(parameters=[given]))
                for branch, given in zip(instruction.called_computation_ids, operands[1:], strict=True)
            ]
            return self._add(instruction, list(zip(*branches, strict=True)), fusion, here, hands_on=True)
        if opcode == "async-start" and instruction.called_computation_ids:
            return self._begin_call(instruction, around, here)
        if opcode in _ENDS:
            element = _ENDS[opcode]
            given = operands[0] if element is None else self._element(instruction.operand_ids[0], element)
            return self._hand_on(instruction, given, fusion, here)
        if opcode in _HANDS_ON and operands:
            given = self.module.instructions[instruction.operand_ids[0]].shape
            if given is instruction.shape or given.indices == instruction.shape.indices:
                return self._hand_on(instruction, operands[0], fusion, here)
        if opcode in STARTS:
            return self._begin_collective(instruction, fusion, here)
        everything = self._everything(instruction)
        piecewise = opcode in PIECEWISE and len(operands) > 1
        given = [(each,) for each in everything] if piecewise else [everything] * len(instruction.shape.leaves)
        made = self._add(instruction, given, fusion, here, hands_on=False)
        if opcode in SUMS:
            self.sums += made
        return made

    def _hand_on(self, instruction: Instruction, given: Arrays, fusion: int | None, here: int) -> Arrays:
        """Each of the arrays under another name."""
        if len(given) == 1 and not instruction.shape.is_tuple:
            number = len(self.nodes)
            self.nodes.append(Node(number, instruction, (), instruction.shape, given, [], fusion, here, True))
            return (number,)
        return self._add(instruction, [(each,) for each in given], fusion, here, hands_on=True)

    def _add(
        self, instruction: Instruction, operands: Sequence[Arrays], fusion: int | None, here: int, *, hands_on: bool
    ) -> Arrays:
        """A node for each array of an instruction, computed from the operands in its place."""
        first = len(self.nodes)
        self.nodes += [
            Node(number, instruction, index, shape, given, [], fusion, here, hands_on)
            for number, ((index, shape), given) in enumerate(
                zip(instruction.shape.leaves, operands, strict=True), first
            )
        ]
        return tuple(range(first, len(self.nodes)))

    def _element(self, identifier: int, element: int) -> Arrays:
        """The arrays of one element of a tuple."""
        starts = self.module.instructions[identifier].shape.starts
        return self.arrays[identifier][starts[element] : starts[element + 1]]

    def _enter_loop(self, instruction: Instruction, initial: Arrays, fusion: int | None, here: int) -> Arrays:
        nodes, instructions = self.nodes, self.module.instructions
        computations = [self.module.computations[called] for called in instruction.called_computation_ids]
        left = [self._enter(computation.id, _Around(parameters=[initial])) for computation in computations]
        received = [
            next(self.arrays[each] for each in computation.instruction_ids if instructions[each].opcode == "parameter")
            for computation in computations
        ]
        body = next(
            number
            for number, computation in enumerate(computations)
            if instructions[computation.root_id].shape.indices == instruction.shape.indices
        )
        self.selectors.update(self.named_first(root[0]) for number, root in enumerate(left) if number != body)
        # What one turn leaves is what the next receives; what the body hands on untouched is the same array all the time.
        states = list(zip(received[body], left[body], initial, strict=True))
        carried = [not self._is_handed_on(after, state) for state, after, _ in states]
        for arrays in received:
            for node, is_carried, (state, after, _) in zip(arrays, carried, states, strict=True):
                if is_carried:
                    nodes[node].operands = (*nodes[node].operands, after)
                    if after >= node:
                        self.way_round.append((after, node))
                    self.loop_state[node] = state
        operands = [
            (after, before) if is_carried else (before,)
            for is_carried, (_, after, before) in zip(carried, states, strict=True)
        ]
        made = self._add(instruction, operands, fusion, here, hands_on=True)
        for node, is_carried, (state, after, _) in zip(made, carried, states, strict=True):
            if is_carried:
                self.loop_state[node] = state
                self.next_version.setdefault(self.named_first(after), state)
        return made

    def _is_handed_on(self, node: int, received: int) -> bool:
        """Whether a node is what a computation received, under other names."""
        while self.nodes[node].hands_on and len(self.nodes[node].operands) == 1:
            if node == received:
                return True
            node = self.nodes[node].operands[0]
        return False

    def _begin_call(self, instruction: Instruction, around: _Around, here: int) -> Arrays:
        """A computation that begins: part 0 are its operands under another name, part 1 its results."""
        called = self.module.computations[instruction.called_computation_ids[0]]
        operands = [self.arrays[operand] for operand in instruction.operand_ids]
        self._enter(called.id, _Around(parameters=operands, fusion=around.fusion, position=around.position))
        known = dict(self._in_place((1,), called.root_id))
        for number, operand in enumerate(instruction.operand_ids):
            known |= self._in_place((0, number), operand)
        return self._begin(instruction, known, {}, around.fusion, here)

    def _begin_collective(self, instruction: Instruction, fusion: int | None, here: int) -> Arrays:
        """A collective that begins: part 0 are its operands under another name, part 1 its results."""
        known: dict[ShapeIndex, int] = {}
        computed: dict[ShapeIndex, int] = {}
        for number, operand in enumerate(instruction.operand_ids):
            place = (number,) if len(instruction.operand_ids) > 1 else ()
            known |= self._in_place((0, *place), operand)
            computed |= self._in_place((1, *place), operand)
        return self._begin(instruction, known, computed, fusion, here)

    def _in_place(self, place: ShapeIndex, identifier: int) -> dict[ShapeIndex, int]:
        """The nodes of an instruction that is one element, at ``place``, of what another makes."""
        shape = self.module.instructions[identifier].shape
        return {(*place, *index): node for index, node in zip(shape.indices, self.arrays[identifier], strict=True)}

    def _begin(
        self,
        instruction: Instruction,
        known: Mapping[ShapeIndex, int],
        computed: Mapping[ShapeIndex, int],
        fusion: int | None,
        here: int,
    ) -> Arrays:
        """An instruction that hands on the nodes of some of its places and computes others each from a node."""
        first = len(self.nodes)
        for index, shape in instruction.shape.leaves:
            source = known.get(index, computed.get(index))
            operands = () if source is None else (source,)
            self.nodes.append(
                Node(len(self.nodes), instruction, index, shape, operands, [], fusion, here, index in known)
            )
        return tuple(range(first, len(self.nodes)))
