"""The ledger while it is written: rows, and the buffers that nothing has explained yet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jaxmem.attribution import Account
from jaxmem.attribution.account import Key
from jaxmem.formula import Formula, Leaf
from jaxmem.lowering import Argument, Output
from jaxmem.profile import Buffer
from jaxmem.reconcile.evidence import Evidence, Place
from jaxmem.reconcile.traced import Traced
from jaxmem.result import LedgerItem, LedgerRow
from jaxmem.roles import Phase, Role


@dataclass(slots=True)
class Row:
    """One row while it is written."""

    formula_bytes: int = 0
    compiled_bytes: int = 0
    items: list[LedgerItem] = field(default_factory=list)

    def add(self, kind: str, size_bytes: int, **evidence: str | int | tuple[int, ...] | tuple[str, ...]) -> None:
        """Write an item; nothing for 0 bytes."""
        if size_bytes:
            self.items.append(LedgerItem(kind=kind, bytes=size_bytes, evidence=tuple(evidence.items())))


class Claims:
    """Value of the compiled program → the leaf that speaks of it: none of any, until leaves and values are brought together."""

    def get(self, value: int) -> Leaf | None:
        """The leaf that speaks of a value; None if none does."""
        return None

    def __contains__(self, value: int) -> bool:
        return self.get(value) is not None

    def in_order(self, values: Iterable[int]) -> list[tuple[int, Leaf]]:
        """Those of some values of which a leaf speaks, each with its leaf, in the order of the leaves."""
        return []


class Book:
    """Both sides of the account, row by row. Every buffer is settled once."""

    def __init__(
        self,
        formula: Formula,
        account: Account,
        evidence: Evidence,
        arguments: Sequence[Argument],
        outputs: Sequence[Output],
    ) -> None:
        self.formula = formula
        self.traced = Traced(formula)
        self.evidence = evidence
        self.profile = evidence.profile
        self.arguments = arguments
        self.outputs = outputs
        self._rows: dict[Key, Row] = {}
        self.account = account
        self.open = dict(account.held)
        """Buffer id → bytes it holds at the peak, for buffers that nothing has explained yet."""
        self.idle = list(account.idle)
        self.uncounted: dict[int, int] = {}
        """Buffer id → bytes, for buffers that a leaf outside the formula's sum has explained: what the sum has in their
        place is looked for under another role."""
        self.padded: dict[tuple[str, int], int] = {}
        """(layer, bytes) → how many paddings of that size the formula and the compiler have alike."""
        self.absent: set[int] = set()
        """Buffers that have said for one leaf where it is when it is not held at the peak."""
        self.reshaped: set[int] = set()
        """Leaves, by their place in `explain_values`, that the compiler computes in another shape."""
        self.claimed = Claims()
        self.beside: list[tuple[Leaf, Buffer, Buffer]] = []
        """Leaf, the buffer that stands for it, and another one that is live at the peak and holds the same."""
        self.without_value: list[Leaf] = []
        """Counted leaves for which the compiled program has no value."""
        self.devices = max((leaf.divided_over for leaf in formula.leaves), default=1)
        """Over how many devices an array of the program is divided at most."""
        self.divisions = tuple(over for over in range(1, self.devices + 1) if self.devices % over == 0)
        """In how many equal parts the devices may have an array."""
        for (role, layer), size_bytes in account.bytes.items():
            self.row(role, layer).compiled_bytes += size_bytes
        self.leaves_as: dict[Role, list[Leaf]] = {role: [] for role in Role}
        """Role → its leaves, in the formula's order."""
        for leaf in formula.leaves:
            self.leaves_as[leaf.role].append(leaf)
        for role, leaves in self.leaves_as.items():
            for layer in dict.fromkeys(leaf.layer for leaf in leaves):
                self.row(role, layer)  # in the formula's order, counted or not
            for leaf in leaves:
                if leaf.counted:
                    self.row(role, leaf.layer).formula_bytes += leaf.bytes

    def row(self, role: Role, layer: str = "") -> Row:
        """The row of one role in one layer."""
        return self._rows.setdefault((role, layer), Row())

    def row_of(self, buffer: Buffer) -> Row:
        """The row that a buffer counts in."""
        attribution = self.evidence.attributions[buffer.id]
        return self.row(attribution.role, attribution.layer)

    def settle(self, buffer: Buffer) -> int:
        """Take a buffer as explained; what it holds at the peak, if it was still open."""
        return self.open.pop(buffer.id, 0)

    def role(self, buffer: Buffer) -> Role:
        """What a buffer is for."""
        return self.evidence.attributions[buffer.id].role

    def output_of(self, buffer: Buffer) -> Output | None:
        """The result of the program that a buffer is; None if it is none."""
        node = self.evidence.attributions[buffer.id].node
        position = None
        if node is not None:
            facts = self.evidence.facts
            position = facts.output_of(node)
            if position is None and self.role(buffer) is Role.OUTPUTS:
                position = facts.grows_into(node)  # a loop is still writing it
        return self.outputs[position] if position is not None else None

    @cached_property
    def buffers_of_results(self) -> dict[str, list[Buffer]]:
        """Path of a result → the buffers that are it, whatever their role."""
        found: dict[str, list[Buffer]] = {}
        for buffer in self.profile.buffers:
            if (output := self.output_of(buffer)) is not None:
                found.setdefault(output.path, []).append(buffer)
        return found

    @cached_property
    def operations_of_gradients(self) -> frozenset[tuple[str, Place]]:
        """(path of the parameter, operation and place) of each gradient that the formula speaks of."""
        gradients = self.leaves_as[Role.GRADIENTS]
        return frozenset((leaf.path, place) for leaf in gradients if (place := self.traced.place(leaf)) is not None)

    @cached_property
    def places(self) -> frozenset[Place | None]:
        """The operations of which leaves speak, each with where it stands in the program."""
        return frozenset(map(self.traced.place, self.formula.leaves))

    def match(self, leaf: Leaf, holders: Iterable[Buffer]) -> None:
        """Lay one counted leaf beside the buffers that hold it under the leaf's own role."""
        evidence, row = self.evidence, self.row(leaf.role, leaf.layer)
        ordered = sorted(holders, key=lambda b: (not evidence.is_live(b), b.start))
        live = [buffer for buffer in ordered if evidence.is_live(buffer) and buffer.id in self.open]
        if live:
            held = self.settle(live[0])
            self.explain_layer(row, leaf, live[0], held)
            if held != leaf.bytes:
                self.explain_size(row, leaf, live[0], held)
            self.beside.extend((leaf, live[0], other) for other in live[1:])
        elif not any(map(evidence.is_live, ordered)):
            self.explain_absent(row, leaf, ordered)
        # A live buffer that already stands for another leaf says nothing about this one.

    def explain_size(self, row: Row, leaf: Leaf, buffer: Buffer, held: int) -> None:
        """A buffer that stands for a leaf but holds more or less than it."""
        known = self.explain_form(row, leaf, buffer)
        if held < buffer.logical_bytes and (known or leaf.bytes == buffer.logical_bytes):
            over = self.written_over(buffer)
            if over:
                row.add("slot lent out", held - buffer.logical_bytes, buffer=tuple(over), formula=leaf.text)

    def explain_layer(self, row: Row, leaf: Leaf, buffer: Buffer, held: int) -> None:
        """A buffer that stands for a leaf and counts in another layer."""
        own, layer = self.row_of(buffer), self.evidence.attributions[buffer.id].layer
        if own is not row:
            label = self.evidence.label(buffer)
            row.add("counted in another layer", -held, buffer=label, layer=layer, formula=leaf.text)
            own.add("counted in another layer", held, buffer=label, layer=leaf.layer, formula=leaf.text)

    def explain_form(self, row: Row, leaf: Leaf, buffer: Buffer) -> bool:
        """Write in which other form a buffer holds a leaf; False if it is no form of it."""
        forms = self.forms(leaf, buffer)
        for kind, size_bytes in forms:
            row.add(kind, size_bytes, buffer=self.evidence.label(buffer), formula=leaf.text)
        return bool(forms)

    def forms(self, leaf: Leaf, buffer: Buffer) -> tuple[tuple[str, int], ...]:
        """(kind, bytes more) of each way in which a buffer differs from the leaf that it holds, which together make up all that
        it differs by; empty if it is the leaf's own form, or none of it."""
        evidence = self.evidence
        if leaf.primitive and evidence.is_tiled(buffer) and 0 != leaf.elements != evidence.elements(buffer):
            return (("another shape", buffer.logical_bytes - leaf.bytes),)
        return self.forms_of(leaf, evidence.elements(buffer), evidence.bits(buffer), buffer.logical_bytes)

    def forms_of(self, leaf: Leaf, elements: int, bits: int, size_bytes: int) -> tuple[tuple[str, int], ...]:
        """As `forms`, for an array of so many elements and bits an element."""
        if not leaf.elements or leaf.bytes != (leaf.elements * leaf.itemsize_bits + 7) // 8:
            return ()
        found = []
        if elements != leaf.elements:
            if not self.is_part(leaf, elements):
                return ()
            found.append(("divided otherwise", (elements * leaf.itemsize_bits + 7) // 8 - leaf.bytes))
        if bits != leaf.itemsize_bits:
            found.append(("another number format", size_bytes - (elements * leaf.itemsize_bits + 7) // 8))
        return tuple(found) if sum(more for _, more in found) == size_bytes - leaf.bytes else ()

    def is_part(self, leaf: Leaf, elements: int) -> bool:
        """Whether so many elements are what one device may have of a leaf: all of it, or one of equal parts."""
        if elements <= 0 or not self.traced.agrees(leaf):
            return False
        parts, rest = divmod(leaf.elements * leaf.divided_over, elements)
        even = not rest and parts > 0 and self.devices % parts == 0
        return even or elements in self.traced.uneven_parts(leaf, self.divisions)

    def even_parts(self, leaf: Leaf) -> list[int]:
        """How many elements of a leaf one device may have: all of them, or one of equal parts."""
        whole = leaf.elements * leaf.divided_over
        return [whole // over for over in self.divisions if whole % over == 0]

    def part_sizes(self, leaf: Leaf) -> tuple[int, ...]:
        """How many elements of a leaf one device may have: all of them, or one of equal parts, rounded up or not."""
        if self.devices == 1:
            return (leaf.elements,)
        return *self.even_parts(leaf), *sorted(self.traced.uneven_parts(leaf, self.divisions))

    def may_be(self, value: int, leaf: Leaf) -> bool:
        """Whether a value may be a leaf: `those_that_may_be`."""
        return bool(self.those_that_may_be((value,), leaf))

    def those_that_may_be(self, values: Iterable[int], leaf: Leaf) -> list[int]:
        """What the program returns is no leaf but a result, under whatever name, unless the backward pass wants it too; of
        gradients each is its own parameter's; the state that a loop carries is that of an argument; and nothing that the
        backward pass reads is the update's. A compiler that casts leaves two bytes of a number or more.
        """
        evidence = self.evidence
        nodes_of, carried, results = evidence.nodes_of, evidence.carried_state, evidence.results
        narrowest = 16 if leaf.itemsize_bits >= 16 else 0
        found = [value for value in values if nodes_of[value][0].bits >= narrowest and value not in carried]
        if leaf.phase is Phase.UPDATE:
            found = [value for value in found if value not in evidence.saved]
        if leaf.role is Role.GRADIENTS:
            return [value for value in found if value not in evidence.gradients]
        if leaf.role is Role.TRANSIENT:
            return [value for value in found if value not in results]
        if leaf.role is Role.SAVED_ACTIVATIONS:
            return [v for v in found if v not in results or any(map(evidence.is_read_backward, nodes_of[v]))]
        return found

    def fits(self, value: int, leaf: Leaf) -> bool:
        """Whether a value may be a leaf in size: what a device has of it, or may have."""
        elements = self.evidence.elements_of(value)
        return self.may_be(value, leaf) and (elements == leaf.elements or self.is_part(leaf, elements))

    def written_over(self, buffer: Buffer) -> list[str]:
        """The buffers that hold part of another one's place at the peak."""
        return sorted(
            {
                self.evidence.label(self.evidence.buffers[segment.buffer_id])
                for segment in self.profile.segments
                if segment.allocation == buffer.allocation
                and segment.buffer_id not in (None, buffer.id)
                and segment.offset < buffer.offset + buffer.size_bytes
                and buffer.offset < segment.offset + segment.size_bytes
            }
        )

    def explain_absent(self, row: Row, leaf: Leaf, holders: Sequence[Buffer]) -> None:
        """A counted leaf that no buffer of its role holds at the peak."""
        evidence, peak = self.evidence, self.profile.peak_position
        before = [buffer for buffer in holders if buffer.end <= peak and not evidence.is_live(buffer)]
        after = [buffer for buffer in holders if buffer.start >= peak and not evidence.is_live(buffer)]
        if after:
            found, kind = after[0], "made after the peak"
        elif before:
            found, kind = before[-1], "freed before the peak"
        else:
            return
        if found.id in self.absent:
            return
        self.absent.add(found.id)
        if found.logical_bytes == leaf.bytes or self.forms(leaf, found):
            row.add(
                kind,
                -leaf.bytes,
                buffer=evidence.label(found),
                live=(found.start, found.end),
                peak=peak,
                formula=leaf.text,
            )

    def alive_at_the_peak(self, leaf: Leaf, holders: Iterable[Buffer]) -> None:
        """Buffers that are live at XLA's peak and hold a leaf that the formula has at another moment."""
        first: Buffer | None = None
        for buffer in holders:
            if buffer.id not in self.open:
                continue
            label, row = self.evidence.label(buffer), self.row_of(buffer)
            if first is None:
                first = buffer
                held = self.uncounted[buffer.id] = self.settle(buffer)
                row.add(
                    "alive at the peak",
                    held,
                    buffer=label,
                    live=(buffer.start, buffer.end),
                    peak=self.profile.peak_position,
                    formula=leaf.text,
                )
            else:
                self.beside.append((leaf, first, buffer))

    def keep_twice(self) -> None:
        """What is held beside a buffer that stands for a leaf, and that no other leaf has asked for in the meantime."""
        for leaf, first, other in self.beside:
            if other.id in self.open:
                labels = (self.evidence.label(first), self.evidence.label(other))
                self.row_of(other).add("kept twice", self.settle(other), buffer=labels, formula=leaf.text)
        self.beside.clear()

    def rows(self) -> tuple[LedgerRow, ...]:
        """The finished ledger.

        What nothing has explained is a row of its own, so that a leaf too many cannot cancel a buffer too many.
        """
        left_open: dict[Key, list[int]] = {}
        for identifier in self.open:
            attribution = self.evidence.attributions[identifier]
            left_open.setdefault((attribution.role, attribution.layer), []).append(identifier)
        order = {role: place for place, role in enumerate(Role)}
        rows = []
        for key in sorted(self._rows, key=lambda key: order[key[0]]):
            row, unknown = self._rows[key], left_open.get(key, [])
            unknown_bytes = sum(self.open[identifier] for identifier in unknown)
            row.compiled_bytes -= unknown_bytes
            if row.formula_bytes or row.compiled_bytes or row.items:
                rows.append(self._ledger_row(key, row, _reason(row)))
            if unknown_bytes:
                labels = ", ".join(sorted(self.evidence.label(self.evidence.buffers[each]) for each in unknown))
                rows.append(self._ledger_row(key, Row(compiled_bytes=unknown_bytes), f"unexplained: {labels}"))
        return tuple(rows)

    def _ledger_row(self, key: Key, row: Row, reason: str) -> LedgerRow:
        role, layer = key
        return LedgerRow(
            term=term(role),
            symbol=self.formula.symbol(role),
            layer=layer,
            formula_bytes=row.formula_bytes,
            compiled_bytes=row.compiled_bytes,
            items=tuple(row.items),
            reason=reason,
        )


def _reason(row: Row) -> str:
    """The items in a sentence, largest first."""
    difference = row.compiled_bytes - row.formula_bytes
    if not difference and not row.items:
        return "equal"
    by_kind: dict[str, int] = {}
    for item in row.items:
        by_kind[item.kind] = by_kind.get(item.kind, 0) + item.bytes
    named = sorted(by_kind, key=lambda kind: -abs(by_kind[kind]))
    left = difference - sum(by_kind.values())
    return ", ".join(named + (["unexplained"] if left else []))


def term(role: Role) -> str:
    return role.value.replace("_", " ")
