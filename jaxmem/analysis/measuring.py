"""A report with a measurement: the program of its capture, really run."""

from dataclasses import replace
from math import prod

from jaxmem.analysis.targets import Progress, Target
from jaxmem.capture import Capture
from jaxmem.measure import measure_capture, measured_beside, refuse_elsewhere
from jaxmem.result import Report


def refuse_early(target: Target) -> None:
    """Before the compile: refuse what cannot be measured here. A saved capture tells only once it is read."""
    if not target.text.lower().endswith(".jaxmem"):
        refuse_elsewhere(target.find_device(), prod(size for _, size in target.mesh))


def with_measurement(report: Report, capture: Capture, progress: Progress) -> Report:
    """The same report, with what the program took where it ran. Raises as `measure_capture`."""
    return replace(report, measured=measured_beside(report, measure_capture(capture, progress=progress)))
