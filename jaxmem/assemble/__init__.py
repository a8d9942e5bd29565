"""What was read, attributed and reconciled, put into the result's own data: a report of a compile, or the formula alone."""

from jaxmem.assemble.estimate import estimate_report
from jaxmem.assemble.facts import device_facts
from jaxmem.assemble.report import read_report

__all__ = ["device_facts", "estimate_report", "read_report"]
