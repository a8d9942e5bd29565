"""What is left when processes are killed, disks are full, folders are read-only, and compilers hang or eat all memory.

    python -m benchmarks.faults                 # everything; some parts need root and say so where they have not got it
    python -m benchmarks.faults kills --kills 40

A child is forked, works, and is killed with SIGKILL: before a line of jaxmem's own code, in turn over all that run, or at any
moment. Then the parent looks: what has the name of a file must be whole, old or new, and the same work done once
more must give the right answer. Nothing here is timed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.faults.comparisons import killed_comparisons
from benchmarks.faults.compilers import bad_compilers
from benchmarks.faults.disks import disks
from benchmarks.faults.kills import kills
from benchmarks.faults.rows import Results, Row
from benchmarks.faults.together import together
from benchmarks.records import RESULTS, in_words, read, table, this_setting, today, write

FILE = RESULTS / "faults.json"


def page(results: Results) -> str:
    """One table."""
    rows = [(row.fault, f"{row.good} of {row.trials}", row.found.replace("|", "\\|")) for row in results.rows]
    killed = sum(row.trials for row in results.rows if "SIGKILL" in row.fault)
    return f"""# Faults

{in_words(results.setting, results.dates)}

    python -m benchmarks.faults

{killed} processes killed in all. *Lines*: of jaxmem's own code that packs, writes and evicts: the
kills are spread evenly over them, more than one at a line where there are fewer.

{table(("fault", "as it should be", "what was seen"), rows, left=3)}
"""


def main() -> int:
    """Try what is asked for, and write the page."""
    parts: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
        "kills": lambda options: kills(options.kills),
        "together": lambda options: together(options.rounds),
        "disks": lambda options: disks(),
        "compilers": lambda options: bad_compilers(),
        "comparisons": lambda options: killed_comparisons(options.comparisons),
    }
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--kills", type=int, default=192, metavar="N", help="without the comparisons (default: 192)")
    parser.add_argument("--comparisons", type=int, default=8, metavar="N", help="that are killed (default: 8)")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="of each of the eight processes")
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help=f"default: {FILE}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(unknown)}")
    results = read(Results, options.results) or Results(setting=this_setting(), dates=(), rows=())
    for part, run in parts.items():
        if options.parts and part not in options.parts:
            continue
        results = replace(results, rows=tuple(row for row in results.rows if row.part != part))
        for row in run(options):
            print(f"{row.fault}: {row.good} of {row.trials}; {row.found}", flush=True)
            rows = sorted((*results.rows, row), key=lambda one: tuple(parts).index(one.part))
            dates = tuple(sorted({*results.dates, today()}))
            results = Results(setting=this_setting(), dates=dates, rows=tuple(rows))
            write(results, options.results, page(results))
    return int(any(row.good != row.trials for row in results.rows))


if __name__ == "__main__":
    sys.exit(main())
