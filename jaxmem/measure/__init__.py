"""A program really run, in a fresh process, on the device that is attached: what it took, beside what was predicted.

What travels to that process is the module of a capture. Its arguments are made there: zeros for integers, so that labels and
indices are in range, a small constant for everything else. Memory does not depend on their values, unless a loop does.
"""

from jaxmem.measure.beside import measured_beside
from jaxmem.measure.data import Counted, Measurement
from jaxmem.measure.run import DEFAULT_TIMEOUT_SECONDS, measure_capture, refuse_elsewhere

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "Counted",
    "Measurement",
    "measure_capture",
    "measured_beside",
    "refuse_elsewhere",
]
