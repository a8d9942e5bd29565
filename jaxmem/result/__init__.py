"""The answer as data: one `Report` per program, mode, device and batch size.

The dataclasses here are the JSON of ``--format json``: the same names, the same nesting. `jaxmem.result.json_text`
turns them into text and back, `jaxmem.report` into pages for people. Data only, without JAX.

Whatever must add up is checked when a value is made, so a report that exists is a report that closes.
"""

from jaxmem.result.buffers import BufferRow, BufferTable, Schedule
from jaxmem.result.comparison import COMPARISON_SCHEMA, Comparison, ComparisonCell
from jaxmem.result.diff import DIFF_SCHEMA, BufferChange, Diff, Diffs, DiffSide, LayerChange, RoleChange
from jaxmem.result.dump_folder import DUMP_FOLDER_SCHEMA, DumpedModule, DumpFolder
from jaxmem.result.estimate import (
    ESTIMATE_SCHEMA,
    EstimateLayer,
    EstimateReport,
    EstimateReports,
    EstimateRow,
    ScalingLaw,
    ScalingRow,
    scaling_law,
)
from jaxmem.result.facts import (
    DeviceFacts,
    GemmRange,
    GemmVariant,
    Hidden,
    HiddenFusion,
    Measured,
    OtherMemory,
    RoleBytes,
    Verdict,
    Versions,
    XlaNumbers,
    gemm_range,
)
from jaxmem.result.fit import (
    FIT_SCHEMA,
    Advice,
    Boundary,
    DonationLeaf,
    DonationOutcome,
    Fit,
    Fits,
    Probe,
)
from jaxmem.result.json_text import from_json, load, save, to_json
from jaxmem.result.ledger import (
    Compared,
    Estimate,
    Evidence,
    EvidenceValue,
    LayerRow,
    LedgerItem,
    LedgerRow,
    error_percent,
)
from jaxmem.result.out_of_memory import OUT_OF_MEMORY_SCHEMA, Failure, LargeBuffer, NamedSize, OutOfMemory
from jaxmem.result.report import REPORT_SCHEMA, Report, Reports
from jaxmem.result.together import TOGETHER_SCHEMA, Moment, Together

__all__ = [
    "COMPARISON_SCHEMA",
    "DIFF_SCHEMA",
    "DUMP_FOLDER_SCHEMA",
    "ESTIMATE_SCHEMA",
    "FIT_SCHEMA",
    "OUT_OF_MEMORY_SCHEMA",
    "REPORT_SCHEMA",
    "TOGETHER_SCHEMA",
    "Advice",
    "Boundary",
    "BufferChange",
    "BufferRow",
    "BufferTable",
    "Compared",
    "Comparison",
    "ComparisonCell",
    "DeviceFacts",
    "Diff",
    "DiffSide",
    "Diffs",
    "DonationLeaf",
    "DonationOutcome",
    "DumpFolder",
    "DumpedModule",
    "Estimate",
    "EstimateLayer",
    "EstimateReport",
    "EstimateReports",
    "EstimateRow",
    "Evidence",
    "EvidenceValue",
    "Failure",
    "Fit",
    "Fits",
    "GemmRange",
    "GemmVariant",
    "Hidden",
    "HiddenFusion",
    "LargeBuffer",
    "LayerChange",
    "LayerRow",
    "LedgerItem",
    "LedgerRow",
    "Measured",
    "Moment",
    "NamedSize",
    "OtherMemory",
    "OutOfMemory",
    "Probe",
    "Report",
    "Reports",
    "RoleBytes",
    "RoleChange",
    "ScalingLaw",
    "ScalingRow",
    "Schedule",
    "Together",
    "Verdict",
    "Versions",
    "XlaNumbers",
    "error_percent",
    "from_json",
    "gemm_range",
    "load",
    "save",
    "scaling_law",
    "to_json",
]
