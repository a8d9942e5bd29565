"""How fast the formula alone is: against ``import jax``, against the compile that it saves, and as networks grow deeper.

    python -m benchmarks.estimate_speed                # whatever is missing
    python -m benchmarks.estimate_speed --again        # all of it anew
    python -m benchmarks.estimate_speed --pairs 5      # more rounds of each

- *programs*: the whole process of ``jaxmem estimate``, derived and from the cache, in turns with ``python -c "import jax"``.
  Once each, the compile that it saves: the whole process in which JAX traces, lowers and compiles the same program for the
  CPU, and that of ``jaxmem report`` without its cache, unless they take longer than their limit. The estimate and the compile
  also without what both import.
- *depths*: `jaxmem.estimate` of a training step of GPT-2 with 12, 24, 48 and 96 blocks, imports and the building of the
  network left out; each time in a fresh process, the depths in turns.

Everything is written down as it is measured; an interrupted command goes on where it stopped.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace

from benchmarks.estimate_speed.inside import compile_here, depth_here, estimate_here
from benchmarks.estimate_speed.measure import is_missing, measure_depth, measure_program
from benchmarks.estimate_speed.page import both, page
from benchmarks.estimate_speed.rows import (
    FILE,
    Results,
)
from benchmarks.overhead import environment
from benchmarks.records import read, this_setting, today, write
from jaxmem.codec import encode
from jaxmem.errors import JaxmemError


def main() -> int:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.estimate_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="rounds of the programs and of the depths")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--depth", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for side, arguments in ((compile_here, options.compile), (estimate_here, options.inside)):
        if arguments is not None:
            print(json.dumps(encode(side(tuple(json.loads(arguments))))[0]))
            return 0
    if options.depth is not None:
        print(json.dumps(encode(depth_here(options.depth))[0]))
        return 0
    try:
        run(options.pairs, again=options.again)
    except JaxmemError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(pairs: int, *, again: bool) -> None:
    """Whatever is missing, the quick things first; written as each is done."""
    results = None if again else read(Results, FILE)
    results = replace(
        results or Results(setting=this_setting(), date="", load=0.0),
        setting=this_setting(),
        date=today(),
        load=max(os.getloadavg()[0], results.load if results else 0.0),
    )
    with tempfile.TemporaryDirectory(prefix="jaxmem-estimate-speed-") as cache:
        variables = environment(cache)
        while row := min(results.depths, key=lambda row: (len(row.estimate), row.depth)):
            if len(row.estimate) >= pairs:
                break
            new = measure_depth(row, variables)
            print(f"{new.depth} blocks: {both(new.estimate[-1])}", file=sys.stderr, flush=True)
            results = replace(results, depths=tuple(new if each == row else each for each in results.depths))
            write(results, FILE, page(results))
        while missing := [row for row in results.programs if is_missing(row, pairs)]:
            row = min(missing, key=lambda row: len(row.estimate))
            new = measure_program(row, pairs, variables)
            print(f"{' '.join(new.arguments)}: {both(new.estimate[-1])}", file=sys.stderr, flush=True)
            results = replace(results, programs=tuple(new if each == row else each for each in results.programs))
            write(results, FILE, page(results))


if __name__ == "__main__":
    sys.exit(main())
