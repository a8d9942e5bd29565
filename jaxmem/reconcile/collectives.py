"""What devices hand one another: each array by what it was made from, and of the size that this makes of it.

The opcode alone explains nothing. What was gathered must be an argument, or a value, of which the formula speaks, at its whole
size; what was added up, or packed to be, must consist of gradients or other values that the formula names, each at the size
it has on one device or at its whole size, and the parts must make up the buffer.
"""

from jaxmem.formula import Leaf
from jaxmem.layer_table import EXCHANGING
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Name
from jaxmem.reconcile.exchanged import SpokenOf
from jaxmem.roles import Role


def explain_collectives(book: Book) -> None:
    """What came from other devices, or goes to them: parameters gathered for the forward pass, and all that no formula has."""
    spoken_of = SpokenOf(book)
    _explain_gathered(book, spoken_of)
    _explain_asked_for(book)
    _explain_what_is_sent(book, spoken_of)
    _explain_parts(book, spoken_of)
    for identifier in list(book.open):
        buffer = book.evidence.buffers[identifier]
        node = book.evidence.attributions[identifier].node
        if book.role(buffer) is not Role.COLLECTIVES or node is None:
            continue
        found = spoken_of.explanation(node)
        if found is not None:
            kind, sent, text = found
            book.row_of(buffer).add(
                kind, book.settle(buffer), buffer=book.evidence.label(buffer), instruction=sent, formula=text
            )


def _explain_asked_for(book: Book) -> None:
    """Collectives that the program itself calls, under JAX's own names: each result is a leaf, each leaf serves once."""
    evidence, dataflow = book.evidence, book.evidence.facts.dataflow
    waiting: dict[Name, list[Leaf]] = {}
    is_open = any(buffer.id in book.open for buffer in evidence.held_as[Role.COLLECTIVES])
    for leaf in book.formula.leaves if is_open else ():
        if leaf.primitive in EXCHANGING and leaf.role is not Role.COLLECTIVES:
            waiting.setdefault((leaf.layer, leaf.primitive, leaf.elements), []).append(leaf)
    for identifier in list(book.open) if waiting else ():
        buffer = evidence.buffers[identifier]
        node = evidence.attributions[identifier].node
        if node is None or book.role(buffer) is not Role.COLLECTIVES:
            continue
        claimed = book.claimed.get(evidence.number(node))  # in whatever layer it is here
        name = (claimed.layer, claimed.primitive, claimed.elements) if claimed is not None else None
        leaves = waiting.get(name or evidence.name(dataflow.nodes[dataflow.origins[node]]), [])
        whole = book.open[identifier] == buffer.logical_bytes
        alike = (each for each in leaves if each.bytes == buffer.logical_bytes or book.forms(each, buffer))
        leaf = next(alike, None) if whole else None
        if leaf is None:
            continue
        leaves.remove(leaf)
        held, label = book.settle(buffer), evidence.label(buffer)
        if leaf.counted:
            book.without_value = [each for each in book.without_value if each is not leaf]
            row, role = book.row(leaf.role, leaf.layer), str(Role.COLLECTIVES)
            row.add("counted under another role", -leaf.bytes, buffer=label, role=role, formula=leaf.text)
        book.row_of(buffer).add("asked for by the program", held, buffer=label, formula=leaf.text)


def _explain_what_is_sent(book: Book, spoken_of: SpokenOf) -> None:
    """What one device has of a sum over all: its part of a result of the program, a loss, or an array that it alone gives."""
    evidence = book.evidence
    for identifier in list(book.open):
        buffer = evidence.buffers[identifier]
        node = evidence.attributions[identifier].node
        collective = evidence.sum_ahead(node) if node is not None else None
        if node is None or collective is None:
            continue
        given = spoken_of.explanation(collective.index) if evidence.given_part(collective) is not None else None
        summed = book.claimed.get(evidence.number(collective.index))
        same_size = collective.elements == evidence.elements(buffer)
        leaf = spoken_of.result(evidence.facts.dataflow.nodes[node])
        if leaf is not None:
            text = leaf.text
        elif summed is not None and same_size:
            text = summed.text
        elif given is not None:
            text = given[2]
        else:
            continue
        book.row_of(buffer).add(
            "awaits the sum over devices",
            book.settle(buffer),
            buffer=evidence.label(buffer),
            instruction=collective.instruction.name,
            formula=text,
        )


def _explain_parts(book: Book, spoken_of: SpokenOf) -> None:
    """What one device has of an array that all of them have whole, or have put together."""
    evidence = book.evidence
    for identifier in list(book.open):
        buffer = evidence.buffers[identifier]
        node = evidence.attributions[identifier].node
        if book.role(buffer) not in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT) or node is None:
            continue
        part = spoken_of.part(evidence.facts.dataflow.nodes[node])
        if part is not None:
            whole, leaf = part
            book.row_of(buffer).add(
                "part of one device",
                book.settle(buffer),
                buffer=evidence.label(buffer),
                instruction=whole,
                formula=leaf.text,
            )


def _explain_gathered(book: Book, spoken_of: SpokenOf) -> None:
    """Counted leaves, each matched by the parameter that it is the whole of."""
    holders: dict[str, list[Buffer]] = {}
    for buffer in book.evidence.held_as[Role.COLLECTIVES]:
        node = book.evidence.attributions[buffer.id].node
        path = spoken_of.gathered_path(node) if node is not None else None
        if path is not None:
            holders.setdefault(path, []).append(buffer)
    for leaf in book.leaves_as[Role.COLLECTIVES]:
        if not leaf.counted:
            continue
        found = holders.get(leaf.path, [])
        if found:
            book.match(leaf, found)
        elif not spoken_of.is_gathered(leaf.path):
            book.row(leaf.role, leaf.layer).add("used in parts", -leaf.bytes, argument=leaf.path, formula=leaf.text)
