"""Random programs, each compiled, read, and held against the laws that must hold of every program.

    python -m benchmarks.random_programs --count 2000                    # for the processor; whatever is missing
    python -m benchmarks.random_programs --count 40 -d h100-sxm          # for a card that is not here
    python -m benchmarks.random_programs --seed 1234                     # one program, in words
    python -m benchmarks.random_programs --seed 1234 --shrink            # and the smallest that is wrong in the same way
    python -m benchmarks.random_programs --count 2000 --again            # all of them read anew, none compiled twice
    python -m benchmarks.random_programs --first 7000 --count 300        # programs that no rule was written from

Every program comes from its seed. The captures are kept in jaxmem's cache folder.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import Any

from benchmarks.random_programs.rows import FILE, Results, Row

COMPILED_AT_ONCE = 25
"""Programs between two looks at XProf."""


def main() -> int:
    """Check what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_programs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=0, metavar="N", help="the programs of N seeds, from the first on")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first seed (0)")
    parser.add_argument("-d", "--device", default="cpu", help="what to compile for")
    parser.add_argument("--again", action="store_true", help="read everything anew")
    parser.add_argument("--seed", type=int, metavar="S", help="the program of one seed, in words; nothing is written")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make it smaller while it is wrong")
    parser.add_argument("--lines", type=int, nargs=2, metavar=("A", "B"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Before JAX is imported: devices to divide a program among, and no cache, from which no dump would come.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "1",
    }
    if options.device.startswith("tpu"):
        from jaxmem.compilers.run import TPU_VARIABLES

        os.environ |= TPU_VARIABLES
    if options.lines is not None:
        first, last = options.lines
        return _print_lines(first, last, options.device)
    if options.seed is not None:
        return _show(options.seed, options.device, smallest=options.shrink)
    return _run(options.device, range(options.first, options.first + options.count), again=options.again)


def _print_lines(first: int, last: int, device: str) -> int:
    """For the tests: one line of JSON a program, checked and compared with XProf where that is installed."""
    from importlib.util import find_spec

    for row in _rows(device, range(first, last), kept=None, view=find_spec("xprof") is not None):
        print("ROW" + json.dumps(_encoded(row)), flush=True)
    return 0


def _show(seed: int, device: str, *, smallest: bool) -> int:
    from benchmarks.random_programs.check import Finding, check, in_this_process
    from benchmarks.random_programs.plan import Plan, draw, shrink

    def is_wrong(finding: Finding) -> bool:
        return bool(finding.broken or finding.unexplained_bytes or finding.unattributed_bytes)

    def fails(plan: Plan) -> bool:
        return is_wrong(check(plan, device)[0])

    with in_this_process():
        plan = draw(seed)
        if smallest and fails(plan):
            plan = shrink(plan, fails)
        finding, _ = check(plan, device)
    print(plan)
    print("\n".join((*finding.broken, *finding.unexplained, finding.refused or "")))
    return int(is_wrong(finding))


def _rows(device: str, seeds: Any, *, kept: Any, view: bool) -> Any:
    """The rows of some programs, a batch at a time."""
    from benchmarks.random_programs.check import check, in_this_process
    from benchmarks.random_programs.plan import draw
    from benchmarks.random_programs.xprof import differences

    seeds = list(seeds)
    for start in range(0, len(seeds), COMPILED_AT_ONCE):
        rows, dumps = {}, {}
        with in_this_process():
            for seed in seeds[start : start + COMPILED_AT_ONCE]:
                finding, capture = check(draw(seed), device, kept)
                rows[str(seed)] = Row(
                    device=device,
                    seed=seed,
                    instructions=finding.instructions,
                    required_bytes=finding.required_bytes,
                    unexplained_bytes=finding.unexplained_bytes,
                    unattributed_bytes=finding.unattributed_bytes,
                    unexplained=finding.unexplained,
                    broken=finding.broken,
                    refused=finding.refused,
                )
                if capture is not None:
                    dumps[str(seed)] = capture.hlo_proto
        for name, difference in (differences(dumps) if view else {}).items():
            broken = rows[name].broken + ((difference,) if difference else ())
            rows[name] = replace(rows[name], viewed=True, broken=broken)
        yield from rows.values()


def _encoded(row: Row) -> Any:
    from jaxmem.codec import encode

    return encode(row)[0]


def _run(device: str, seeds: range, *, again: bool) -> int:
    from benchmarks.random_programs.page import page
    from benchmarks.records import read, this_setting, today, write
    from jaxmem.capture import default_folder

    results = read(Results, FILE) or Results(setting=this_setting(), date=today())
    kept = default_folder() / "random_programs"
    done = {row.seed for row in results.rows if row.device == device and not again}
    found: list[Row] = []

    def write_down() -> None:
        nonlocal results
        new = {(row.device, row.seed) for row in found}
        rows = (*(row for row in results.rows if (row.device, row.seed) not in new), *found)
        rows = tuple(sorted(rows, key=lambda row: (row.device, row.seed)))
        results = replace(results, setting=this_setting(), date=today(), rows=rows)
        write(results, FILE, page(results))
        found.clear()

    for row in _rows(device, (seed for seed in seeds if seed not in done), kept=kept, view=True):
        found.append(row)
        if len(found) == COMPILED_AT_ONCE:
            write_down()
            print(f"{device}: up to seed {row.seed} of {seeds.stop - 1}", file=sys.stderr, flush=True)
    write_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
