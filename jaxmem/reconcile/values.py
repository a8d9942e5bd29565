"""Feature maps and working set: leaves and buffers brought together by the value they speak of."""

from collections.abc import Mapping, Sequence

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Name
from jaxmem.roles import STATE_ROLES, Phase, Role

_HELD_ROLES = STATE_ROLES | {Role.INPUTS}
"""Roles whose values the caller hands over."""


def explain_values(book: Book) -> None:
    """What the program computes: leaves and buffers brought together by the value they speak of."""
    leaves = [
        leaf for leaf in book.formula.leaves if leaf.primitive and leaf.role not in (Role.GRADIENTS, Role.COLLECTIVES)
    ]
    value_of = _assign_values(book, leaves)
    book.claimed.update((value, leaves[index]) for index, value in value_of.items())
    absent, present = _explain_leaves(book, leaves, value_of)
    _explain_alive(book, leaves, value_of)
    _explain_computed_again(book, absent, present)
    _explain_made_on_the_way(book, leaves)


_LeafAndValue = tuple[Leaf, int]


def _explain_leaves(
    book: Book, leaves: Sequence[Leaf], value_of: Mapping[int, int]
) -> tuple[list[_LeafAndValue], list[_LeafAndValue]]:
    """Where each counted leaf is; returns what autodiff keeps and no buffer does, and what else the forward pass makes."""
    evidence, taken = book.evidence, frozenset(value_of.values())
    absent: list[_LeafAndValue] = []
    present: list[_LeafAndValue] = []
    in_calls: set[tuple[str, str]] = set()
    for index, leaf in enumerate(leaves):
        value = value_of.get(index)
        if value is None:
            if leaf.counted and not _explain_in_call(book, leaf, in_calls):
                book.without_value.append(leaf)
            continue
        holders = [b for b in _holders(book, value, taken) if book.role(b) not in _HELD_ROLES]
        if leaf.keeps and not any(map(evidence.is_made_before_backward, holders)):
            absent.append((leaf, value))
        elif leaf.phase is Phase.FORWARD:
            present.append((leaf, value))
        if leaf.counted and index in book.reshaped and not holders:
            book.row(leaf.role, leaf.layer).add(
                "another shape", -leaf.bytes, instruction=evidence.instruction_of(value), formula=leaf.text
            )
        elif leaf.counted:
            _explain_counted(book, leaf, value, holders)
    return absent, present


def _explain_alive(book: Book, leaves: Sequence[Leaf], value_of: Mapping[int, int]) -> None:
    """Buffers at XLA's peak of leaves that the formula has at another moment."""
    taken = frozenset(value_of.values())
    for index, leaf in enumerate(leaves):
        value = value_of.get(index)
        if value is not None:
            saved = leaf.keeps or leaf.phase is Phase.FORWARD  # XLA keeps what autodiff does not, and computes the rest
            allowed = (Role.SAVED_ACTIVATIONS, Role.TRANSIENT) if saved else (Role.TRANSIENT,)
            holders = [b for b in _holders(book, value, taken) if book.role(b) in allowed]
            book.alive_at_the_peak(leaf, holders)


def _explain_computed_again(book: Book, absent: Sequence[_LeafAndValue], present: Sequence[_LeafAndValue]) -> None:
    """Buffers from which the backward pass computes a leaf again."""
    evidence = book.evidence
    for kind, computed_again in (("kept instead", absent), ("kept beside", present)):
        for leaf, value in computed_again:
            sources = evidence.recomputed_from(value)
            for buffer, fusion in (*sources, *evidence.made_from(value)) if kind == "kept instead" else sources:
                if buffer.id in book.open and book.role(buffer) in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT):
                    book.row_of(buffer).add(
                        kind, book.settle(buffer), buffer=evidence.label(buffer), instruction=fusion, formula=leaf.text
                    )


def _explain_made_on_the_way(book: Book, leaves: Sequence[Leaf]) -> None:
    """Buffers that are no leaf: what the compiler makes on the way to one, and what JAX lowers an operation to."""
    # On the way to a gradient is on the way to something the formula names, too.
    named = {(leaf.layer, leaf.primitive, leaf.elements): leaf for leaf in book.formula.leaves if leaf.primitive}
    by_operation = {(name[0], name[1]): leaf for name, leaf in named.items()}
    # A leaf that is there in its own shape may have pieces beside it.
    named_at_all = {(name[0], name[1]): leaf for name, leaf in named.items() if name in book.evidence.values_named}
    functions: dict[str, Leaf] = {}
    for leaf in leaves:
        if leaf.layer not in functions and book.evidence.is_lowered_to_a_function(leaf.layer, leaf.primitive):
            functions[leaf.layer] = leaf
    for identifier in list(book.open):
        buffer = book.evidence.buffers[identifier]
        if _explain_padded(book, buffer, named) or _explain_step(book, buffer, named, by_operation, functions):
            continue
        _explain_piece(book, buffer, named_at_all)


def _explain_step(
    book: Book,
    buffer: Buffer,
    named: Mapping[Name, Leaf],
    by_operation: Mapping[tuple[str, str], Leaf],
    functions: Mapping[str, Leaf],
) -> bool:
    """An operand written out, a result half done, an intermediate of a function.

    What the forward pass leaves for the backward pass is explained only by what it is itself: that it leads to an operation
    would explain any feature map.
    """
    evidence, role, value = book.evidence, book.role(buffer), book.evidence.value(buffer)
    if value is None or role not in (Role.TRANSIENT, Role.SAVED_ACTIVATIONS):
        return False
    transient = role is Role.TRANSIENT
    operation = named.get(evidence.operand_of(buffer) or ("", "", -1))
    # With borders around it, the result that it is a step to has another size.
    steps = (named.get(name) or by_operation.get(name[:2]) for name in evidence.step_of(buffer))
    step = next((leaf for leaf in steps if leaf is not None), None)
    function = functions.get(evidence.inside_function(buffer) or "")
    if operation is not None and (transient or evidence.is_operand_alone(value)):
        kind, leaf = "operand at full size", operation
    elif step is not None and (transient or evidence.is_step(value)):
        kind, leaf = "step of an operation", step
    elif function is not None and transient:
        kind, leaf = "inside an operation", function
    else:
        return False
    book.row_of(buffer).add(kind, book.settle(buffer), buffer=evidence.label(buffer), formula=leaf.text)
    return True


def _explain_piece(book: Book, buffer: Buffer, named_at_all: Mapping[tuple[str, str], Leaf]) -> None:
    """A piece of an operation in a tiled layout, or what is made early for the backward pass."""
    evidence = book.evidence
    kept = book.role(buffer) in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT)
    if kept and (piece := evidence.tiled_piece_of(buffer)) in named_at_all:
        book.row_of(buffer).add(
            "another shape",
            book.settle(buffer),
            instruction=evidence.label(buffer),
            formula=named_at_all[piece].text,
        )
    elif evidence.is_prepared_for_backward(buffer):
        book.row_of(buffer).add("prepared for the backward pass", book.settle(buffer), buffer=evidence.label(buffer))


def _explain_padded(book: Book, buffer: Buffer, named: Mapping[Name, Leaf]) -> bool:
    """A kernel that wants its operand in whole tiles, or with borders, reads a padded copy of it."""
    evidence = book.evidence
    inside = evidence.padded(buffer)
    if inside is None or book.role(buffer) not in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT):
        return False
    argument, leaf = evidence.facts.argument[inside.index], named.get(evidence.name(inside))
    if argument is not None:
        held = {"argument": argument.path}
    elif leaf is not None:
        held = {"formula": leaf.text}
    else:
        return False
    book.row_of(buffer).add("padded for a kernel", book.settle(buffer), buffer=evidence.label(buffer), **held)
    return True


def _holders(book: Book, value: int, taken: frozenset[int]) -> list[Buffer]:
    """The buffers that ever hold a value.

    What a scan stacks it writes part by part into an array that the loop carries, of which the formula does not speak by
    itself: the buffers of that array hold the stack in the making.
    """
    evidence = book.evidence
    holders = evidence.holders.get(value, [])
    state = evidence.written_over(value)
    if state is None or state in taken:
        return holders
    return sorted([*holders, *evidence.holders.get(state, [])], key=lambda b: (not evidence.is_live(b), b.start, b.id))


def _explain_in_call(book: Book, leaf: Leaf, in_calls: set[tuple[str, str]]) -> bool:
    """A leaf without an instruction: a library call does it with its neighbours. Each call does an operation once.

    A sum of two layers' results may be done in the call of either: those of other layers are asked last.
    """
    calls = book.evidence.library_calls
    elsewhere = (call for (layer, size), found in calls.items() if size == leaf.elements for call in found if layer)
    for call in (*calls.get((leaf.layer, leaf.elements), ()), *elsewhere):
        if (call, leaf.primitive) not in in_calls:
            in_calls.add((call, leaf.primitive))
            book.row(leaf.role, leaf.layer).add(
                "inside a library call", -leaf.bytes, instruction=call, formula=leaf.text
            )
            return True
    return False


def _assign_values(book: Book, leaves: Sequence[Leaf]) -> dict[int, int]:
    """Leaf (by position) → the value it speaks of; each value serves one leaf.

    Several values may carry one name, and some of them are steps on the way: a value that a buffer holds under the
    leaf's own role, at the peak if possible, is taken before one that nothing holds; for what autodiff keeps, one that
    the backward pass computes again comes next.
    """
    evidence = book.evidence
    taken: set[int] = set()
    queues: dict[tuple[tuple[str, str, int], Role, bool], list[int]] = {}
    value_of: dict[int, int] = {}
    for index in sorted(range(len(leaves)), key=lambda i: (not leaves[i].counted, not leaves[i].keeps, i)):
        leaf = leaves[index]
        name, backward = (leaf.layer, leaf.primitive, leaf.elements), leaf.phase is Phase.BACKWARD
        queue = queues.get((name, leaf.role, backward))
        if queue is None:
            found = evidence.values_named.get(name, ())
            # A forward operation and its transpose may share a primitive and a size. Where XLA has made one of the
            # two, it carries either name.
            of_phase = [value for value in found if evidence.is_backward(value) is backward]
            queue = queues[name, leaf.role, backward] = _least_preferred_first(book, of_phase or found, leaf)
        while queue and queue[-1] in taken:
            queue.pop()
        if queue:
            value_of[index] = queue.pop()
            taken.add(value_of[index])
    _assign_other_shapes(book, leaves, value_of, taken)
    _assign_other_layers_and_divisions(book, leaves, value_of, taken)
    return value_of


def _least_preferred_first(book: Book, values: Sequence[int], leaf: Leaf) -> list[int]:
    if len(values) < 2:
        return list(values)  # most names are those of one value
    return sorted(values, key=lambda value: _preference(book, value, leaf))[::-1]


def _preference(book: Book, value: int, leaf: Leaf) -> tuple[bool, ...]:
    evidence = book.evidence
    holders = evidence.holders.get(value, ())
    wanted = leaf.keeps and evidence.is_recomputed(value)
    on_the_way = evidence.is_operand_alone(value), evidence.is_step(value)
    if not holders:
        return True, True, False, *on_the_way, False, False, not wanted, True
    own = [buffer for buffer in holders if book.role(buffer) is leaf.role]
    # A gradient is a value of its own; the sum of another one may have its name and size.
    gradients = [
        buffer
        for buffer in holders
        if book.role(buffer) is Role.GRADIENTS and buffer.id not in book.open and buffer.id not in book.uncounted
    ]
    # Where the update multiplies a sum to make the gradient, XLA holds the sum in its place: no leaf has asked for that one.
    speaks_for_another = any(evidence.is_live(buffer) or buffer.id in book.absent for buffer in gradients)
    own_live = any(map(evidence.is_live, own))
    # What the program returns is no leaf but a result, under whatever name.
    is_result = any(book.role(buffer) is Role.OUTPUTS for buffer in holders)
    return not own_live, not own, is_result, *on_the_way, bool(gradients), speaks_for_another, not wanted, False


def _assign_other_shapes(book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int]) -> None:
    """Leaves whose operation the compiler does on arrays of another shape: largest value first, each once."""
    sizes: dict[tuple[str, str], set[int]] = {}
    for leaf in leaves:
        sizes.setdefault((leaf.layer, leaf.primitive), set()).add(leaf.elements)
    queues: dict[tuple[str, str], list[int]] = {}
    for index, leaf in enumerate(leaves):
        name = (leaf.layer, leaf.primitive)
        if index in value_of or (*name, leaf.elements) in book.evidence.values_named:
            continue
        if name not in queues:
            found = book.evidence.shapes_named.get(name, {})
            queues[name] = [
                value
                for elements in sorted(found)
                if elements not in sizes[name]
                for value in found[elements]
                if value not in taken
            ]
        if queues[name]:
            value_of[index] = queues[name].pop()
            taken.add(value_of[index])
            book.reshaped.add(index)


def _assign_other_layers_and_divisions(
    book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int]
) -> None:
    """Leaves that the compiled program has in another layer, or of another part of on each device: each value once.

    Where no scope names a layer, it is that of a neighbour, and a compiler that fuses and moves operations leaves others.
    """
    evidence = book.evidence
    of_layer: dict[Name, list[int]] = {}
    for name, values in evidence.values_named.items():
        for value in values:
            if value not in taken:
                of_layer.setdefault(name, []).append(value)
    anywhere: dict[tuple[str, int], list[int]] = {}
    for (_, given, elements), values in of_layer.items():
        anywhere.setdefault((given, elements), []).extend(filter(evidence.has_layer_of_neighbour, values))
    divisions = [over for over in range(1, book.devices + 1) if book.devices % over == 0]
    queues: dict[tuple[object, ...], list[int]] = {}

    def next_of(candidates: Sequence[int], leaf: Leaf, *name: object) -> int | None:
        """The best that is left of the candidates of a name, whose order is the same for all leaves of one kind."""
        backward = leaf.phase is Phase.BACKWARD
        key = (*name, leaf.role, leaf.keeps, backward)
        if key not in queues:
            of_phase = [value for value in candidates if evidence.is_backward(value) is backward]
            queues[key] = _least_preferred_first(book, of_phase, leaf)
        queue = queues[key]
        while queue and queue[-1] in taken:
            queue.pop()
        return queue.pop() if queue else None

    for index in sorted(range(len(leaves)), key=lambda i: (not leaves[i].counted, not leaves[i].keeps, i)):
        leaf = leaves[index]
        if index in value_of:
            continue
        whole = leaf.elements * leaf.divided_over
        parts = [whole // over for over in divisions if whole % over == 0 and over != leaf.divided_over]
        in_layer = [(leaf.layer, leaf.primitive, size) for size in parts]
        elsewhere: list[tuple[str, int]] = []
        if leaf.layer not in evidence.layers_of_scopes:
            elsewhere = [(leaf.primitive, size) for size in (leaf.elements, *parts)]
        found = (
            *((anywhere.get(name, ()), name) for name in elsewhere[:1]),
            *((of_layer.get(name, ()), name) for name in in_layer),
            *((anywhere.get(name, ()), name) for name in elsewhere[1:]),
        )
        for candidates, name in found:
            if (value := next_of(candidates, leaf, *name)) is not None:
                value_of[index] = value
                taken.add(value)
                break


def _explain_counted(book: Book, leaf: Leaf, value: int, holders: Sequence[Buffer]) -> None:
    evidence, row = book.evidence, book.row(leaf.role, leaf.layer)
    same_role = [buffer for buffer in holders if book.role(buffer) is leaf.role]
    live_elsewhere = [buffer for buffer in holders if book.role(buffer) is not leaf.role and buffer.id in book.open]
    if not any(map(evidence.is_live, same_role)) and not live_elsewhere:
        # A gradient that is a product of a sum: the formula has the sum in its place.
        for other in holders:
            if book.uncounted.get(other.id) == leaf.bytes:
                del book.uncounted[other.id]
                role = str(book.role(other))
                row.add(
                    "counted under another role",
                    -leaf.bytes,
                    buffer=evidence.label(other),
                    role=role,
                    formula=leaf.text,
                )
                return
    if any(evidence.is_live(buffer) for buffer in same_role) or not live_elsewhere:
        fusions = evidence.fusions_around(value)
        elsewhere = evidence.held_elsewhere.get(value, ())
        if not holders and elsewhere:
            row.add(
                "held in another memory",
                -leaf.bytes,
                buffer=evidence.label(elsewhere[0]),
                color=elsewhere[0].color,
                formula=leaf.text,
            )
        elif not holders and fusions:
            size_bytes = evidence.logical_bytes(value)
            forms = book.forms_of(leaf, evidence.elements_of(value), evidence.bits_of(value), size_bytes)
            if size_bytes == leaf.bytes or forms:
                row.add("fused away", -leaf.bytes, instruction=fusions, formula=leaf.text)
        else:
            book.match(leaf, same_role or holders)
            for other in live_elsewhere:
                book.row_of(other).add(
                    "kept twice",
                    book.settle(other),
                    buffer=(evidence.label(same_role[0]), evidence.label(other)),
                    formula=leaf.text,
                )
        return
    other = live_elsewhere[0]
    role = str(book.role(other))
    held = book.settle(other)
    row.add("counted under another role", -held, buffer=evidence.label(other), role=role, formula=leaf.text)
    if held == other.logical_bytes:
        book.explain_form(row, leaf, other)
    book.row_of(other).add(
        "counted under another role", held, buffer=evidence.label(other), role=str(leaf.role), formula=leaf.text
    )
    for second in live_elsewhere[1:]:
        book.row_of(second).add(
            "kept twice",
            book.settle(second),
            buffer=(evidence.label(other), evidence.label(second)),
            formula=leaf.text,
        )
