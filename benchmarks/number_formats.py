"""The formula against the compile in 16-bit floats, which a GPU computes in and a processor does not.

    python -m benchmarks.number_formats      # an H100 and the processor; compiles come from jaxmem's cache

Needs a GPU's compiler: ``pip install "jaxmem[cuda]"``. The networks of `benchmarks.accuracy` are in float32.
"""

import sys

from benchmarks.against_compile import Program, run
from benchmarks.records import RESULTS

NARROW, MIXED = {"dtype": "bfloat16"}, {"dtype": "mixed"}

PROGRAMS: tuple[Program, ...] = (
    ("alexnet", "train", 8, NARROW),
    ("alexnet", "train", 8, MIXED),
    ("resnet18", "train", 8, MIXED),
    ("mobilenet_v2", "train", 8, MIXED),
    ("mobilenet_v3_small", "train", 8, MIXED),
    ("gpt2", "train", 1, MIXED),
    ("resnet18", "infer", 8, NARROW),
    ("squeezenet1_0", "infer", 8, NARROW),
    ("densenet121", "infer", 8, NARROW),
    ("vit_b_16", "infer", 8, NARROW),
    ("swin_t", "infer", 8, NARROW),
    ("convnext_tiny", "infer", 8, NARROW),
    ("gpt2", "infer", 1, NARROW),
)

WORDS = """Programs in 16-bit floats
`python -m benchmarks.number_formats` makes this page. *Estimate*: by how much the formula is off, in percent of what the
compile requires. *mixed*: parameters in float32, everything computed in bfloat16. A processor has no arithmetic in 16-bit
floats; what it converts to float32, the formula converts as well."""

if __name__ == "__main__":
    sys.exit(run(PROGRAMS, ("h100-sxm", "cpu"), RESULTS / "number_formats.json", WORDS))
