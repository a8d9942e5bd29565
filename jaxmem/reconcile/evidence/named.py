"""Which values a compiled program computes, under the names that the formula has for them.

A value is named by its layer, the operation that makes it, and its number of elements. Equal computations are one value,
however often XLA repeats them, so that two leaves of the formula need two values.
"""

from collections.abc import Sequence
from functools import cached_property

from jaxmem.attribution.collectives import COLLECTIVES, HANDED_OVER
from jaxmem.attribution.dataflow import ELEMENTWISE, MOVES, Node
from jaxmem.attribution.facts import primitive
from jaxmem.attribution.layers import GRADIENTS_LAYER, NEIGHBOURS_LAYER, SCOPES_LAYER
from jaxmem.formula.equal import MOVEMENT
from jaxmem.profile import Buffer
from jaxmem.reconcile.evidence.lowered import Lowered, gathers
from jaxmem.reconcile.evidence.told import XLA_NAMES, is_around
from jaxmem.roles import Phase

Name = tuple[str, str, int]
"""(layer, primitive, elements)."""

Kind = tuple[str, int]
"""(primitive, elements)."""

Place = tuple[str, tuple[str, ...] | None]
"""(primitive, where it stands in the program, as `jaxmem.layer_paths.place` has it; None where XLA does not say)."""

OPCODE_PRIMITIVE = {"dot": "dot_general", "convolution": "conv_general_dilated"}
"""For the instructions that XLA rewrites without keeping their name."""

_REDUCTIONS = {"add": "reduce_sum", "maximum": "reduce_max", "minimum": "reduce_min", "multiply": "reduce_prod"}
"""What a nameless ``reduce`` does, by the operation that it repeats."""

_OF_OTHERS = NEIGHBOURS_LAYER | {GRADIENTS_LAYER}
"""Rules that give a node the layer of others: the operation that it is may be another layer's."""

_LIBRARY_CALLS = {"__cublas": "dot", "__cudnn$conv": "convolution"}
"""How the targets of custom calls begin that do the work of an instruction (`xla/service/gpu/cublas_cudnn.h`)."""

_PUT_TOGETHER = {"add": "cumsum", "maximum": "cummax", "minimum": "cummin", "multiply": "cumprod"}
"""What a nameless ``map`` is, by the operation that it does: of a long running sum in 16 bits XLA makes two windows, a short
and a long one, which that puts together."""

_RUNNING = {"reduce_window_sum": "cumsum", "reduce_window_max": "cummax", "reduce_window_min": "cummin"}
"""Windows to which JAX's lowering of running sums comes down, under their names."""


HELPERS = {"broadcast": "broadcast_in_dim", "convert": "convert_element_type", "iota": "iota"}
"""Opcodes that JAX's lowering of any operation may use beside the real one, and the primitive that each really is."""

_MAY_BE_ANOTHERS = HELPERS.keys() | {"reduce", "slice", "pad", "concatenate"}
"""Opcodes that another operation's name may stand on: one of which they are a part, or for which they are made."""


_LATE = frozenset({Phase.BACKWARD, Phase.UPDATE})
_NOT_BACKWARD = frozenset(Phase) - {Phase.BACKWARD}


class Named(Lowered):
    """The values of one compiled program by name."""

    @property
    def values_named(self) -> dict[Name, list[int]]:
        """Name → the different values that carry it, in the order of the schedule."""
        return self._called[0]

    @property
    def names_of(self) -> dict[int, Sequence[Name]]:
        """Value → the names that it carries."""
        return self._called[1]

    @property
    def places_of(self) -> dict[int, set[Place]]:
        """Value → the operations that it is called, each with where it stands."""
        return self._called[2]

    @cached_property
    def _called(self) -> tuple[dict[Name, list[int]], dict[int, Sequence[Name]], dict[int, set[Place]]]:
        named: dict[Name, list[int]] = {}
        names_of: dict[int, Sequence[Name]] = {}
        places: dict[int, set[Place]] = {}
        for value, nodes in sorted(self.nodes_of.items(), key=lambda pair: (pair[1][0].position, pair[1][0].index)):
            names: dict[Name, None] = {}
            own = places[value] = set()
            for node in nodes:
                if not self.is_the_operation(node):
                    continue
                for name in self._names(node):
                    names[name] = None
                    for same in self.handed_on_by_loop.get(node.index, (node,)):
                        own.add((name[1], self.place(same)))
            names_of[value] = tuple(names)
            for name in names:
                named.setdefault(name, []).append(value)
        return named, names_of, places

    @cached_property
    def names_beside(self) -> dict[Kind, list[Name]]:
        """Operation and size → all names of that operation and size, whatever their layers, and those that values carry beside
        one of these."""
        groups: dict[Kind, dict[Name, None]] = {}
        for name in self.values_named:
            groups.setdefault(name[1:], {})[name] = None
        for names in self.names_of.values():
            if len(names) > 1:
                first, *others = dict.fromkeys(name[1:] for name in names)
                for other in others:
                    if groups[other] is not groups[first]:
                        groups[first].update(groups[other])
                        for kind in {name[1:] for name in groups[other]}:
                            groups[kind] = groups[first]
        return {kind: list(names) for kind, names in groups.items()}

    @cached_property
    def values_at(self) -> dict[Place, list[int]]:
        """Operation and place → the different values that carry that name, of whatever size, in the order of the schedule."""
        found: dict[Place, list[int]] = {}
        for value in self.nodes_of:
            for name in self.places_of[value]:
                found.setdefault(name, []).append(value)
        return found

    def place(self, node: Node) -> tuple[str, ...] | None:
        """Where in the program a node's operation stands; None where XLA has made it without a name."""
        told = self.told(node.instruction.op_name)
        return told.place if not told.is_nameless or node.instruction.opcode in ("while", "conditional") else None

    def values_in_other_shapes(self, layer: str, given: str) -> dict[int, list[int]]:
        """Elements → the values in tiled layouts that carry a layer and an operation as their name.

        Only a compiler that tiles its layouts cuts an operation into pieces of another shape; elsewhere an array of another
        size is another array.
        """
        found = {}
        for elements in self._sizes_named.get((layer, given), ()):
            values = self.values_named[layer, given, elements]
            if tiled := [value for value in values if self.nodes_of[value][0].shape.tiles]:
                found[elements] = tiled
        return found

    @cached_property
    def _sizes_named(self) -> dict[tuple[str, str], list[int]]:
        """(layer, primitive) → the numbers of elements of the values that carry that name."""
        found: dict[tuple[str, str], list[int]] = {}
        for layer, given, elements in self.values_named:
            found.setdefault((layer, given), []).append(elements)
        return found

    def has_layer_of_neighbour(self, value: int) -> bool:
        """Whether nothing says whose a value is but the layer of what it is made from, of what reads it, or becomes of it."""
        return all(self.facts.layer_rule[node.index] in _OF_OTHERS for node in self.nodes_of[value])

    @cached_property
    def layers_of_scopes(self) -> frozenset[str]:
        """Layers that scopes name: an operation in one of them is in no other."""
        rules = zip(self.facts.layer, self.facts.layer_rule, strict=True)
        return frozenset(layer for layer, rule in rules if rule == SCOPES_LAYER)

    def is_of_pass(self, value: int, *, backward: bool) -> bool:
        """Whether a value may be one of the backward pass by an instruction that computes it, or one that is not.

        What the compiler has made under a name of its own, of gradients, looks like the update.
        """
        of_pass, phases = _LATE if backward else _NOT_BACKWARD, self.facts.phase
        return any(phases[node.index] in of_pass for node in self.nodes_of[value])

    def fusions_around(self, value: int) -> tuple[str, ...]:
        """The fusions inside which a value is computed; empty if any instruction outside a fusion computes it."""
        nodes = self.nodes_of.get(value, [])
        if not nodes or any(node.fusion is None for node in nodes):
            return ()
        instructions = self.profile.module.instructions
        return tuple(sorted({instructions[node.fusion].name for node in nodes if node.fusion is not None}))

    @cached_property
    def results(self) -> frozenset[int]:
        """Values that the program returns, under whatever name."""
        return self._values_of(self.facts.are_outputs)

    @cached_property
    def carried_state(self) -> frozenset[int]:
        """Values that are the state of an argument which a loop hands from turn to turn."""
        return self._values_of(self.facts.carried_arguments)

    @cached_property
    def gradients(self) -> dict[int, set[int]]:
        """Value → the places among the program's results of whose parameters it is the gradient."""
        found: dict[int, set[int]] = {}
        for node, output in enumerate(self.facts.gradient_of):
            if output is not None:
                for value in self._values_of((node,)):
                    found.setdefault(value, set()).add(output)
        return found

    @cached_property
    def exchanges(self) -> bool:
        """Whether devices exchange anything."""
        return any(node.instruction.opcode in COLLECTIVES for node in self._dataflow.nodes)

    def is_the_operation(self, node: Node) -> bool:
        """Whether a node is the operation it is named after, not a cast, a broadcast or borders made for its sake."""
        opcode, name = node.instruction.opcode, node.instruction.op_name
        if not self.facts.depends[node.index] or opcode in HANDED_OVER:
            return False
        if gathers(node) and any(self.gather_ended_by(reader) is node for reader in self.readers(node.index)):
            return False
        if opcode not in _MAY_BE_ANOTHERS:
            return True
        if (opcode == "reduce" and self.is_added_up_next(node)) or self.is_cut_to_be_sent(node):
            return False
        if opcode == "concatenate" and (self.is_index_of_next(node) or self.facts.is_rejoined(node)):
            return False
        helper_of = "pad" if opcode == "pad" else HELPERS.get(opcode)
        if helper_of is None or primitive(name) == helper_of:
            return True
        return all(
            reader.instruction.op_name != name or reader.instruction.opcode in MOVES
            for reader in self._dataflow.readers(node.index)
        )

    def is_cut_to_be_sent(self, node: Node) -> bool:
        """Whether a slice is a piece to be sent to a device, under the name of the operation that it is cut from or for."""
        name = node.instruction.op_name
        if node.instruction.opcode != "slice" or primitive(name) == "slice":
            return False
        whole = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]].instruction
        if whole.op_name == name and whole.opcode in ELEMENTWISE - MOVES:
            return True
        readers = [reader.instruction for reader in self.readers(node.index)]
        return bool(readers) and all(each.opcode in HANDED_OVER and each.op_name == name for each in readers)

    def name(self, node: Node) -> Name:
        """How the formula would name a node."""
        if node.index in self._dataflow.loop_state:
            given = "while"
        else:
            given = self.told(node.instruction.op_name).operation or self._made_out(node)
        return self.facts.layer[node.index], given, node.shape.elements

    def _made_out(self, node: Node) -> str:
        """The operation that an instruction does whose name does not tell it."""
        name = node.instruction.op_name
        given = "" if name in self._argument_names else primitive(name)
        if is_around(given) and node.instruction.opcode != "conditional":
            given = (
                ""  # what XLA has moved out of a loop or branch, or to the edge of a call, may go by the name of that
            )
        given = (self.function_ended_by(node) if given == "div" else "") or XLA_NAMES.get(given, given)
        if given in MOVEMENT and node.instruction.opcode in HELPERS:
            given = HELPERS[node.instruction.opcode]  # of a broadcast and a reshape XLA makes one broadcast
        if given and given not in MOVEMENT:
            return given
        # XLA has rewritten it without a name, or it has swallowed a transpose and taken the transpose's name.
        target = node.instruction.attributes.custom_call_target
        opcode = next((work for start, work in _LIBRARY_CALLS.items() if target.startswith(start)), "")
        opcode = opcode or node.instruction.opcode
        if opcode == "reduce" and (partial := self.partial_product(node)) is not None:
            opcode = partial.instruction.opcode
        given = OPCODE_PRIMITIVE.get(opcode, given)
        if opcode == "map" and not given:
            return _PUT_TOGETHER.get(self.repeats(node), "")
        return _REDUCTIONS.get(self.repeats(node), "") if opcode == "reduce" and not given else given

    def operation_in(self, buffer: Buffer) -> str:
        """The primitive that made what a buffer holds; empty where none did."""
        node = self.attributions[buffer.id].node
        return "" if node is None else self.name(self._dataflow.nodes[self._dataflow.origins[node]])[1]

    def place_in(self, buffer: Buffer) -> tuple[str, ...] | None:
        """Where in the program the operation stands that made what a buffer holds; None where XLA does not say."""
        node = self.attributions[buffer.id].node
        return None if node is None else self.place(self._dataflow.nodes[self._dataflow.origins[node]])

    def _names(self, node: Node) -> tuple[Name, ...]:
        """Its name, and that of an operation merged into it, or of which it is the end.

        Of ``scatter(0, i, u) + x`` XLA makes ``scatter(x, i, u)``.
        """
        name, opcode = self.name(node), node.instruction.opcode
        layer, given, elements = name
        if opcode == "scatter" and self.facts.depends[node.operands[0]]:
            return name, (layer, "add_any", elements)
        if opcode == "select" and self.gather_ended_by(node) is not None:
            return name, (layer, "gather", elements)
        whole = node
        if opcode == "slice" and self._is_nameless(node):
            whole = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]]  # it cuts the borders off
        if (running := _RUNNING.get(given) or _RUNNING.get(whole.instruction.op_name)) is not None:
            return name, (layer, running, elements)  # of a long window XLA makes two, whose sum goes by the name alone
        if given == "reduce" and node.shape_index == (1,):
            # JAX lowers it to a reduction of pairs, a number and its place; of its two results this is the place.
            return name, (layer, self.finds_place(node), elements)
        return (name,)

    def place_beside(self, node: Node) -> int | None:
        """For the largest or smallest number that a reduction of pairs finds, the value that is its place; None for others."""
        if primitive(node.instruction.op_name) != "reduce" or node.leaf[1] != (0,):
            return None
        place = self._dataflow.node_at((node.leaf[0], (1,)))
        return self.number(place) if place is not None else None

    def _is_nameless(self, node: Node) -> bool:
        """Whether the compiler made an instruction of its own accord: no name of JAX's, or only that of an argument."""
        return self.told(node.instruction.op_name).is_nameless

    def _is_summed_next(self, node: Node) -> bool:
        return any(
            reader.instruction.opcode == "reduce" and self.partial_product(reader) is node
            for reader in self._dataflow.readers(node.index)
        )

    @cached_property
    def library_calls(self) -> dict[tuple[str, int], list[str]]:
        """(layer, elements) → the library calls that write a result of that size."""
        found: dict[tuple[str, int], list[str]] = {}
        for node in self._dataflow.nodes:
            if node.instruction.opcode == "custom-call":
                found.setdefault((self.facts.layer[node.index], node.elements), []).append(node.instruction.name)
        return found

    def is_lowered_to_a_function(self, layer: str, given: str) -> bool:
        """Whether an operation of the program left no instruction under its own name: its lowering traced a function."""
        return (layer, given) not in self._sizes_named
