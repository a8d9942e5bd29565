"""What the formula leaves out: the capture asks for leaves.

The ledger explains the leaves that there are. A leaf that is missing leaves its buffer open where XLA holds it at the peak;
where it does not, nobody would miss it. So every argument, every result, every gradient, every convolution, matrix product
and pooling, and every array that the backward pass reads of the forward pass must be spoken of by some leaf, counted or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from jaxmem.attribution.dataflow import Node
from jaxmem.formula.equal import MOVEMENT
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Evidence
from jaxmem.roles import Phase, Role

_LAYER_OPERATIONS = frozenset({"convolution", "dot", "reduce-window", "select-and-scatter"})
"""Opcodes of the operations that layers are made of; the compiler never invents one under a layer's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An array of the compiled program of which the formula does not speak. ``what`` names it in the ledger."""

    role: Role
    layer: str
    size_bytes: int
    what: str


def left_out(book: Book) -> Iterator[LeftOut]:
    """The arrays that the formula should speak of and does not. None of them is held by a buffer at the peak.

    Operations other than those of whose values a leaf speaks are compared by layer and primitive alone: the compiler may change
    shapes, and do one operation twice.
    """
    yield from _arguments_left_out(book)
    yield from _results_left_out(book)
    yield from _gradients_left_out(book)
    yield from _operations_left_out(book)


def _arguments_left_out(book: Book) -> Iterator[LeftOut]:
    evidence, outputs = book.evidence, book.outputs
    known = {leaf.path for leaf in book.formula.leaves if leaf.elements and not leaf.primitive}
    for node in _live_nodes(evidence):
        argument, output = evidence.facts.argument[node], evidence.facts.output_of(node)
        if argument is not None:
            known.add(argument.path)
        elif output is not None and (replaced := outputs[output].argument_index) is not None:
            known.add(book.arguments[replaced].path)
    for argument in book.arguments:
        received = argument.parameter_number is not None and argument.elements
        if received and argument.path not in known:
            yield LeftOut(
                role=argument.role, layer=argument.layer, size_bytes=argument.logical_bytes, what=argument.path
            )


def _results_left_out(book: Book) -> Iterator[LeftOut]:
    """A result has memory from the start, and shows there unless another buffer uses it at the peak."""
    evidence = book.evidence
    spoken_of = {leaf.path for leaf in book.formula.leaves if leaf.is_result}
    for buffer in evidence.held_as[Role.OUTPUTS]:
        node = evidence.attributions[buffer.id].node
        position = evidence.facts.output_of(node) if node is not None else None
        if position is None:
            continue
        output = book.outputs[position]
        if output.path not in spoken_of and (lent := evidence.lent_bytes(buffer)):
            spoken_of.add(output.path)
            yield LeftOut(role=output.role, layer=output.layer, size_bytes=lent, what=output.path)


def _gradients_left_out(book: Book) -> Iterator[LeftOut]:
    evidence, outputs = book.evidence, book.outputs
    known = {leaf.path for leaf in book.leaves_as[Role.GRADIENTS]} | {
        outputs[output].parameter_path
        for node in _live_nodes(evidence)
        if (output := evidence.facts.gradient_of[node]) is not None
    }
    for position in sorted({output for output in evidence.facts.gradient_of if output is not None}):
        output = outputs[position]
        if output.parameter_path not in known:
            known.add(output.parameter_path)
            yield LeftOut(
                role=Role.GRADIENTS,
                layer=output.layer,
                size_bytes=output.logical_bytes,
                what=f"gradient of {output.parameter_path}",
            )


def _live_nodes(evidence: Evidence) -> Iterator[int]:
    """The nodes whose numbers the buffers hold that are live at the peak."""
    for buffer in evidence.profile.buffers:
        node = evidence.attributions[buffer.id].node
        if node is not None and evidence.is_live(buffer):
            yield node


def _operations_left_out(book: Book) -> Iterator[LeftOut]:
    formula, evidence = book.formula, book.evidence
    spoken_of = {(leaf.layer, leaf.primitive) for leaf in formula.leaves}
    table = formula.table
    known = {operation.primitive for operation in table.operations} if table is not None else None
    for node, role in _operations(evidence):
        layer, given, _ = evidence.name(evidence.gather_before(node) or node)
        if not given or given in MOVEMENT or (known is not None and given not in known):
            continue  # no leaf has the name of a mere movement, or of what JAX lowers another operation to
        if (layer, given) in spoken_of:
            continue
        value = evidence.number(node.index)
        # The array that a loop carries is the one whose next version a leaf speaks of.
        if any(each in book.claimed for each in (value, *evidence.next_versions.get(value, ()))):
            continue
        if (whole := evidence.cut_from(node)) is not None and evidence.number(whole.index) in book.claimed:
            continue
        if not evidence.is_the_operation(node) or evidence.result_of(node) is not None:
            continue
        if not all(map(evidence.is_the_operation, evidence.nodes_of[value])):
            continue  # elsewhere it is an operand of the operation that it is named after
        if evidence.has_layer_of_neighbour(value) and (given, evidence.place(node)) in book.places:
            continue  # no scope names its layer, and the formula has it in another one
        if any(map(evidence.is_live, evidence.holders.get(value, ()))):
            continue
        spoken_of.add((layer, given))
        size_bytes = node.shape.logical_bytes
        yield LeftOut(role=role, layer=layer, size_bytes=size_bytes, what=given)


def _operations(evidence: Evidence) -> Iterator[tuple[Node, Role]]:
    """Origins under JAX's own names: what layers are made of, and what the backward pass reads of the forward pass."""
    facts, dataflow = evidence.facts, evidence.facts.dataflow
    phases, origins = facts.phase, dataflow.origins
    forward, backward = Phase.FORWARD, Phase.BACKWARD
    operands = (operands for operands, phase in zip(dataflow.operands, phases, strict=True) if phase is backward)
    read_backward = set(map(origins.__getitem__, chain.from_iterable(operands)))
    for node, phase, origin in zip(dataflow.nodes, phases, origins, strict=True):
        if phase is not forward or origin != node.index or not node.instruction.op_name:
            continue
        is_saved = origin in read_backward and facts.argument[origin] is None
        if is_saved or node.instruction.opcode in _LAYER_OPERATIONS:
            yield node, Role.SAVED_ACTIVATIONS if is_saved else Role.TRANSIENT
