"""Gradients, each by the parameter it is the gradient of."""

from collections import Counter
from collections.abc import Iterable

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.roles import Role

_Key = tuple[str, bool]
"""(path of the parameter, the gradient is a sum that a loop carries)."""


def explain_gradients(book: Book) -> None:
    """Matched by the parameter they are the gradient of, the sum that a loop carries apart from the gradient of one turn."""
    evidence = book.evidence
    holders: dict[_Key, list[Buffer]] = {}
    for buffer in book.profile.buffers:
        attribution = evidence.attributions[buffer.id]
        if attribution.role is Role.GRADIENTS and attribution.node is not None:
            output = evidence.facts.gradient_of[attribution.node]
            if output is not None:
                summed = evidence.is_summed_in_loop(evidence.facts.dataflow.nodes[attribution.node])
                holders.setdefault((book.outputs[output].parameter_path, summed), []).append(buffer)
    made = _made(book)
    known = {path for path, _ in [*holders, *(key for key, _ in made)]}
    carried = {key for key in [*holders, *(key for key, _ in made)] if key[1]}
    leaves = Counter((leaf.path, _is_carried(leaf)) for leaf in book.formula.leaves if leaf.role is Role.GRADIENTS)
    for leaf in book.formula.leaves:
        if leaf.role is not Role.GRADIENTS:
            continue
        key = leaf.path, _is_carried(leaf) and (leaf.path, True) in carried
        found = _without_sums(book, leaf, holders.get(key, []))
        if leaves[leaf.path, _is_carried(leaf)] > 1:
            # Made in a branch, and handed on by it: each is asked for the buffers of its own operation.
            found = [buffer for buffer in found if evidence.operation_in(buffer) == leaf.primitive] or found
        values = made.get((key, leaf.elements), {})
        held = any(evidence.elements(buffer) == leaf.elements for buffer in found)
        fused = not held and all(evidence.fusions_around(value) for value in values)
        if leaf.counted and values and fused:
            value = next(iter(values))
            if leaf.bytes in values.pop(value):
                fusions = evidence.fusions_around(value)
                book.row(leaf.role, leaf.layer).add("fused away", -leaf.bytes, instruction=fusions, formula=leaf.text)
        elif leaf.counted and not found and leaf.path not in known:
            book.without_value.append(leaf)
        elif leaf.counted:
            book.match(leaf, found)
        else:
            book.alive_at_the_peak(leaf, found)


def _made(book: Book) -> dict[tuple[_Key, int], dict[int, set[int]]]:
    """(gradient, elements) → the values that are it, each with its sizes in bytes; sums over the devices apart."""
    evidence, found = book.evidence, {}
    for node in evidence.facts.dataflow.nodes:
        output = evidence.facts.gradient_of[node.index]
        if output is not None and not node.hands_on and evidence.sum_of(node) is None:
            key = book.outputs[output].parameter_path, evidence.is_summed_in_loop(node)
            sizes = found.setdefault((key, node.elements), {}).setdefault(evidence.number(node.index), set())
            sizes.add(node.shape.logical_bytes)
    return found


def _is_carried(leaf: Leaf) -> bool:
    """Whether a loop may carry a gradient from turn to turn: a sum over its turns, or a stack of what they make."""
    return leaf.primitive in ("while", "dynamic_update_slice")


def _without_sums(book: Book, leaf: Leaf, holders: Iterable[Buffer]) -> list[Buffer]:
    """The buffers that hold a gradient as the update reads it. Those before the sum over the devices are explained."""
    complete = []
    for buffer in holders:
        node = book.evidence.attributions[buffer.id].node
        collective = book.evidence.sum_of(book.evidence.facts.dataflow.nodes[node]) if node is not None else None
        if node is None or collective is None:
            complete.append(buffer)
            continue
        if book.evidence.elements(buffer) != leaf.elements * leaf.divided_over:
            continue  # before it is divided a gradient is whole on every device; anything else is left open
        before = book.evidence.facts.awaits_sum[node] is not None
        book.row_of(buffer).add(
            "awaits the sum over devices" if before else "whole before it is divided",
            book.settle(buffer),
            buffer=book.evidence.label(buffer),
            instruction=collective.instruction.name,
            formula=leaf.text,
        )
    return complete
