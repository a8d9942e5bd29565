"""The record of the executions, and its page."""

from dataclasses import dataclass, replace

from benchmarks.fuzz.readers import reader_of
from benchmarks.records import Setting, in_words, table
from jaxmem.units import format_bytes

_KEPT_DEFECTS, _KEPT_WORDS = 50, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one process found in some executions that follow one another; fields as in `ReaderRecord`."""

    executions: int
    outcomes: tuple[tuple[str, int], ...]
    words: tuple[str, ...]
    slowest_seconds: float
    slowest: int
    peak_bytes: int
    defects: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRecord:
    """All executions of one reader, numbered from 0 on.

    Attributes:
        read, refused: how many ended with a result, and with a documented error.
        words: the different sentences in which they were refused, without what was found.
        slowest_seconds: of processor time; ``slowest`` is the number of that execution.
        peak_bytes: resident memory of the largest process, Python and the seeds included.
        defects: (number, words), the first of them; none in what is kept.
    """

    reader: str
    executions: int
    read: int
    refused: int
    words: tuple[str, ...]
    slowest_seconds: float
    slowest: int
    peak_bytes: int
    defects: tuple[tuple[int, str], ...]

    @classmethod
    def empty(cls, reader: str) -> "ReaderRecord":
        """Before the first execution."""
        return cls(
            reader=reader,
            executions=0,
            read=0,
            refused=0,
            words=(),
            slowest_seconds=0.0,
            slowest=0,
            peak_bytes=0,
            defects=(),
        )

    def with_batch(self, batch: Batch) -> "ReaderRecord":
        """These executions and those of a further batch."""
        counts = dict(batch.outcomes)
        slower = batch.slowest_seconds > self.slowest_seconds
        return replace(
            self,
            executions=self.executions + batch.executions,
            read=self.read + counts.get("read", 0),
            refused=self.refused + counts.get("refused", 0),
            words=tuple(sorted({*self.words, *filter(None, batch.words)}))[:_KEPT_WORDS],
            slowest_seconds=max(self.slowest_seconds, batch.slowest_seconds),
            slowest=batch.slowest if slower else self.slowest,
            peak_bytes=max(self.peak_bytes, batch.peak_bytes),
            defects=(*self.defects, *batch.defects)[:_KEPT_DEFECTS],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input made by hand.

    Attributes:
        input_bytes: its size; ``growth_bytes`` by how much the process grew at most while it was read.
        said: the first line of the error.
    """

    name: str
    reader: str
    input_bytes: int
    outcome: str
    said: str
    seconds: float
    growth_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that was executed."""

    setting: Setting
    dates: tuple[str, ...]
    readers: tuple[ReaderRecord, ...]
    cases: tuple[Case, ...]


def page(record: Record) -> str:
    """Two tables, and what was found on the way."""
    readers = [
        (
            one.reader,
            reader_of(one.reader).what,
            f"{one.executions:,}",
            f"{one.read:,}",
            f"{one.refused:,}",
            str(len(one.words)),
            str(len(one.defects)),
            f"{1000 * one.slowest_seconds:.0f} ms, {one.slowest}",
            format_bytes(one.peak_bytes),
        )
        for one in record.readers
    ]
    cases = [
        (
            one.name,
            one.reader,
            format_bytes(one.input_bytes),
            f"{one.seconds:.2f} s",
            format_bytes(one.growth_bytes),
            one.said.replace("|", "\\|") if one.outcome == "refused" else one.outcome,
        )
        for one in record.cases
    ]
    total = sum(one.executions for one in record.readers)
    header = ("reader", "of what", "executions", "read", "refused", "ways", "defects", "slowest, number", "peak memory")
    case_header = ("input", "reader", "its size", "processor time", "growth", "outcome")
    return f"""# Readers under fire

{in_words(record.setting, record.dates)}

    python -m benchmarks.fuzz

{total:,} executions. An input is a file of the tests with a few changes that know its structure: ids that point elsewhere,
sizes that lie, parts that are lost, moved or twice, other opcodes, numbers at the edges of every width, texts that are no
text, and bytes flipped, cut and spliced. *Refused* is a documented error with exit code 2 or 3, in so many different *ways*;
a *defect* is anything else: another exception, {_LIMITS}.
The seed of an execution is its reader and its number: `python -m benchmarks.fuzz --again READER NUMBER` repeats one.
Time is of the processor; memory is that of the whole process, Python, protobuf and the seeds included.

{table(header, readers, left=2)}

## Made by hand

Bombs, circles, depth and lies that chance does not find, each in a process of its own. *Growth* is by how much that process
grew at most while it read.

{table(case_header, cases, left=2)}
{_DEFECTS}"""


_LIMITS = "more than 20 s, or more than 3 GiB of address space"

_DEFECTS = """
## What was found, and is fixed

Each of these ended in a traceback, or without end, when this began; `tests/unit/test_hostile.py` has their tests.

- Sizes of hundreds of digits became infinity, or passed what Python turns into text: on the command line, in card files, in
  out-of-memory messages, in JSON. An "Unpadded size" that is none.
- JSON: whole numbers without a ratio, half a pair of surrogates (read, and never to be written again), a key twice, NaN, a
  fit whose asked batch is not in its proof, a baseline that names a role of a layer twice.
- Card files nested without end, or with numbers of thousands of digits.
- Captures whose layer table points at values, operations or arguments that are not there.
- Modules whose instructions do not fit together: a call with other operands than its computation takes, a tuple of other
  elements, a branch or a loop without its parts, an end without its beginning, a schedule that reads before it writes. XLA
  writes none of them; `jaxmem/xla/verify.py` refuses them all.
- Sixty computations, each called twice by the next, were followed 2^60 times; ten thousand inside one another ended
  Python's stack; so did a backend configuration nested without end.
- Texts with the beginning of a message again and again took the square of their length; a pattern of many stars in a file of
  roles took time that doubles with each.
- A gzip file or a capture of a megabyte could unpack to a gigabyte, and that to many in memory: now to a hundred times its
  size at most, or 64 MiB. Files of any size, and devices without end, were read whole.
"""
