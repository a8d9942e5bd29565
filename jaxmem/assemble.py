"""Capture → Report: one compiled program read, attributed, laid beside its formula, and put into the result's own data."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jaxmem.attribution import Account, Attribution, Dataflow, Facts, attribute, take_account
from jaxmem.capture import Capture
from jaxmem.devices import Device
from jaxmem.errors import InputError
from jaxmem.formula import Formula, Leaf, derive_formula
from jaxmem.hidden import hidden_need
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION, ProgramFacts
from jaxmem.need import code_bytes
from jaxmem.profile import MAIN_COLORS, Buffer, MemoryProfile, profile_memory
from jaxmem.reconcile import compiled_rows, reconcile
from jaxmem.result import (
    BufferRow,
    BufferTable,
    Compared,
    DeviceFacts,
    Estimate,
    EstimateLayer,
    EstimateReport,
    EstimateRow,
    Hidden,
    HiddenFusion,
    LayerRow,
    LedgerRow,
    OtherMemory,
    Report,
    Versions,
    XlaNumbers,
    error_percent,
)
from jaxmem.roles import OPTIMIZER_ROLES, Phase, Role
from jaxmem.unknown import Unknown
from jaxmem.verdict import judge
from jaxmem.xla import BufferAssignment, read_hlo_proto
from jaxmem.xla.replay import live_peak_bytes

_NO_TABLE = Unknown("the program was handed over already lowered, so its operations are not known")

_ACTIVATIONS = frozenset({Role.SAVED_ACTIVATIONS, Role.TRANSIENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """The compiled side, read and attributed."""

    profile: MemoryProfile
    facts: Facts
    attributions: dict[int, Attribution]
    account: Account


def read_report(capture: Capture, *, origin: str = "the capture") -> Report:
    """Everything jaxmem knows about one compiled program.

    Args:
        capture: what the compile left behind.
        origin: what to call it in error messages.

    Raises:
        InputError: the module in the capture is damaged, or has no buffer assignment.
        InvariantError: a sum that must close does not.
    """
    module, assignment = read_hlo_proto(capture.hlo_proto, origin=origin)
    if assignment is None:
        raise InputError(f"The module in {origin} has no buffer assignment. Capture the program again.")
    profile = profile_memory(module, assignment, platform=capture.device.platform)
    facts = Facts(Dataflow(module), capture.arguments, capture.outputs)
    attributions = attribute(profile, facts)
    compiled = _Compiled(
        profile=profile, facts=facts, attributions=attributions, account=take_account(profile, attributions)
    )
    hidden = _hidden(compiled, capture)
    formula = (
        derive_formula(
            capture.layer_table,
            capture.arguments,
            capture.outputs,
            capture.program,
            platform=capture.device.platform,
            threads=capture.host.threads,
        )
        if capture.layer_table is not None
        else None
    )
    program_code_bytes = code_bytes(capture, assignment)
    ledger = _ledger(capture, compiled, formula, hidden, program_code_bytes)
    reserved_bytes = profile.reserved_bytes + program_code_bytes
    required_bytes = reserved_bytes + (hidden.bytes or 0)
    rows = {buffer.id: _buffer_row(buffer, compiled) for buffer in profile.buffers}
    live = [rows[identifier] for identifier in profile.live_at_peak]
    return Report(
        program=capture.program,
        device=device_facts(capture.device, capture.device_count),
        versions=_versions(capture),
        xla=_xla_numbers(capture),
        live_peak_bytes=profile.live_peak_bytes,
        reserved_bytes=reserved_bytes,
        hidden=hidden,
        required_bytes=required_bytes,
        required_is_lower_bound=hidden.bytes is None,
        roles=_roles(ledger),
        ledger=ledger,
        unexplained_bytes=_unexplained(ledger),
        estimates=_estimates(formula, required_bytes),
        layers=_layers(ledger, formula),
        peak_buffers=tuple(sorted(live, key=lambda row: (-row.bytes, row.allocation, row.offset))),
        buffers=BufferTable.from_rows(rows.values()),
        other_memories=_other_memories(assignment, capture.device.platform),
        verdict=judge(capture, required_bytes=required_bytes, reserved_bytes=reserved_bytes),
        notes=_notes(capture, hidden),
    )


_HIDDEN = {
    "cuda": Hidden(
        bytes=None,
        reason="compiled without the card, XLA leaves out what it would measure or load there: workspace of cuDNN's "
        "convolutions (planned as 0 bytes), the program's code, the CUDA context, NCCL's buffers.",
    ),
    "tpu": Hidden(bytes=0, reason="the TPU compiler plans all memory of a program; its code is counted."),
}
"""What is hidden where no library runs inside the program."""


def _hidden(compiled: _Compiled, capture: Capture) -> Hidden:
    if (hidden := _HIDDEN.get(capture.device.platform)) is not None:
        recorded = AUTOTUNE_RESULTS_OPTION in dict(capture.compiler_options)
        planned = "planned as 0 bytes"
        where_not = f"{planned} where no result was recorded"
        return replace(hidden, reason=hidden.reason.replace(planned, where_not)) if recorded else hidden
    need = hidden_need(compiled.profile.module, threads=capture.host.threads)
    layer = {
        fusion.instruction_id: next(
            (
                compiled.facts.layer[node]
                for index, _ in compiled.profile.module.instructions[fusion.instruction_id].shape.leaves()
                if (node := compiled.facts.dataflow.node_at.get((fusion.instruction_id, index))) is not None
            ),
            "",
        )
        for fusion in need.fusions
    }
    return Hidden(
        bytes=need.bytes,
        reason=need.reason,
        fusions=tuple(
            HiddenFusion(instruction=fusion.name, layer=layer[fusion.instruction_id], bytes=fusion.inside_bytes)
            for fusion in need.fusions
        ),
    )


def _ledger(
    capture: Capture, compiled: _Compiled, formula: Formula | None, hidden: Hidden, program_code_bytes: int
) -> tuple[LedgerRow, ...]:
    if formula is None:
        return compiled_rows(
            compiled.account, hidden_bytes=hidden.bytes or 0, code_bytes=program_code_bytes, reason=_NO_TABLE
        )
    return reconcile(
        formula,
        compiled.account,
        compiled.profile,
        compiled.facts,
        compiled.attributions,
        capture.arguments,
        capture.outputs,
        hidden_bytes=hidden.bytes or 0,
        hidden_fusions=[fusion.instruction for fusion in hidden.fusions],
        code_bytes=program_code_bytes,
    )


def _roles(ledger: Iterable[LedgerRow]) -> dict[Role, int]:
    """The rows of the ledger are one role each; their compiled side is the account."""
    sums: dict[Role, int] = {}
    for row in ledger:
        role = Role(row.term.replace(" ", "_"))
        sums[role] = sums.get(role, 0) + row.compiled_bytes
    return sums


def _unexplained(ledger: Iterable[LedgerRow]) -> int | Unknown:
    total = 0
    for row in ledger:
        unexplained = row.unexplained_bytes
        if isinstance(unexplained, Unknown):
            return unexplained
        total += unexplained
    return total


def _estimates(formula: Formula | None, required_bytes: int) -> tuple[Estimate, ...]:
    if formula is None:
        return (Estimate(name="jaxmem", formula="", bytes=_NO_TABLE, error_percent=_NO_TABLE),)
    own = Estimate(
        name="jaxmem",
        formula=_written_out(formula),
        bytes=formula.bytes,
        error_percent=error_percent(formula.bytes, required_bytes),
    )
    return (
        own,
        *(
            Estimate(
                name=textbook.name,
                formula=textbook.formula,
                bytes=textbook.bytes,
                error_percent=error_percent(textbook.bytes, required_bytes),
            )
            for textbook in formula.textbook
        ),
    )


def _written_out(formula: Formula) -> str:
    """The sum with the numbers put in, ``3w 1,660,290,528 + B·input 602,112 + ...``; terms of one symbol together."""
    sums: dict[str, list[int]] = {}
    for role in Role:
        size_bytes = sum(leaf.bytes for leaf in formula.leaves if leaf.counted and leaf.role is role)
        if size_bytes:
            sums.setdefault(formula.symbol(role), []).append(size_bytes)
    return " + ".join(
        f"{len(sizes) if len(sizes) > 1 else ''}{symbol} {sum(sizes):,}" for symbol, sizes in sums.items()
    )


def _layers(ledger: Sequence[LedgerRow], formula: Formula | None) -> tuple[LayerRow, ...]:
    groups = {
        "parameters": frozenset({Role.PARAMETERS}),
        "gradients": frozenset({Role.GRADIENTS}),
        "optimizer": OPTIMIZER_ROLES,
        "activations": _ACTIVATIONS,
    }
    layers = list(dict.fromkeys(row.layer for row in ledger if row.layer))
    if formula is not None:
        order = {layer: place for place, layer in enumerate(dict.fromkeys(leaf.layer for leaf in formula.leaves))}
        layers.sort(key=lambda layer: order.get(layer, len(order)))
    rows = []
    for layer in layers:
        compared = {}
        for name, roles in groups.items():
            own = [row for row in ledger if row.layer == layer and Role(row.term.replace(" ", "_")) in roles]
            expected = 0
            for row in own:
                expected += row.formula_bytes if isinstance(row.formula_bytes, int) else 0
            compared[name] = Compared(
                formula_bytes=expected if formula is not None else _NO_TABLE,
                compiled_bytes=sum(row.compiled_bytes for row in own),
            )
        rows.append(LayerRow(layer=layer, **compared))
    return tuple(rows)


def _buffer_row(buffer: Buffer, compiled: _Compiled) -> BufferRow:
    attribution = compiled.attributions[buffer.id]
    instruction = compiled.profile.instruction(buffer)
    shape = instruction.shape.subshape(buffer.leaf[1])
    node = attribution.node
    origin = (
        compiled.facts.dataflow.nodes[compiled.facts.dataflow.origins[node]].instruction if node is not None else None
    )
    frames = compiled.profile.module.source(origin or instruction) or compiled.profile.module.source(instruction)
    return BufferRow(
        bytes=buffer.size_bytes,
        logical_bytes=buffer.logical_bytes,
        role=attribution.role,
        layer=attribution.layer,
        phase=attribution.phase if node is not None else Phase.UNKNOWN,
        instruction=instruction.name,
        opcode=instruction.opcode,
        shape=shape.dimensions,
        dtype=shape.element_type,
        source=f"{frames[0].file}:{frames[0].line}" if frames else "",
        start=buffer.start,
        end=buffer.end,
        allocation=buffer.allocation,
        offset=buffer.offset,
        rule=attribution.rule,
    )


def device_facts(device: Device, device_count: int = 1) -> DeviceFacts:
    """A device, as a report names it."""
    return DeviceFacts(
        name=device.name,
        platform=device.platform,
        memory_bytes=device.memory_bytes,
        usable_bytes=device.usable_bytes,
        device_count=device_count,
        attached=device.attached or device.platform == "cpu",
    )


def _versions(capture: Capture) -> Versions:
    known = dict(capture.versions)
    missing = Unknown("the capture does not say")
    return Versions(
        jaxmem=known.get("jaxmem", ""),
        jax=known.get("jax", missing),
        jaxlib=known.get("jaxlib", missing),
        **({"libtpu": known.get("libtpu", missing)} if capture.device.platform == "tpu" else {}),
        compiler_options=capture.compiler_options,
    )


def _xla_numbers(capture: Capture) -> XlaNumbers:
    statistics = capture.statistics
    return XlaNumbers(
        argument_bytes=statistics.argument_bytes,
        output_bytes=statistics.output_bytes,
        alias_bytes=statistics.alias_bytes,
        temp_bytes=statistics.temp_bytes,
        generated_code_bytes=statistics.generated_code_bytes,
        reported_peak_bytes=statistics.reported_peak_bytes,
    )


_MEMORIES = {
    ("tpu", 1): "VMEM (on-chip)",
    ("tpu", 2): "SMEM (on-chip)",
    ("tpu", 3): "CMEM (on-chip)",
    ("tpu", 5): "host memory",
    ("cuda", 5): "host memory",
}
"""What people call a memory space (`xla/layout.h` and, on TPU, what its dumps show)."""


def _other_memories(assignment: BufferAssignment, platform: str) -> tuple[OtherMemory, ...]:
    sizes: dict[int, int] = {}
    for allocation in assignment.allocations:
        if allocation.color not in MAIN_COLORS[platform] and not allocation.is_thread_local:
            sizes[allocation.color] = sizes.get(allocation.color, 0) + allocation.size
    return tuple(
        OtherMemory(
            name=_MEMORIES.get((platform, color), f"memory space {color}"),
            color=color,
            reserved_bytes=sizes[color],
            live_peak_bytes=live_peak_bytes(assignment, frozenset({color})),
        )
        for color in sorted(sizes)
    )


def _notes(capture: Capture, hidden: Hidden) -> tuple[str, ...]:
    notes = []
    if capture.failure is not None:
        notes.append(f"The compiler refused the program: {capture.failure}")
    if dict(capture.compiler_options).get("xla_gpu_enable_triton_gemm") == "False":
        notes.append("Compiled without Triton matrix products (xla_gpu_enable_triton_gemm).")
    if AUTOTUNE_RESULTS_OPTION in dict(capture.compiler_options):
        notes.append("With recorded autotune results; XLA's default for operations that they do not name.")
    if capture.device.derived:
        notes.append(f"{capture.device.name}: {capture.device.target_source}")
    if capture.device.platform == "cpu":
        notes.append(
            "On CPU, JAX's own peak (peak_memory_in_bytes) leaves the temporaries out; compare live_peak_bytes instead."
        )
    if hidden.fusions:
        notes.append(
            "The opaque fusions run inside a library that allocates memory XLA does not see; it is counted as hidden. "
            "The compiler option xla_cpu_experimental_ynn_fusion_type= (empty) opens the library's."
        )
    if capture.layer_table is None:
        notes.append(f"There is no formula: {_NO_TABLE.reason}.")
    return tuple(notes)


def estimate_report(formula: Formula, program: ProgramFacts, device: DeviceFacts) -> EstimateReport:
    """The formula alone, as a report."""
    rows: dict[tuple[Role, str], int] = {}
    for leaf in formula.leaves:
        if leaf.counted:
            rows[(leaf.role, leaf.layer)] = rows.get((leaf.role, leaf.layer), 0) + leaf.bytes
    order = {role: place for place, role in enumerate(Role)}
    no_compile = Unknown("nothing was compiled")
    counted = [leaf for leaf in formula.leaves if leaf.counted]
    layers = list(dict.fromkeys(leaf.layer for leaf in counted if leaf.layer))
    leaves: dict[tuple[Role, str], list[Leaf]] = defaultdict(list)
    for leaf in counted:
        leaves[leaf.role, leaf.layer].append(leaf)

    def layer_bytes(layer: str, roles: Iterable[Role]) -> int:
        return sum(rows.get((role, layer), 0) for role in roles)

    return EstimateReport(
        program=program,
        device=device,
        rows=tuple(
            EstimateRow(
                term=role.value.replace("_", " "),
                symbol=formula.symbol(role),
                layer=layer,
                formula=_written_leaf_by_leaf(leaves[role, layer]),
                bytes=rows[(role, layer)],
            )
            for role, layer in sorted(rows, key=lambda key: order[key[0]])
        ),
        total_bytes=formula.bytes,
        layers=tuple(
            EstimateLayer(
                layer=layer,
                parameter_bytes=layer_bytes(layer, [Role.PARAMETERS]),
                gradient_bytes=layer_bytes(layer, [Role.GRADIENTS]),
                optimizer_bytes=layer_bytes(layer, OPTIMIZER_ROLES),
                activation_bytes=layer_bytes(layer, _ACTIVATIONS),
            )
            for layer in layers
        ),
        estimates=(
            Estimate(name="jaxmem", formula=_written_out(formula), bytes=formula.bytes, error_percent=no_compile),
            *(
                Estimate(name=t.name, formula=t.formula, bytes=t.bytes, error_percent=no_compile)
                for t in formula.textbook
            ),
        ),
        notes=(f"The formula's peak is in the {formula.peak}.",),
    )


def _written_leaf_by_leaf(leaves: Iterable[Leaf], most: int = 6) -> str:
    """What a row adds up."""
    named = [f"{leaf.name} {leaf.bytes:,}" for leaf in sorted(leaves, key=lambda leaf: -leaf.bytes)]
    more = [f"{len(named) - most} more"] if len(named) > most else []
    return " + ".join(named[:most] + more)
