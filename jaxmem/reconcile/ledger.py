"""Formula against profile: the ledger.

Each row is one role in one layer. Its compiled side is what the segments at the peak hold; its formula side the counted leaves.
The difference is itemised: a leaf that XLA does not hold at the peak, a buffer that no counted leaf stands for. An item is
written only where its predicate (`jaxmem.reconcile.kinds`) is true of the capture, and every buffer and every value serves
once, so a leaf too many or too few, a buffer resized or removed, is left over and counted as unexplained.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxmem.attribution import Account, Attribution, Facts
from jaxmem.attribution.account import Key
from jaxmem.formula import Formula, Leaf
from jaxmem.lowering import Argument, Output
from jaxmem.profile import Buffer, MemoryProfile, Segment
from jaxmem.reconcile.completeness import left_out
from jaxmem.reconcile.evidence import Evidence
from jaxmem.result import LedgerItem, LedgerRow
from jaxmem.roles import STATE_ROLES, Phase, Role
from jaxmem.unknown import Unknown

_HELD_ROLES = STATE_ROLES | {Role.INPUTS}
"""Roles whose values the caller hands over."""


@dataclass(slots=True)
class _Row:
    formula_bytes: int = 0
    compiled_bytes: int = 0
    items: list[LedgerItem] = field(default_factory=list)

    def add(self, kind: str, size_bytes: int, **evidence: str | int | tuple[int, ...] | tuple[str, ...]) -> None:
        if size_bytes:
            self.items.append(LedgerItem(kind=kind, bytes=size_bytes, evidence=tuple(evidence.items())))


def reconcile(
    formula: Formula,
    account: Account,
    profile: MemoryProfile,
    facts: Facts,
    attributions: Mapping[int, Attribution],
    arguments: Sequence[Argument],
    outputs: Sequence[Output],
    *,
    hidden_bytes: int,
    hidden_fusions: Sequence[str] = (),
    code_bytes: int = 0,
) -> tuple[LedgerRow, ...]:
    """Lay the formula beside the compiled program.

    Args:
        formula: its leaves, counted or not.
        account: the compiled side by role and layer.
        profile, facts, attributions: the compiled side.
        arguments, outputs: the lowering's tables.
        hidden_bytes: what the compiler cannot see but is known; its row's formula is 0.
        hidden_fusions: the fusions that it is in.
        code_bytes: the program's code, where it lies in main memory; its row's formula is 0.

    Returns:
        Rows in the order of the roles, layers in the order of the formula; their compiled side sums to reserved + hidden.
    """
    ledger = _Ledger(formula, account, Evidence(profile, facts, attributions), arguments, outputs)
    ledger.explain_padding()
    ledger.explain_state()
    ledger.explain_outputs()
    ledger.explain_gradients()
    ledger.explain_values()
    ledger.explain_what_no_formula_knows()
    ledger.ask_for_what_is_left_out()
    ledger.show_damage()
    if code_bytes:
        row = ledger.row(Role.PROGRAM_CODE)
        row.compiled_bytes += code_bytes
        row.add("code of the program", code_bytes, statistic="generated_code_bytes")
    if hidden_bytes:
        row = ledger.row(Role.HIDDEN)
        row.compiled_bytes += hidden_bytes
        row.add("hidden by opaque fusions", hidden_bytes, instruction=tuple(hidden_fusions))
    return ledger.rows()


class _Ledger:
    def __init__(
        self,
        formula: Formula,
        account: Account,
        evidence: Evidence,
        arguments: Sequence[Argument],
        outputs: Sequence[Output],
    ) -> None:
        self._formula = formula
        self._evidence = evidence
        self._profile = evidence.profile
        self._arguments = arguments
        self._outputs = outputs
        self._rows: dict[Key, _Row] = {}
        self._account = account
        self._open = dict(account.held)
        """Buffer id → bytes it holds at the peak, for buffers that nothing has explained yet."""
        self._idle = list(account.idle)
        self._absent: set[int] = set()
        """Buffers that have said for one leaf where it is when it is not held at the peak."""
        self._reshaped: set[int] = set()
        """Leaves, by their place in `explain_values`, that the compiler computes in another shape."""
        for (role, layer), size_bytes in account.bytes.items():
            self.row(role, layer).compiled_bytes += size_bytes
        for leaf in formula.leaves:
            self.row(leaf.role, leaf.layer).formula_bytes += leaf.bytes if leaf.counted else 0

    def row(self, role: Role, layer: str = "") -> _Row:
        return self._rows.setdefault((role, layer), _Row())

    def _row_of(self, buffer: Buffer) -> _Row:
        attribution = self._evidence.attributions[buffer.id]
        return self.row(attribution.role, attribution.layer)

    def _settle(self, buffer: Buffer) -> int:
        """Take a buffer as explained; what it holds at the peak, if it was still open."""
        return self._open.pop(buffer.id, 0)

    def explain_padding(self) -> None:
        """Padding is what a tiled layout adds, and nothing else."""
        for identifier, size_bytes in self._account.padding.items():
            buffer = self._evidence.buffers[identifier]
            shape = self._profile.instruction(buffer).shape.subshape(buffer.leaf[1])
            if shape.tiles or shape.is_tuple:
                row = self.row(Role.PADDING, self._evidence.attributions[identifier].layer)
                row.add("layout padding", size_bytes, buffer=self._evidence.label(buffer), shape=shape.text())

    # State, inputs.

    def explain_state(self) -> None:
        """Arguments and the new state written over them: matched by argument, never by size."""
        holders: dict[str, list[Buffer]] = {}
        for buffer in self._profile.buffers:
            path = self._argument_path(buffer)
            if path is not None:
                holders.setdefault(path, []).append(buffer)
        for leaf in self._formula.leaves:
            if leaf.role in _HELD_ROLES and leaf.counted and leaf.elements:
                self._match(leaf, [b for b in holders.get(leaf.path, []) if self._role(b) is leaf.role])

    def _argument_path(self, buffer: Buffer) -> str | None:
        """The argument that a buffer holds: as it came, copied, or in its new version."""
        attribution = self._evidence.attributions[buffer.id]
        if attribution.node is None:
            return None
        argument = self._evidence.facts.argument[attribution.node]
        if argument is not None:
            return argument.path
        output = self._output_of(buffer)
        if output is not None and output.argument_index is not None:
            return self._arguments[output.argument_index].path
        return None

    def _output_of(self, buffer: Buffer) -> Output | None:
        node = self._evidence.attributions[buffer.id].node
        position = self._evidence.facts.output_of(node) if node is not None else None
        return self._outputs[position] if position is not None else None

    def _role(self, buffer: Buffer) -> Role:
        return self._evidence.attributions[buffer.id].role

    def _match(self, leaf: Leaf, holders: Iterable[Buffer]) -> None:
        """Lay one counted leaf beside the buffers that hold it under the leaf's own role."""
        evidence, row = self._evidence, self.row(leaf.role, leaf.layer)
        ordered = sorted(holders, key=lambda b: (not evidence.is_live(b), b.start))
        live = [buffer for buffer in ordered if evidence.is_live(buffer) and buffer.id in self._open]
        if live:
            held = self._settle(live[0])
            if held != leaf.bytes:
                self._explain_size(row, leaf, live[0], held)
            for other in live[1:]:
                self._row_of(other).add(
                    "kept twice",
                    self._settle(other),
                    buffer=(evidence.label(live[0]), evidence.label(other)),
                    formula=leaf.text,
                )
        elif not any(map(evidence.is_live, ordered)):
            self._explain_absent(row, leaf, ordered)
        # A live buffer that already stands for another leaf says nothing about this one.

    def _explain_size(self, row: _Row, leaf: Leaf, buffer: Buffer, held: int) -> None:
        """A buffer that stands for a leaf but holds more or less than it."""
        form = self._form(leaf, buffer)
        if form is not None:
            row.add(form, buffer.logical_bytes - leaf.bytes, buffer=self._evidence.label(buffer), formula=leaf.text)
        if held < buffer.logical_bytes and (form is not None or leaf.bytes == buffer.logical_bytes):
            over = self._written_over(buffer)
            if over:
                row.add("slot lent out", held - buffer.logical_bytes, buffer=tuple(over), formula=leaf.text)

    def _form(self, leaf: Leaf, buffer: Buffer) -> str | None:
        """The kind that says in which other form a buffer holds a leaf; None if it is the leaf's own."""
        if not leaf.elements or not leaf.primitive:
            return None
        if self._evidence.elements(buffer) != leaf.elements:
            return "another shape"
        as_traced = leaf.bytes == (leaf.elements * leaf.itemsize_bits + 7) // 8
        return "another number format" if as_traced and self._evidence.bits(buffer) != leaf.itemsize_bits else None

    def _written_over(self, buffer: Buffer) -> list[str]:
        """The buffers that hold part of another one's place at the peak."""
        return sorted(
            {
                self._evidence.label(self._evidence.buffers[segment.buffer_id])
                for segment in self._profile.segments
                if segment.allocation == buffer.allocation
                and segment.buffer_id not in (None, buffer.id)
                and segment.offset < buffer.offset + buffer.size_bytes
                and buffer.offset < segment.offset + segment.size_bytes
            }
        )

    def _explain_absent(self, row: _Row, leaf: Leaf, holders: Sequence[Buffer]) -> None:
        """A counted leaf that no buffer of its role holds at the peak."""
        evidence, peak = self._evidence, self._profile.peak_position
        before = [buffer for buffer in holders if buffer.end <= peak and not evidence.is_live(buffer)]
        after = [buffer for buffer in holders if buffer.start > peak]
        if after:
            found, kind = after[0], "made after the peak"
        elif before:
            found, kind = before[-1], "freed before the peak"
        else:
            return
        if found.id in self._absent:
            return
        self._absent.add(found.id)
        if found.logical_bytes == leaf.bytes or self._form(leaf, found) is not None:
            row.add(
                kind,
                -leaf.bytes,
                buffer=evidence.label(found),
                live=(found.start, found.end),
                peak=peak,
                formula=leaf.text,
            )

    # Results.

    def explain_outputs(self) -> None:
        """Results have memory from the start: matched by their position in the program's result."""
        by_path: dict[str, list[Buffer]] = {}
        for buffer in self._profile.buffers:
            if buffer.leaf == (self._profile.module.entry.root_id, ()) and self._is_table(buffer):
                by_path.setdefault("", []).append(buffer)
            elif self._role(buffer) is Role.OUTPUTS and (output := self._output_of(buffer)) is not None:
                by_path.setdefault(output.path, []).append(buffer)
        donated = {
            output.path
            for output in self._outputs
            if output.argument_index is not None and self._arguments[output.argument_index].donated
        }
        for leaf in self._formula.leaves:
            if not leaf.is_result:
                continue
            if by_path.get(leaf.path):
                place = by_path[leaf.path].pop(0)
                self._explain_place(self.row(leaf.role, leaf.layer), leaf, place, refused=leaf.path in donated)

    def _is_table(self, buffer: Buffer) -> bool:
        return self._profile.instruction(buffer).shape.subshape(buffer.leaf[1]).is_tuple

    def _explain_place(self, row: _Row, leaf: Leaf, place: Buffer, *, refused: bool) -> None:
        evidence = self._evidence
        live = self._settle(place)
        waiting = 0
        for index, (segment, role) in enumerate(self._idle):
            low = max(segment.offset, place.offset)
            high = min(segment.offset + segment.size_bytes, place.offset + place.size_bytes)
            if segment.allocation == place.allocation and role is Role.OUTPUTS and low < high:
                waiting += high - low
                self._idle[index] = (
                    Segment(
                        allocation=segment.allocation,
                        offset=segment.offset,
                        size_bytes=segment.size_bytes - (high - low),
                        buffer_id=None,
                    ),
                    role,
                )
        if not leaf.counted and refused:
            self._row_of(place).add("donation refused", live + waiting, buffer=evidence.label(place), formula=leaf.text)
            return
        if live + waiting == place.size_bytes > place.logical_bytes == leaf.bytes and not live:
            # A result that is not written yet holds its place with its padding.
            shape = self._profile.instruction(place).shape.subshape(place.leaf[1])
            if shape.tiles or shape.is_tuple:
                row.add("layout padding", waiting - leaf.bytes, buffer=evidence.label(place), formula=leaf.text)
        missing = leaf.bytes - live - waiting
        if missing > 0 and leaf.bytes == (place.logical_bytes or place.size_bytes):
            lent = self._written_over(place)
            if lent:
                row.add("slot lent out", -missing, buffer=tuple(lent), formula=leaf.text)

    # Gradients.

    def explain_gradients(self) -> None:
        """Matched by the parameter they are the gradient of."""
        holders: dict[str, list[Buffer]] = {}
        for buffer in self._profile.buffers:
            attribution = self._evidence.attributions[buffer.id]
            if attribution.role is Role.GRADIENTS and attribution.node is not None:
                output = self._evidence.facts.gradient_of[attribution.node]
                if output is not None:
                    holders.setdefault(self._outputs[output].parameter_path, []).append(buffer)
        instructions = self._profile.module.instructions
        becomes: dict[str, set[str]] = {}
        sizes: dict[str, set[int]] = {}
        outside: set[str] = set()
        for node in self._evidence.facts.dataflow.nodes:
            output = self._evidence.facts.gradient_of[node.index]
            if output is not None and not node.hands_on and self._evidence.sum_of(node) is None:
                path = self._outputs[output].parameter_path
                sizes.setdefault(path, set()).add(node.instruction.shape.subshape(node.leaf[1]).logical_bytes)
                if node.fusion is None:
                    outside.add(path)
                else:
                    becomes.setdefault(path, set()).add(instructions[node.fusion].name)
        for leaf in self._formula.leaves:
            if leaf.role is not Role.GRADIENTS:
                continue
            found = self._without_sums(leaf, holders.get(leaf.path, []))
            if leaf.counted and not found and leaf.path in becomes and leaf.path not in outside:
                if leaf.bytes in sizes[leaf.path]:
                    fusions = tuple(sorted(becomes.pop(leaf.path)))
                    self.row(leaf.role, leaf.layer).add(
                        "fused away", -leaf.bytes, instruction=fusions, formula=leaf.text
                    )
            elif leaf.counted:
                self._match(leaf, found)
            else:
                self._alive_at_the_peak(leaf, found)

    def _without_sums(self, leaf: Leaf, holders: Iterable[Buffer]) -> list[Buffer]:
        """The buffers that hold a gradient as the update reads it. Those before the sum over the devices are explained."""
        complete = []
        for buffer in holders:
            node = self._evidence.attributions[buffer.id].node
            collective = self._evidence.sum_of(self._evidence.facts.dataflow.nodes[node]) if node is not None else None
            if node is None or collective is None:
                complete.append(buffer)
                continue
            if buffer.logical_bytes not in (leaf.bytes, leaf.bytes * leaf.divided_over):
                continue  # another array than the leaf speaks of: left open
            before = self._evidence.facts.awaits_sum[node] is not None
            self._row_of(buffer).add(
                "awaits the sum over devices" if before else "whole before it is divided",
                self._settle(buffer),
                buffer=self._evidence.label(buffer),
                instruction=collective.instruction.name,
                formula=leaf.text,
            )
        return complete

    def _alive_at_the_peak(self, leaf: Leaf, holders: Iterable[Buffer]) -> None:
        """Buffers that are live at XLA's peak and hold a leaf that the formula has at another moment."""
        first: Buffer | None = None
        for buffer in holders:
            if buffer.id not in self._open:
                continue
            label, row = self._evidence.label(buffer), self._row_of(buffer)
            if first is None:
                first = buffer
                row.add(
                    "alive at the peak",
                    self._settle(buffer),
                    buffer=label,
                    live=(buffer.start, buffer.end),
                    peak=self._profile.peak_position,
                    formula=leaf.text,
                )
            else:
                row.add(
                    "kept twice",
                    self._settle(buffer),
                    buffer=(self._evidence.label(first), label),
                    formula=leaf.text,
                )

    # Feature maps and working set.

    def explain_values(self) -> None:
        """What the program computes: leaves and buffers brought together by the value they speak of."""
        evidence = self._evidence
        leaves = [leaf for leaf in self._formula.leaves if leaf.primitive and leaf.role is not Role.GRADIENTS]
        value_of = self._assign_values(leaves)
        absent = []
        in_calls: set[tuple[str, str]] = set()
        for index, leaf in enumerate(leaves):
            value = value_of.get(index)
            if value is None:
                if leaf.counted:
                    self._explain_in_call(leaf, in_calls)
                continue
            holders = [b for b in evidence.holders.get(value, []) if self._role(b) not in _HELD_ROLES]
            if leaf.keeps and not any(map(evidence.is_made_before_backward, holders)):
                absent.append((leaf, value))
            if leaf.counted and index in self._reshaped and not holders:
                self.row(leaf.role, leaf.layer).add(
                    "another shape", -leaf.bytes, instruction=evidence.instruction_of(value), formula=leaf.text
                )
            elif leaf.counted:
                self._explain_counted(leaf, value, holders)
        for index, leaf in enumerate(leaves):
            value = value_of.get(index)
            if value is not None:
                allowed = (Role.SAVED_ACTIVATIONS, Role.TRANSIENT) if leaf.keeps else (Role.TRANSIENT,)
                holders = [b for b in evidence.holders.get(value, []) if self._role(b) in allowed]
                self._alive_at_the_peak(leaf, holders)
        for leaf, value in absent:
            for buffer, fusion in (*evidence.recomputed_from(value), *evidence.made_from(value)):
                if buffer.id in self._open and self._role(buffer) in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT):
                    self._row_of(buffer).add(
                        "kept instead",
                        self._settle(buffer),
                        buffer=evidence.label(buffer),
                        instruction=fusion,
                        formula=leaf.text,
                    )
        # On the way to a gradient is on the way to something the formula names, too.
        named = {(leaf.layer, leaf.primitive, leaf.elements): leaf for leaf in self._formula.leaves if leaf.primitive}
        functions: dict[str, Leaf] = {}
        for leaf in leaves:
            if leaf.layer not in functions and evidence.is_lowered_to_a_function(leaf.layer, leaf.primitive):
                functions[leaf.layer] = leaf
        for identifier in list(self._open):
            buffer = evidence.buffers[identifier]
            operation = named.get(evidence.operand_of(buffer) or ("", "", -1))
            if operation is not None and self._role(buffer) is Role.TRANSIENT:
                self._row_of(buffer).add(
                    "operand at full size", self._settle(buffer), buffer=evidence.label(buffer), formula=operation.text
                )
                continue
            step = next((named[name] for name in evidence.step_of(buffer) if name in named), None)
            if step is not None and self._role(buffer) is Role.TRANSIENT:
                self._row_of(buffer).add(
                    "step of an operation", self._settle(buffer), buffer=evidence.label(buffer), formula=step.text
                )
                continue
            function = functions.get(evidence.inside_function(buffer) or "")
            if function is not None and self._role(buffer) is Role.TRANSIENT:
                self._row_of(buffer).add(
                    "inside an operation", self._settle(buffer), buffer=evidence.label(buffer), formula=function.text
                )
                continue
            if evidence.is_prepared_for_backward(buffer):
                self._row_of(buffer).add(
                    "prepared for the backward pass", self._settle(buffer), buffer=evidence.label(buffer)
                )

    def _explain_in_call(self, leaf: Leaf, in_calls: set[tuple[str, str]]) -> None:
        """A leaf without an instruction: a library call does it with its neighbours. Each call does an operation once."""
        for call in self._evidence.library_calls.get((leaf.layer, leaf.elements), ()):
            if (call, leaf.primitive) not in in_calls:
                in_calls.add((call, leaf.primitive))
                self.row(leaf.role, leaf.layer).add(
                    "inside a library call", -leaf.bytes, instruction=call, formula=leaf.text
                )
                return

    def _assign_values(self, leaves: Sequence[Leaf]) -> dict[int, bytes]:
        """Leaf (by position) → the value it speaks of; each value serves one leaf.

        Several values may carry one name, and some of them are steps on the way: a value that a buffer holds under the
        leaf's own role, at the peak if possible, is taken before one that nothing holds; for what autodiff keeps, one that
        the backward pass computes again comes next.
        """
        evidence = self._evidence
        taken: set[bytes] = set()
        queues: dict[tuple[tuple[str, str, int], Role, bool], list[bytes]] = {}
        value_of: dict[int, bytes] = {}
        for index in sorted(range(len(leaves)), key=lambda i: (not leaves[i].counted, not leaves[i].keeps, i)):
            leaf = leaves[index]
            name, backward = (leaf.layer, leaf.primitive, leaf.elements), leaf.phase is Phase.BACKWARD
            queue = queues.get((name, leaf.role, backward))
            if queue is None:
                found = evidence.values_named.get(name, ())
                # A forward operation and its transpose may share a primitive and a size. Where XLA has made one of the
                # two, it carries either name.
                of_phase = [value for value in found if evidence.is_backward(value) is backward]
                queue = sorted(of_phase or found, key=lambda value, leaf=leaf: self._preference(value, leaf))[::-1]
                queues[name, leaf.role, backward] = queue
            while queue and queue[-1] in taken:
                queue.pop()
            if queue:
                value_of[index] = queue.pop()
                taken.add(value_of[index])
        self._assign_other_shapes(leaves, value_of, taken)
        return value_of

    def _preference(self, value: bytes, leaf: Leaf) -> tuple[bool, ...]:
        evidence = self._evidence
        holders = evidence.holders.get(value, ())
        own = [buffer for buffer in holders if self._role(buffer) is leaf.role]
        wanted = leaf.keeps and evidence.is_recomputed(value)
        return not any(map(evidence.is_live, own)), not own, not wanted, not holders

    def _assign_other_shapes(self, leaves: Sequence[Leaf], value_of: dict[int, bytes], taken: set[bytes]) -> None:
        """Leaves whose operation the compiler does on arrays of another shape: largest value first, each once."""
        sizes: dict[tuple[str, str], set[int]] = {}
        for leaf in leaves:
            sizes.setdefault((leaf.layer, leaf.primitive), set()).add(leaf.elements)
        queues: dict[tuple[str, str], list[bytes]] = {}
        for index, leaf in enumerate(leaves):
            name = (leaf.layer, leaf.primitive)
            if index in value_of or (*name, leaf.elements) in self._evidence.values_named:
                continue
            if name not in queues:
                found = self._evidence.shapes_named.get(name, {})
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
                self._reshaped.add(index)

    def _explain_counted(self, leaf: Leaf, value: bytes, holders: Sequence[Buffer]) -> None:
        evidence, row = self._evidence, self.row(leaf.role, leaf.layer)
        same_role = [buffer for buffer in holders if self._role(buffer) is leaf.role]
        live_elsewhere = [
            buffer for buffer in holders if self._role(buffer) is not leaf.role and buffer.id in self._open
        ]
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
                if evidence.logical_bytes(value) == leaf.bytes:
                    row.add("fused away", -leaf.bytes, instruction=fusions, formula=leaf.text)
            else:
                self._match(leaf, same_role or holders)
                for other in live_elsewhere:
                    self._row_of(other).add(
                        "kept twice",
                        self._settle(other),
                        buffer=(evidence.label(same_role[0]), evidence.label(other)),
                        formula=leaf.text,
                    )
            return
        other = live_elsewhere[0]
        role = str(self._role(other))
        held = self._settle(other)
        row.add("counted under another role", -held, buffer=evidence.label(other), role=role, formula=leaf.text)
        form = self._form(leaf, other)
        if form is not None and held == other.logical_bytes:
            row.add(form, held - leaf.bytes, buffer=evidence.label(other), formula=leaf.text)
        self._row_of(other).add(
            "counted under another role", held, buffer=evidence.label(other), role=str(leaf.role), formula=leaf.text
        )

    # What no formula knows.

    def explain_what_no_formula_knows(self) -> None:
        """Constants, copies of arguments, unread results, tables, gaps: rows whose formula is zero."""
        evidence = self._evidence
        for identifier in list(self._open):
            buffer = evidence.buffers[identifier]
            attribution = evidence.attributions[identifier]
            kind = self._compiler_kind(buffer, attribution)
            if kind is not None:
                named: dict[str, str | tuple[str, ...]] = {"buffer": evidence.label(buffer)}
                if attribution.node is not None and (argument := evidence.facts.argument[attribution.node]) is not None:
                    named["argument"] = argument.path
                elif attribution.role is Role.COLLECTIVES and attribution.node is not None:
                    named["instruction"] = evidence.sent(attribution.node)
                self._row_of(buffer).add(kind, self._settle(buffer), **named)
        self._explain_idle()

    def _compiler_kind(self, buffer: Buffer, attribution: Attribution) -> str | None:
        facts = self._evidence.facts
        instruction = self._profile.instruction(buffer)
        if instruction.opcode == "constant":
            return "depends on no argument"
        if attribution.node is None:
            return "table of pointers" if instruction.shape.subshape(buffer.leaf[1]).is_tuple else None
        if not facts.depends[attribution.node] and attribution.role is Role.CONSTANTS:
            return "depends on no argument"
        if attribution.role is Role.COLLECTIVES:
            return self._evidence.exchange_of(attribution.node)
        if attribution.role is not Role.WORKSPACE:
            return None
        if facts.argument[attribution.node] is not None:
            return "copy of an argument"
        node = facts.dataflow.nodes[attribution.node]
        if node.leaf[1] and not any(True for _ in facts.dataflow.readers(attribution.node)):
            return "scratch of a library call" if node.instruction.opcode == "custom-call" else "result nobody reads"
        return None

    def _explain_idle(self) -> None:
        """Idle bytes are what nothing holds."""
        slots = {
            allocation.index: allocation
            for allocation in self._profile.allocations
            if allocation.is_entry_computation_parameter
        }
        paths = {argument.parameter_number: argument.path for argument in self._arguments}
        for segment, role in self._idle:
            if role is not Role.FRAGMENTATION:
                continue
            slot = slots.get(segment.allocation)
            row = self.row(Role.FRAGMENTATION)
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

    def ask_for_what_is_left_out(self) -> None:
        """An array that the formula should speak of is no part of a difference, and leaves its row open."""
        for missing in left_out(self._formula, self._evidence, self._arguments, self._outputs):
            self.row(missing.role, missing.layer).add("not in the formula", missing.size_bytes, formula=missing.what)

    def show_damage(self) -> None:
        """What the assignment has lost or resized is no part of a difference either; idle memory does not stand for it."""
        instructions = self._profile.module.instructions
        for damage in self._profile.damage:
            self.row(Role.FRAGMENTATION).add(
                "damaged assignment",
                damage.size_bytes,
                instruction=instructions[damage.leaf[0]].name,
                shape_index=damage.leaf[1],
                found=damage.what,
            )

    def rows(self) -> tuple[LedgerRow, ...]:
        """The finished ledger."""
        order = {role: place for place, role in enumerate(Role)}
        keys = sorted(self._rows, key=lambda key: order[key[0]])
        return tuple(
            LedgerRow(
                term=_term(key[0]),
                symbol=self._formula.symbol(key[0]),
                layer=key[1],
                formula_bytes=self._rows[key].formula_bytes,
                compiled_bytes=self._rows[key].compiled_bytes,
                items=tuple(self._rows[key].items),
                reason=_reason(self._rows[key]),
            )
            for key in keys
            if self._rows[key].formula_bytes or self._rows[key].compiled_bytes or self._rows[key].items
        )


def _reason(row: _Row) -> str:
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


def compiled_rows(
    account: Account, *, hidden_bytes: int, code_bytes: int = 0, reason: Unknown
) -> tuple[LedgerRow, ...]:
    """The compiled side alone, where there is no formula to lay beside it; ``reason`` says why."""
    beside = {(Role.HIDDEN, ""): hidden_bytes, (Role.PROGRAM_CODE, ""): code_bytes}
    sizes = dict(account.bytes) | {key: size_bytes for key, size_bytes in beside.items() if size_bytes}
    order = {role: place for place, role in enumerate(Role)}
    return tuple(
        LedgerRow(
            term=_term(role),
            symbol="",
            layer=layer,
            formula_bytes=reason,
            compiled_bytes=sizes[role, layer],
            reason=reason.reason,
        )
        for role, layer in sorted(sizes, key=lambda key: (order[key[0]], key[1]))
    )


def _term(role: Role) -> str:
    return role.value.replace("_", " ")
