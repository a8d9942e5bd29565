"""What to compile next, and what the answers amount to: boundary batches, advice and sweeps.

The planner is handed a function that analyses one program. It knows neither JAX nor a compiler, so its searches are
tested on memory curves of any shape.
"""

from jaxmem.planner.advice import Changed, Tried, advise
from jaxmem.planner.boundary import find_boundary
from jaxmem.planner.flops import matrix_flops
from jaxmem.planner.sweep import Failed, Job, sweep

__all__ = ["Changed", "Failed", "Job", "Tried", "advise", "find_boundary", "matrix_flops", "sweep"]
