"""Reports made of buffers written down by hand: what is live at the peak is the account."""

from collections.abc import Sequence

from jaxmem.lowering import ProgramFacts
from jaxmem.result import (
    BufferRow,
    BufferTable,
    DeviceFacts,
    Hidden,
    LedgerRow,
    Report,
    Verdict,
    Versions,
    XlaNumbers,
)
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

KIB, MIB = 1 << 10, 1 << 20
NO_DEVICE = Unknown("nobody asked")


def buffer(
    instruction: str,
    size_bytes: int,
    *,
    layer: str = "conv1",
    role: Role = Role.SAVED_ACTIVATIONS,
    phase: Phase = Phase.FORWARD,
    opcode: str = "fusion",
    shape: tuple[int, ...] | None = None,
    dtype: str = "f32",
    source: str = "net.py:10",
    start: int = 0,
) -> BufferRow:
    """One buffer; its shape is that of a vector where none is given."""
    return BufferRow(
        bytes=size_bytes,
        logical_bytes=size_bytes,
        role=role,
        layer=layer,
        phase=phase,
        instruction=instruction,
        opcode=opcode,
        shape=(size_bytes // 4,) if shape is None else shape,
        dtype=dtype,
        source=source,
        start=start,
        end=start + 1,
        allocation=0,
        offset=start,
        rule="by hand",
    )


def report_of(
    *peak: BufferRow,
    others: Sequence[BufferRow] = (),
    name: str = "net",
    mode: str | None = "train",
    batch_size: int | None = 8,
    device: str = "cpu",
    jaxlib: str = "0.10.2",
    hidden_bytes: int | None = 0,
) -> Report:
    """A report in which each buffer at the peak is a row of the ledger."""
    reserved = sum(row.bytes for row in peak)
    required = reserved + (hidden_bytes or 0)
    rows = [(row.role, row.layer, row.bytes) for row in peak] + [(Role.HIDDEN, "", hidden_bytes or 0)]
    roles: dict[Role, int] = {}
    for role, _, size_bytes in rows:
        roles[role] = roles.get(role, 0) + size_bytes
    return Report(
        program=ProgramFacts(name=name, mode=mode, batch_size=batch_size),
        device=DeviceFacts(name=device, platform="cpu", memory_bytes=NO_DEVICE, usable_bytes=NO_DEVICE),
        versions=Versions(jaxmem="0.1.0", jax=jaxlib, jaxlib=jaxlib),
        xla=XlaNumbers(
            argument_bytes=0,
            output_bytes=0,
            alias_bytes=0,
            temp_bytes=reserved,
            generated_code_bytes=0,
            reported_peak_bytes=0,
        ),
        live_peak_bytes=reserved,
        reserved_bytes=reserved,
        hidden=Hidden(bytes=hidden_bytes, reason="by hand"),
        required_bytes=required,
        required_is_lower_bound=hidden_bytes is None,
        roles=roles,
        ledger=tuple(
            LedgerRow(
                term=role.value.replace("_", " "), symbol="", layer=layer, formula_bytes=size, compiled_bytes=size
            )
            for role, layer, size in rows
        ),
        unexplained_bytes=0,
        peak_buffers=tuple(sorted(peak, key=lambda row: -row.bytes)),
        buffers=BufferTable.from_rows((*peak, *others)),
        verdict=Verdict(
            fits=NO_DEVICE, judged_bytes=required, usable_bytes=NO_DEVICE, headroom_bytes=NO_DEVICE, rule="none"
        ),
    )
