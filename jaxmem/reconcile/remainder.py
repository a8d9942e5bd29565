"""What no formula knows: padding, constants, copies, gaps; and what a formula must not leave out."""

from collections import Counter

from jaxmem.attribution import Attribution
from jaxmem.lowering import Argument
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.completeness import left_out
from jaxmem.roles import Role


def explain_padding(book: Book) -> None:
    """Padding is what a tiled layout adds, and nothing else.

    Where the formula has as much in that layer, the two are the same; an array that it has in another layout, or not at all,
    is left over on both sides.
    """
    expected = Counter((leaf.layer, leaf.bytes) for leaf in book.leaves_as[Role.PADDING])
    for identifier, size_bytes in book.account.padding.items():
        buffer = book.evidence.buffers[identifier]
        shape = book.profile.instruction(buffer).shape.subshape(buffer.leaf[1])
        if shape.tiles or shape.is_tuple:
            layer = book.evidence.attributions[identifier].layer
            row = book.row(Role.PADDING, layer)
            if expected[layer, size_bytes]:
                expected[layer, size_bytes] -= 1
                book.padded[layer, size_bytes] = book.padded.get((layer, size_bytes), 0) + 1
                continue
            row.add("layout padding", size_bytes, buffer=book.evidence.label(buffer), shape=shape.text())


def explain_what_no_formula_knows(book: Book) -> None:
    """Constants, copies of arguments, unread results, tables, gaps: rows whose formula is zero."""
    evidence = book.evidence
    for identifier in list(book.open):
        buffer = evidence.buffers[identifier]
        result = _result_in_another_order(book, buffer)
        if result is not None:
            book.row_of(buffer).add(
                "result in another order", book.settle(buffer), buffer=evidence.label(buffer), result=result
            )
            continue
        if (beside := _result_beside(book, buffer)) is not None:
            labels = (evidence.label(beside), evidence.label(buffer))
            book.row_of(buffer).add("kept twice", book.settle(buffer), buffer=labels)
            continue
        attribution = evidence.attributions[identifier]
        kind = _compiler_kind(book, buffer, attribution)
        if kind is not None:
            named: dict[str, str | tuple[str, ...]] = {"buffer": evidence.label(buffer)}
            if (argument := _argument_in(book, attribution)) is not None:
                named["argument"] = argument.path
            book.row_of(buffer).add(kind, book.settle(buffer), **named)
    _explain_idle(book)


def _result_in_another_order(book: Book, buffer: Buffer) -> str | None:
    """The path of the result that a buffer holds complete, on its way to the order or number format it is handed over in; None
    for others."""
    value = book.evidence.value(buffer)
    if book.role(buffer) is Role.OUTPUTS and (own := book.output_of(buffer)) is not None:
        later = (other for other in book.buffers_of_results[own.path] if other.start >= buffer.end)
        return own.path if any(other.allocation != buffer.allocation for other in later) else None
    if value is None or book.role(buffer) is not Role.TRANSIENT:
        return None
    for other in book.evidence.holders[value]:
        output = book.output_of(other)
        if output is not None and other.id != buffer.id and other.start >= buffer.start:
            return output.path
    return None


def _result_beside(book: Book, buffer: Buffer) -> Buffer | None:
    """The explained result or gradient, live at the peak, of which a buffer holds a copy for its readers; None for others."""
    value = book.evidence.value(buffer)
    if value is None or book.role(buffer) is not Role.TRANSIENT:
        return None
    for other in book.evidence.holders[value]:
        explained = other.id not in book.open and book.evidence.is_live(other)
        of_its_own = book.output_of(other) is not None or book.role(other) is Role.GRADIENTS
        if explained and other.id != buffer.id and of_its_own:
            return other
    return None


def _compiler_kind(book: Book, buffer: Buffer, attribution: Attribution) -> str | None:
    facts = book.evidence.facts
    instruction = book.profile.instruction(buffer)
    if instruction.opcode == "constant":
        return "depends on no argument"
    if attribution.node is None:
        return "table of pointers" if instruction.shape.subshape(buffer.leaf[1]).is_tuple else None
    if not facts.depends[attribution.node] and attribution.role is Role.CONSTANTS:
        return "depends on no argument"
    if attribution.role is not Role.WORKSPACE:
        return None
    if _argument_in(book, attribution) is not None:
        return "copy of an argument"
    node = facts.dataflow.nodes[attribution.node]
    if node.leaf[1] and not any(True for _ in facts.dataflow.readers(attribution.node)):
        return "scratch of a library call" if node.instruction.opcode == "custom-call" else "result nobody reads"
    return None


def _argument_in(book: Book, attribution: Attribution) -> Argument | None:
    """The argument of whose numbers a buffer holds all, or a part that the compiler has cut from it."""
    node = attribution.node
    return None if node is None else book.evidence.argument_in(node) or book.evidence.facts.cut_from(node)


def _explain_idle(book: Book) -> None:
    """Idle bytes are what nothing holds."""
    slots = {
        allocation.index: allocation
        for allocation in book.profile.allocations
        if allocation.is_entry_computation_parameter
    }
    paths = {argument.parameter_number: argument.path for argument in book.arguments}
    for segment, role in book.idle:
        if role is not Role.FRAGMENTATION:
            continue
        slot = slots.get(segment.allocation)
        row = book.row(Role.FRAGMENTATION)
        if slot is None:
            row.add(
                "gap between buffers",
                segment.size_bytes,
                allocation=segment.allocation,
                offset=segment.offset,
            )
        elif slot.is_parameter_aliased_with_output:
            row.add(
                "idle slot of a donated argument",
                segment.size_bytes,
                allocation=segment.allocation,
                argument=paths.get(slot.parameter_number, ""),
            )


def ask_for_what_is_left_out(book: Book) -> None:
    """An array that the formula should speak of is no part of a difference, and leaves its row open."""
    for missing in left_out(book):
        book.row(missing.role, missing.layer).add("not in the formula", missing.size_bytes, formula=missing.what)


def show_damage(book: Book) -> None:
    """What the assignment has lost or resized is no part of a difference either; idle memory does not stand for it."""
    instructions = book.profile.module.instructions
    for damage in book.profile.damage:
        book.row(Role.FRAGMENTATION).add(
            "damaged assignment",
            damage.size_bytes,
            instruction=instructions[damage.leaf[0]].name,
            shape_index=damage.leaf[1],
            found=damage.what,
        )
