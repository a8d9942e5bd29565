"""Two results compared, whatever form they are in."""

from pathlib import Path

from jaxmem.assemble import read_report
from jaxmem.capture import load as load_capture
from jaxmem.difference import diff_reports, parse_tolerance
from jaxmem.errors import InputError, UsageError
from jaxmem.result import Diff, Diffs, Report, Reports
from jaxmem.result import load as load_result

Comparable = Report | Reports | str | Path


def diff(old: Comparable, new: Comparable, *, tolerance: str | int = 0) -> Diff | Diffs:
    """What grew between two results, whose it is, and which operation owns it.

        changed = jaxmem.diff("before.json", jaxmem.analyze(train_step, state, batch))
        changed.difference_bytes, changed.roles, changed.layers, changed.buffers

    Args:
        old, new: a `Report`, `Reports`, or the path of a saved report (``.json``) or capture (``.jaxmem``).
        tolerance: by how much it may grow before ``exceeded`` is true: bytes, ``"64MiB"`` or ``"1%"``.

    Returns:
        One `Diff` where there is one report on both sides; else `Diffs`, a diff for each pair of program, mode, device and
        batch size, and what has no partner.

    Raises:
        UsageError: the tolerance is none; or an argument is no result.
        InputError: a file is not what its name says, or has no reports.
    """
    found = diff_reports(
        _reports(old),
        _reports(new),
        old_name=_name(old, "old"),
        new_name=_name(new, "new"),
        tolerance=parse_tolerance(tolerance),
    )
    alone = len(found.reports) == 1 and not found.only_old and not found.only_new
    return found.reports[0] if alone else found


def _name(given: Comparable, otherwise: str) -> str:
    return str(given) if isinstance(given, str | Path) else otherwise


def _reports(given: Comparable) -> tuple[Report, ...]:
    if isinstance(given, str | Path):
        loaded = (
            read_report(load_capture(Path(given)), origin=str(given))
            if str(given).lower().endswith(".jaxmem")
            else load_result(given)
        )
    else:
        loaded = given
    if isinstance(loaded, Report):
        return (loaded,)
    if isinstance(loaded, Reports):
        return loaded.reports
    advice = "Save one with `report.save(path)`, or with `jaxmem report PROGRAM --format json -o FILE`."
    if isinstance(given, str | Path):
        raise InputError(f"{given} holds {loaded.schema}, and a diff compares reports. {advice}")
    raise UsageError(f"A diff compares reports and captures, and was given {type(given).__name__}. {advice}")
