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

_HOMES = {
    "analyze": "jaxmem.analysis",
    "analyze_dump": "jaxmem.analysis",
    "analyze_together": "jaxmem.analysis",
    "compare": "jaxmem.analysis",
    "diff": "jaxmem.analysis",
    "estimate": "jaxmem.analysis",
    "explain_oom": "jaxmem.analysis",
    "fit": "jaxmem.analysis",
    "load": "jaxmem.analysis",
    "Program": "jaxmem.program",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxmem' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
