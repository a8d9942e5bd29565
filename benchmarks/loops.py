"""The formula against the compile where a program has loops: micro-batches added up, layers in a scan.

    python -m benchmarks.loops               # an H100 and the processor; compiles come from jaxmem's cache

Needs a GPU's compiler: ``pip install "jaxmem[cuda]"``. The networks of `benchmarks.accuracy` have no loops.
"""

import sys

from benchmarks.against_compile import Program, run
from benchmarks.records import RESULTS

PROGRAMS: tuple[Program, ...] = (
    ("vgg16", "train", 32, {"accumulate": "4"}),
    ("resnet50", "train", 32, {"accumulate": "4"}),
    ("mobilenet_v2", "train", 32, {"accumulate": "2"}),
    ("gpt2", "train", 8, {"accumulate": "4"}),
    ("llama3_1b", "train", 2, {"scan": "True", "sequence_length": "1024"}),
    ("llama3_1b", "train", 2, {"scan": "True", "sequence_length": "1024", "remat": "blocks"}),
    ("llama3_1b", "train", 2, {"scan": "True", "sequence_length": "1024", "remat": "blocks", "dtype": "mixed"}),
    ("llama3_1b", "infer", 2, {"scan": "True", "sequence_length": "1024"}),
)

WORDS = """Programs with loops
`python -m benchmarks.loops` makes this page. *Estimate*: by how much the formula is off, in percent of what the
compile requires. Gradients of several micro-batches are added up in a loop; layers in a scan keep what the backward
pass needs in stacks."""

if __name__ == "__main__":
    sys.exit(run(PROGRAMS, ("h100-sxm", "cpu"), RESULTS / "loops.json", WORDS))
