"""The page: the estimates beside what they are held against."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.estimate_speed.rows import BEYOND_LIMIT, SHARE_LIMIT, ProgramRow, Results
from benchmarks.overhead import Spent, middle
from benchmarks.records import in_words, table


def page(results: Results) -> str:
    """Three tables of what has been measured."""
    rows = [row for row in results.programs if row.estimate]
    imports = [
        (
            f"`{' '.join(row.arguments)}`",
            both(middle(row.import_jax)),
            both(middle(row.estimate)),
            both(row.beyond),
            f"**{both(row.ratio)}**",
            both(middle(row.cached)),
            str(len(row.estimate)),
        )
        for row in rows
    ]
    compiles = [
        (
            f"`{' '.join(row.arguments)}`",
            both(middle(row.inside)),
            _taken(row.compiled_inside, row),
            f"**{_share(middle(row.inside), row.compiled_inside, row)}**",
            _taken(row.compiled, row),
            _share(middle(row.estimate), row.compiled, row),
            _share(middle(row.cached), row.compiled, row),
            both(row.reported) if row.reported else "–",
            _share(middle(row.estimate), row.reported),
            _share(middle(row.cached), row.reported),
        )
        for row in rows
    ]
    measured = [row for row in results.depths if row.estimate]
    depths = [
        (
            str(row.depth),
            f"{row.operations:,}",
            both(middle(row.estimate)),
            f"{row.depth / measured[0].depth:.0f}",
            f"**{both(middle(row.estimate).over(middle(measured[0].estimate)))}**",
            str(len(row.estimate)),
        )
        for row in measured
    ]
    import_header = (
        *("program", "import jax, s", "estimate, s", "beyond the import, s", "ratio", "from the cache, s", "rounds"),
    )
    compile_header = (
        *("program", "estimate, no imports, s", "compile, no imports, s", "share, %"),
        *("compile, s", "share, %", "from the cache, %", "report, s", "share, %", "from the cache, %"),
    )
    depth_header = ("blocks", "operations", "estimate, s", "times deeper", "times slower", "rounds")
    return f"""# How fast an estimate is

{in_words(results.setting, (results.date,))}
Load average as it began, at most: {results.load:.1f}.

    python -m benchmarks.estimate_speed

Every cell has two numbers: by the clock, and in seconds of processors, which other programs on the machine change little.
Seconds are medians. Where a compile uses both processors at once, its clock may be below its processor time.

## Against the import of JAX

Whole processes, imports and the building of the network included: derived, and found in the cache, which imports no JAX. All
run in turns with the import; differences and ratios are medians of the rounds' own.
Asked for: VGG-16 at most {BEYOND_LIMIT:g} s beyond the import. {_beyond_in_words(rows)}

{table(import_header, imports)}

## Against the compile that it saves

The compile ran once. *No imports*: from the building of the network to the printed estimate, and from the building to the
compiled program, by JAX alone, in processes that have imported everything. Then whole processes: JAX alone for the CPU,
and `jaxmem report` without its cache. A share is that of the derived estimate, or of the one from the cache, a whole process
too.
Asked for: at most {100 * SHARE_LIMIT:g} % of the compile. {_shares_in_words(rows)}

{table(compile_header, compiles)}

## As networks grow deeper

`jaxmem.estimate` of a training step of GPT-2, one sequence of 1024 tokens: traced, read and derived, without imports and
without the building of the network.

{table(depth_header, depths)}
"""


def both(spent: Spent) -> str:
    return f"{spent.clock:.2f} · {spent.processor:.2f}"


def _taken(spent: Spent | None, row: ProgramRow) -> str:
    return both(spent) if spent else f"over {both(row.gave_up)}" if row.gave_up else "–"


def _share(ours: Spent, theirs: Spent | None, row: ProgramRow | None = None) -> str:
    """Of the compile, or of what it had taken when it was given up."""
    given_up = row.gave_up if row is not None and theirs is None else None
    if (theirs := theirs or given_up) is None:
        return "–"
    ratio = ours.over(theirs)
    return f"{'below ' if given_up else ''}{100 * ratio.clock:.1f} · {100 * ratio.processor:.1f}"


def _beyond_in_words(rows: Sequence[ProgramRow]) -> str:
    found = [row for row in rows if row.arguments[0] == "vgg16"]
    return "; ".join(f"`{' '.join(row.arguments)}` {both(row.beyond)} s" for row in found) + "."


def _shares_in_words(rows: Sequence[ProgramRow]) -> str:
    """Which programs are above the share that was asked for in processor time, by each measure."""

    def above(ours: Callable[[ProgramRow], Iterable[Spent]], theirs: Callable[[ProgramRow], Spent | None]) -> str:
        pairs = [(row, theirs(row)) for row in rows]
        found = [
            f"`{' '.join(row.arguments)}`"
            for row, compiled in pairs
            if compiled is not None and middle(ours(row)).over(compiled).processor > SHARE_LIMIT
        ]
        return ", ".join(found) or "none"

    return f"""Above it in processor time:

- no imports on either side: {above(lambda row: row.inside, lambda row: row.compiled_inside or row.gave_up)};
- whole processes, JAX alone: {above(lambda row: row.estimate, lambda row: row.compiled or row.gave_up)};
- whole processes, `jaxmem report`: {above(lambda row: row.estimate, lambda row: row.reported)};
- from the cache, JAX alone: {above(lambda row: row.cached, lambda row: row.compiled or row.gave_up)}."""
