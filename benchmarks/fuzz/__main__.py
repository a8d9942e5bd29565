"""Feeds every reader of jaxmem damaged and hostile input, and records how each execution ended.

    python -m benchmarks.fuzz                               # a million executions in all
    python -m benchmarks.fuzz --executions 20000 hlo json   # so many in all, of these readers alone
    python -m benchmarks.fuzz --again hlo 4711              # one execution, with its traceback

The number of an execution decides its input, so that each can be repeated. An execution that ends in anything but a result
or a documented error of exit code 2 or 3, takes longer than its limit, or more memory than its process may have, is a
defect: it is listed, and the command ends with 1. Executions go on where the record ends; `--anew` begins again.
"""

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType

from benchmarks.fuzz.hostile import HOSTILE
from benchmarks.fuzz.page import Batch, Case, ReaderRecord, Record, page
from benchmarks.fuzz.readers import READERS, Reader, input_of, outcome_of, reader_of
from benchmarks.records import RESULTS, read, this_setting, today, write
from jaxmem.codec import decode, encode
from jaxmem.errors import JaxmemError

FILE = RESULTS / "fuzz.json"
ROOT = Path(__file__).parents[2]
SECONDS_LIMIT = 20
"""For one execution. The machine may be shared, so this is no measure of speed, only of an end."""
MEMORY_LIMIT_BYTES = 3 << 30
"""Of address space, for the process of a batch. An input that needs it all is a defect."""
BATCH_SECONDS = 60.0
"""After so long a batch ends, and what it found is recorded."""


class _TooLong(BaseException):
    """Not an Exception: nothing in between may take it for an error of its own."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def run_here(reader: Reader, first: int, count: int) -> Batch:
    """Some executions, in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    outcomes: Counter[str] = Counter()
    words: set[str] = set()
    defects: list[tuple[int, str]] = []
    slowest, slowest_seconds, done = first, 0.0, 0
    end = time.monotonic() + BATCH_SECONDS
    for number in range(first, first + count):
        data = input_of(reader, number)
        begun = time.process_time()
        signal.alarm(SECONDS_LIMIT)
        try:
            outcome, said = outcome_of(reader, data)
        except _TooLong:
            outcome, said = "defect", f"it did not end within {SECONDS_LIMIT} s"
        signal.alarm(0)
        seconds = time.process_time() - begun
        outcomes[outcome] += 1
        words.add(_without_details(said))
        if outcome == "defect":
            defects.append((number, said[:300]))
        if seconds > slowest_seconds:
            slowest, slowest_seconds = number, seconds
        done += 1
        if time.monotonic() > end:
            break
    return Batch(
        executions=done,
        outcomes=tuple(sorted(outcomes.items())),
        words=tuple(sorted(words)),
        slowest_seconds=slowest_seconds,
        slowest=slowest,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        defects=tuple(defects),
    )


def _without_details(said: str) -> str:
    """The sentence without what was found: no numbers, no names, so that equal causes count once."""
    kept = " ".join(word for word in said.split()[:40] if word.isalpha() or word.strip(".,:;").isalpha())
    return kept[:120]


def run(names: list[str], executions: int, file: Path, *, anew: bool) -> Record:
    """All that is missing in the record, batch by batch, each in a process of its own."""
    record = (None if anew else read(Record, file)) or Record(setting=this_setting(), dates=(), readers=(), cases=())
    chosen = [reader for reader in READERS if not names or reader.name in names]
    whole = sum(reader.share for reader in chosen)
    for reader in chosen:
        wanted = round(executions * reader.share / whole)
        known = {one.reader: one for one in record.readers}
        state = known.get(reader.name) or ReaderRecord.empty(reader.name)
        while state.executions < wanted:
            state = state.with_batch(_in_process(reader, state.executions, wanted - state.executions))
            readers = tuple(
                state if one.name == reader.name else known[one.name]
                for one in READERS
                if one.name == reader.name or one.name in known
            )
            record = replace(
                record, setting=this_setting(), dates=tuple(sorted({*record.dates, today()})), readers=readers
            )
            write(record, file, page(record))
            print(f"{reader.name}: {state.executions:,} of {wanted:,}, {len(state.defects)} defects", flush=True)
    return record


def _in_process(reader: Reader, first: int, count: int) -> Batch:
    command = (sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz", "--batch", reader.name, str(first), str(count))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"The process of {reader.name} from {first} on ended with {ended.returncode}:\n{ended.stderr}")
    return decode(Batch, json.loads(ended.stdout))


def run_hostile(record: Record, file: Path) -> Record:
    """Every input made by hand, each in a process of its own."""
    cases = []
    for name in HOSTILE:
        command = (sys.executable, "-W", "ignore", "-m", "benchmarks.fuzz", "--hostile", name)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise SystemExit(f"The process of {name!r} ended with {ended.returncode}:\n{ended.stderr}")
        cases.append(decode(Case, json.loads(ended.stdout)))
        print(f"{name}: {cases[-1].outcome}, {cases[-1].seconds:.2f} s", flush=True)
    record = replace(record, cases=tuple(cases))
    write(record, file, page(record))
    return record


def hostile_here(name: str) -> Case:
    """One of them, in this process."""
    reader_name, make = HOSTILE[name]
    data, reader = make(), reader_of(reader_name)
    # The high-water mark anew: making the input does not count.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    begun = time.process_time()
    outcome, said = outcome_of(reader, data)
    return Case(
        name=name,
        reader=reader_name,
        input_bytes=len(data),
        outcome=outcome,
        said=re.sub(r"\S*/jaxmem-fuzz-\w+/", "", said.splitlines()[0])[:160] if said else "",
        seconds=time.process_time() - begun,
        growth_bytes=max(0, _resident("VmHWM") - before),
    )


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1024


def main() -> int:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(one.name for one in READERS)}")
    parser.add_argument("--executions", type=int, default=1_000_000, metavar="N", help="in all (default: a million)")
    parser.add_argument("--anew", action="store_true", help="forget the record")
    parser.add_argument("--again", nargs=2, metavar=("READER", "NUMBER"), help="one execution, with its traceback")
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help=f"default: {FILE}")
    parser.add_argument("--batch", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--hostile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.readers) - {reader.name for reader in READERS}:
        parser.error(f"there is no reader {', '.join(unknown)}")
    if options.batch is not None:
        name, first, count = options.batch
        print(json.dumps(encode(run_here(reader_of(name), int(first), int(count)))[0]))
        return 0
    if options.hostile is not None:
        print(json.dumps(encode(hostile_here(options.hostile))[0]))
        return 0
    if options.again is not None:
        reader = reader_of(options.again[0])
        try:
            reader.read(input_of(reader, int(options.again[1])))
        except JaxmemError as error:
            print(f"exit code {error.exit_code}: {error}")
        return 0
    record = run(options.readers, options.executions, options.results, anew=options.anew)
    record = run_hostile(record, options.results)
    return int(any(one.defects for one in record.readers) or any(one.outcome == "defect" for one in record.cases))


if __name__ == "__main__":
    sys.exit(main())
