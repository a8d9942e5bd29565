"""Gradients, each by the parameter it is the gradient of."""

from collections.abc import Iterable

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.roles import Role


def explain_gradients(book: Book) -> None:
    """Matched by the parameter they are the gradient of."""
    holders: dict[str, list[Buffer]] = {}
    for buffer in book.profile.buffers:
        attribution = book.evidence.attributions[buffer.id]
        if attribution.role is Role.GRADIENTS and attribution.node is not None:
            output = book.evidence.facts.gradient_of[attribution.node]
            if output is not None:
                holders.setdefault(book.outputs[output].parameter_path, []).append(buffer)
    instructions = book.profile.module.instructions
    becomes: dict[str, set[str]] = {}
    sizes: dict[str, set[int]] = {}
    outside: set[str] = set()
    for node in book.evidence.facts.dataflow.nodes:
        output = book.evidence.facts.gradient_of[node.index]
        if output is not None and not node.hands_on and book.evidence.sum_of(node) is None:
            path = book.outputs[output].parameter_path
            sizes.setdefault(path, set()).add(node.instruction.shape.subshape(node.leaf[1]).logical_bytes)
            if node.fusion is None:
                outside.add(path)
            else:
                becomes.setdefault(path, set()).add(instructions[node.fusion].name)
    for leaf in book.formula.leaves:
        if leaf.role is not Role.GRADIENTS:
            continue
        found = _without_sums(book, leaf, holders.get(leaf.path, []))
        if leaf.counted and not found and leaf.path in becomes and leaf.path not in outside:
            if leaf.bytes in sizes[leaf.path]:
                fusions = tuple(sorted(becomes.pop(leaf.path)))
                book.row(leaf.role, leaf.layer).add("fused away", -leaf.bytes, instruction=fusions, formula=leaf.text)
        elif leaf.counted:
            book.match(leaf, found)
        else:
            book.alive_at_the_peak(leaf, found)


def _without_sums(book: Book, leaf: Leaf, holders: Iterable[Buffer]) -> list[Buffer]:
    """The buffers that hold a gradient as the update reads it. Those before the sum over the devices are explained."""
    complete = []
    for buffer in holders:
        node = book.evidence.attributions[buffer.id].node
        collective = book.evidence.sum_of(book.evidence.facts.dataflow.nodes[node]) if node is not None else None
        if node is None or collective is None:
            complete.append(buffer)
            continue
        if buffer.logical_bytes not in (leaf.bytes, leaf.bytes * leaf.divided_over):
            continue  # another array than the leaf speaks of: left open
        before = book.evidence.facts.awaits_sum[node] is not None
        book.row_of(buffer).add(
            "awaits the sum over devices" if before else "whole before it is divided",
            book.settle(buffer),
            buffer=book.evidence.label(buffer),
            instruction=collective.instruction.name,
            formula=leaf.text,
        )
    return complete
