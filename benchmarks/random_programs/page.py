"""The recorded run as a page."""

from collections import Counter
from collections.abc import Iterable

from benchmarks.random_programs.plan import draw
from benchmarks.random_programs.rows import HELD_OUT, Results, Row
from benchmarks.records import in_words, table

_WORST = 12


def page(results: Results) -> str:
    """Markdown: what held, what stayed open and why, and how often each feature was in a program."""
    devices = list(dict.fromkeys(row.device for row in results.rows))
    header = (
        "device",
        "seeds",
        "programs",
        "compiled",
        "laws broken",
        "in XProf, equal",
        "ledger closed",
        "bytes open",
    )
    rows = [
        _line(f"{device}, held out" if held_out else device, group)
        for device in devices
        for held_out in (False, True)
        if (group := [row for row in results.rows if row.device == device and (row.seed >= HELD_OUT) is held_out])
    ]
    parts = [
        "# Random programs",
        in_words(results.setting, (results.date,)),
        "`python -m benchmarks.random_programs --count 2000` makes this page, and goes on where it was interrupted; `-d` takes "
        "another device, `--seed S --shrink` shows the smallest program that is wrong as that of seed S is. The laws: the live "
        "peak, the curve and the live set of every heap trace are those of a brute-force count; so is who holds each byte; "
        "roles and ledger add up to what is required; on CPU that is what `memory_analysis()` says plus constants and what is "
        "hidden; no buffer is damaged; and XProf's memory viewer has the same peak, curve and allocations.",
        table(header, rows),
        f"*Held out*: the seeds from {HELD_OUT:,} on (`--first {HELD_OUT}`), into which nobody looked when rules of formula "
        "and ledger were written. What stayed open in the others was looked into, one by one. "
        "The rows are what the code said as each program was read; `--again` reads every capture anew. A run that was "
        "interrupted has as many programs as the table says.",
        "A ledger that does not close counts its open bytes as *unexplained*; nothing else about its report is wrong. Open "
        "rows by what is open, a buffer that the formula does not name or a leaf that no buffer stands for:",
        _open(results.rows),
        f"The {_WORST} programs with most open bytes:",
        _worst(results.rows),
        "Seeds that make no program (JAX refuses to trace them) or that the compiler refuses:",
        _refused(results.rows),
        "In how many programs each feature was, and in how many of these the ledger closed:",
        _features(results.rows),
    ]
    return "\n\n".join(parts) + "\n"


def _is_closed(row: Row) -> bool:
    return not (row.unexplained_bytes or row.unattributed_bytes or row.broken or row.refused)


def _line(device: str, rows: list[Row]) -> tuple[str, ...]:
    compiled = [row for row in rows if row.refused is None]
    required, unexplained = (
        sum(row.required_bytes for row in compiled),
        sum(row.unexplained_bytes for row in compiled),
    )
    return (
        device,
        f"{min(row.seed for row in rows)} to {max(row.seed for row in rows)}",
        str(len(rows)),
        str(len(compiled)),
        str(sum(bool(row.broken) for row in compiled)),
        str(sum(row.viewed and not row.broken for row in compiled)),
        f"{sum(map(_is_closed, compiled))} of {len(compiled)}",
        f"{unexplained:,} of {required:,}",
    )


def _open(rows: Iterable[Row]) -> str:
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for text in row.unexplained:
            term = text.split(": formula", 1)[0].rsplit(" ", 1)[0]
            found[term, "buffer" if "] unexplained: " in text else "leaf"] += 1
    return table(
        ("row", "open", "times"), [(term, what, str(times)) for (term, what), times in found.most_common()], left=2
    )


def _worst(rows: Iterable[Row]) -> str:
    worst = sorted((row for row in rows if row.unexplained_bytes), key=lambda row: -row.unexplained_bytes)[:_WORST]
    return table(
        ("device", "seed", "open", "required", "first open row"),
        [
            (
                row.device,
                str(row.seed),
                f"{row.unexplained_bytes:,}",
                f"{row.required_bytes:,}",
                row.unexplained[0].replace("|", "\\|") if row.unexplained else "",
            )
            for row in worst
        ],
    )


def _refused(rows: Iterable[Row]) -> str:
    found = Counter(row.refused.splitlines()[0][:100] for row in rows if row.refused)
    return table(("words", "times"), [(words, str(times)) for words, times in found.most_common()])


def _features(rows: Iterable[Row]) -> str:
    times: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    for row in rows:
        if row.refused is None:
            features = draw(row.seed).features()
            times.update(features)
            if _is_closed(row):
                closed.update(features)
    return table(
        ("feature", "programs", "closed"),
        [(name, str(times[name]), str(closed[name])) for name in sorted(times)],
    )
