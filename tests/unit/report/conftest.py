"""A report small enough to check by hand and rich enough to show every part of a page."""

import pytest

from jaxmem.lowering import ProgramFacts
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
    LedgerItem,
    LedgerRow,
    Report,
    Verdict,
    Versions,
    XlaNumbers,
    error_percent,
)
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

# Two layers with w = 1000 and 2000 numbers of 4 B, Adam, batch 32. The compiler keeps a mask of 40,000 B less than the
# formula has, and pads a saved map by 24 B.
PARAMETERS = 4 * 3000
MOMENT = 4 * 3000
SAVED = (4_000_000, 8_000_000)
WORKSPACE = 1_500_000
HIDDEN = 2_000_000
RESERVED = PARAMETERS + 2 * MOMENT + 4 + SAVED[0] - 40_000 + SAVED[1] + 24 + WORKSPACE
REQUIRED = RESERVED + HIDDEN


@pytest.fixture
def program() -> ProgramFacts:
    return ProgramFacts(
        name="two_layers",
        mode="train",
        batch_size=32,
        optimizer="adam",
        dtype="float32",
        parameter_count=3000,
        donated=True,
        source="examples/two_layers.py",
    )


@pytest.fixture
def device() -> DeviceFacts:
    return DeviceFacts(name="cpu", platform="cpu", memory_bytes=24 * 2**30, usable_bytes=20 * 2**30, attached=True)


@pytest.fixture
def ledger() -> tuple[LedgerRow, ...]:
    mask = LedgerItem(
        kind="fused_away", bytes=-40_000, evidence=(("formula", "relu mask of conv1"), ("instruction", "fusion.7"))
    )
    padding = LedgerItem(kind="padding", bytes=24, evidence=(("buffer", "convolution.2"), ("live", (12, 80))))
    kept = LedgerItem(kind="workspace", bytes=WORKSPACE, evidence=(("instruction", "convolution.9"),))
    hidden = LedgerItem(kind="hidden_in_fusion", bytes=HIDDEN, evidence=(("fusions", ("fusion.1", "fusion.2")),))
    return (
        LedgerRow(term="parameters", symbol="w", formula_bytes=PARAMETERS, compiled_bytes=PARAMETERS),
        LedgerRow(term="Adam moments", symbol="2w + 4", formula_bytes=2 * MOMENT + 4, compiled_bytes=2 * MOMENT + 4),
        LedgerRow(
            term="saved activations",
            symbol="B·saved",
            layer="block1/conv1",
            formula_bytes=SAVED[0],
            compiled_bytes=SAVED[0] - 40_000,
            items=(mask,),
            reason="The ReLU mask is recomputed from the kept output.",
        ),
        LedgerRow(
            term="saved activations",
            symbol="B·saved",
            layer="block1/conv2",
            formula_bytes=SAVED[1],
            compiled_bytes=SAVED[1] + 24,
            items=(padding,),
            reason="Rounded up to the alignment of the allocator.",
        ),
        LedgerRow(
            term="workspace",
            symbol="",
            formula_bytes=0,
            compiled_bytes=WORKSPACE,
            items=(kept,),
            reason="The convolution library asks for scratch memory that no formula knows.",
        ),
        LedgerRow(
            term="hidden",
            symbol="",
            formula_bytes=0,
            compiled_bytes=HIDDEN,
            items=(hidden,),
            reason="Allocated inside library fusions, unseen by the compiler.",
        ),
    )


@pytest.fixture
def buffer() -> BufferRow:
    return BufferRow(
        bytes=SAVED[1] + 24,
        logical_bytes=SAVED[1],
        role=Role.SAVED_ACTIVATIONS,
        layer="block1/conv2",
        phase=Phase.FORWARD,
        instruction="convolution.2",
        opcode="convolution",
        shape=(32, 250, 250, 1),
        dtype="f32",
        source="examples/two_layers.py:17",
        start=12,
        end=80,
        allocation=3,
        offset=64,
        rule="made forward, last used backward",
    )


@pytest.fixture
def report(program: ProgramFacts, device: DeviceFacts, ledger: tuple[LedgerRow, ...], buffer: BufferRow) -> Report:
    textbook = 4 * PARAMETERS + sum(SAVED)
    nothing = Compared(formula_bytes=0, compiled_bytes=0)
    return Report(
        program=program,
        device=device,
        versions=Versions(jaxmem="0.1.0", jax="0.10.2", jaxlib="0.10.2", compiler_options=(("xla_cpu_flag", "true"),)),
        xla=XlaNumbers(
            argument_bytes=3 * PARAMETERS + 4,
            output_bytes=3 * PARAMETERS + 8,
            alias_bytes=3 * PARAMETERS + 4,
            temp_bytes=RESERVED - 3 * PARAMETERS - 8,
            generated_code_bytes=0,
            reported_peak_bytes=3 * PARAMETERS + 8,
        ),
        live_peak_bytes=RESERVED - 512,
        reserved_bytes=RESERVED,
        hidden=Hidden(
            bytes=HIDDEN,
            reason="the largest need of one fusion, by live ranges inside it",
            fusions=(
                HiddenFusion(instruction="fusion.1", layer="block1/conv1", bytes=1_000_000),
                HiddenFusion(instruction="fusion.2", layer="block1/conv2", bytes=HIDDEN),
            ),
        ),
        required_bytes=REQUIRED,
        required_is_lower_bound=False,
        roles={
            Role.PARAMETERS: PARAMETERS,
            Role.OPTIMIZER_FIRST_MOMENT: MOMENT,
            Role.OPTIMIZER_SECOND_MOMENT: MOMENT,
            Role.OPTIMIZER_OTHER: 4,
            Role.SAVED_ACTIVATIONS: sum(SAVED) - 40_000,
            Role.PADDING: 24,
            Role.WORKSPACE: WORKSPACE,
            Role.HIDDEN: HIDDEN,
        },
        ledger=ledger,
        unexplained_bytes=0,
        estimates=(
            Estimate(
                name="jaxmem",
                formula="w + 2w + 4 + B·saved",
                bytes=3 * PARAMETERS + 4 + sum(SAVED),
                error_percent=error_percent(3 * PARAMETERS + 4 + sum(SAVED), REQUIRED),
            ),
            Estimate(
                name="textbook: 4w + B·ΣF",
                formula="4 × 12,000 + 32 × 375,000",
                bytes=textbook,
                error_percent=error_percent(textbook, REQUIRED),
            ),
        ),
        layers=(
            LayerRow(
                layer="block1/conv1",
                parameters=Compared(formula_bytes=4000, compiled_bytes=4000),
                gradients=nothing,
                optimizer=Compared(formula_bytes=8000, compiled_bytes=8000),
                activations=Compared(formula_bytes=SAVED[0], compiled_bytes=SAVED[0] - 40_000),
            ),
            LayerRow(
                layer="block1/conv2",
                parameters=Compared(formula_bytes=8000, compiled_bytes=8000),
                gradients=nothing,
                optimizer=Compared(formula_bytes=16_000, compiled_bytes=16_000),
                activations=Compared(formula_bytes=SAVED[1], compiled_bytes=SAVED[1] + 24),
            ),
        ),
        peak_buffers=(buffer,),
        buffers=BufferTable.from_rows((buffer,)),
        verdict=Verdict(
            fits=True,
            judged_bytes=REQUIRED,
            usable_bytes=20 * 2**30,
            headroom_bytes=20 * 2**30 - REQUIRED,
            rule="Judged: required against the memory of this machine.",
            assumptions=("Nothing else of size runs on this machine.",),
        ),
    )


@pytest.fixture
def estimate_report(program: ProgramFacts, device: DeviceFacts) -> EstimateReport:
    total = 3 * PARAMETERS + 4 + sum(SAVED)
    return EstimateReport(
        program=program,
        device=device,
        rows=(
            EstimateRow(term="parameters", symbol="w", formula="4 B × 3,000", bytes=PARAMETERS),
            EstimateRow(term="Adam moments", symbol="2w + 4", formula="2 × 12,000 B + 4 B", bytes=2 * MOMENT + 4),
            EstimateRow(
                term="saved activations", symbol="B·saved", formula="32 × (125,000 B + 250,000 B)", bytes=sum(SAVED)
            ),
        ),
        total_bytes=total,
        layers=(
            EstimateLayer(
                layer="block1/conv1",
                parameter_bytes=4000,
                gradient_bytes=0,
                optimizer_bytes=8000,
                activation_bytes=SAVED[0],
            ),
        ),
        estimates=(
            Estimate(
                name="jaxmem", formula="3w + 4 + B·saved", bytes=total, error_percent=Unknown("nothing was compiled")
            ),
        ),
    )
