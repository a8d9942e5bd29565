"""What to compile next, and what the answers amount to: sweeps.

The planner is handed a function that analyses one program. It knows neither JAX nor a compiler.
"""

from jaxmem.planner.sweep import Failed, Job, sweep

__all__ = ["Failed", "Job", "sweep"]
