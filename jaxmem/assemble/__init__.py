"""What was read, attributed and reconciled, put into the result's own data: a report of a compile or of a dump,
or the formula alone."""

from typing import TYPE_CHECKING

from jaxmem.late_names import looked_up_late

if TYPE_CHECKING:
    from jaxmem.assemble.dump import list_dumps, read_dump_report
    from jaxmem.assemble.estimate import NO_TABLE, estimate_report
    from jaxmem.assemble.formula import formula_of, formula_on
    from jaxmem.assemble.headings import device_facts, program_facts
    from jaxmem.assemble.report import read_report

__all__ = [
    "NO_TABLE",
    "device_facts",
    "estimate_report",
    "formula_of",
    "formula_on",
    "list_dumps",
    "program_facts",
    "read_dump_report",
    "read_report",
]

__getattr__ = looked_up_late(
    __name__,
    {
        "jaxmem.assemble.headings": ("device_facts", "program_facts"),
        "jaxmem.assemble.dump": ("list_dumps", "read_dump_report"),
        "jaxmem.assemble.estimate": ("NO_TABLE", "estimate_report"),
        "jaxmem.assemble.formula": ("formula_of", "formula_on"),
        "jaxmem.assemble.report": ("read_report",),
    },
)
