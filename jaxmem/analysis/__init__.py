"""The only room that knows the order: wiring, no logic. Behind the Python API and the command line.

A program of the zoo whose capture or estimate is in the cache is answered without importing JAX; a user's program is traced
again each time, since what it imports may have changed, and finds its capture by what it lowers to.

Each question has a module of its own, imported when it is first asked: an estimate has no use for what reads a compile.
"""

from typing import TYPE_CHECKING

from jaxmem.late_names import looked_up_late

if TYPE_CHECKING:
    from jaxmem.analysis.comparing import compare, compare_targets
    from jaxmem.analysis.diffing import diff
    from jaxmem.analysis.estimating import estimate, estimate_target
    from jaxmem.analysis.explaining import explain_oom
    from jaxmem.analysis.loading import analyze_dump, load
    from jaxmem.analysis.planning import Question, fit, fit_target
    from jaxmem.analysis.reporting import analyze, analyze_target, capture_target
    from jaxmem.analysis.targets import Progress, Target, program_of
    from jaxmem.analysis.together import analyze_together

__all__ = [
    "Progress",
    "Question",
    "Target",
    "analyze",
    "analyze_dump",
    "analyze_target",
    "analyze_together",
    "capture_target",
    "compare",
    "compare_targets",
    "diff",
    "estimate",
    "estimate_target",
    "explain_oom",
    "fit",
    "fit_target",
    "load",
    "program_of",
]

__getattr__ = looked_up_late(
    __name__,
    {
        "jaxmem.analysis.comparing": ("compare", "compare_targets"),
        "jaxmem.analysis.diffing": ("diff",),
        "jaxmem.analysis.estimating": ("estimate", "estimate_target"),
        "jaxmem.analysis.explaining": ("explain_oom",),
        "jaxmem.analysis.loading": ("analyze_dump", "load"),
        "jaxmem.analysis.planning": ("Question", "fit", "fit_target"),
        "jaxmem.analysis.reporting": ("analyze", "analyze_target", "capture_target"),
        "jaxmem.analysis.targets": ("Progress", "Target", "program_of"),
        "jaxmem.analysis.together": ("analyze_together",),
    },
)
