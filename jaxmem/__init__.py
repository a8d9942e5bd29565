"""jaxmem: how many bytes a JAX program needs, where every one of them goes, and whether it fits.

    report = jaxmem.analyze(train_step, state, batch, device="cpu", donate_argnums=0)
    report.required_bytes, report.roles, report.ledger

Names are looked up when they are first used, so that importing jaxmem imports nothing else.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxmem.analysis import analyze, analyze_dump, analyze_together, compare, diff, estimate, explain_oom, fit, load
    from jaxmem.program import Program

__all__ = [
    "Program",
    "__version__",
    "analyze",
    "analyze_dump",
    "analyze_together",
    "compare",
    "diff",
    "estimate",
    "explain_oom",
    "fit",
    "load",
]


_NAMES = {
    "jaxmem.analysis": (
        *("analyze", "analyze_dump", "analyze_together", "compare", "diff"),
        *("estimate", "explain_oom", "fit", "load"),
    ),
    "jaxmem.program": ("Program",),
}


def __getattr__(name: str) -> Any:
    from jaxmem.late_names import looked_up_late

    return looked_up_late(__name__, _NAMES)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
