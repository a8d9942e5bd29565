"""What was read, attributed and reconciled, put into the result's own data: a report of a compile or of a dump,
or the formula alone."""

from jaxmem.assemble.dump import list_dumps, read_dump_report
from jaxmem.assemble.estimate import estimate_report
from jaxmem.assemble.facts import device_facts
from jaxmem.assemble.report import read_report

__all__ = ["device_facts", "estimate_report", "list_dumps", "read_dump_report", "read_report"]
