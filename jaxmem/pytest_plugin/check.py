"""One check: compile, hold the need against a limit and a baseline, and fail with the reasons."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from jaxmem.difference import Tolerance, changes, parse_tolerance, side_of
from jaxmem.pytest_plugin.baseline import FILE_NAME, Baseline, Key, baseline_of, read, record
from jaxmem.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from jaxmem.result import Report

_WIDTH = 100


class DeviceMemory:
    """What the fixture ``device_memory`` is.

    Attributes:
        path: of the baselines: ``memory_baseline.json`` beside the file of the test.
    """

    def __init__(self, item: pytest.Item, *, update: bool, default_tolerance: str) -> None:
        self.path = item.path.with_name(FILE_NAME)
        self._item = item
        # Not the node id: it depends on the folder that pytest was started for, and on how pytest-xdist groups tests.
        parts = [
            node.name for node in item.listchain() if not isinstance(node, pytest.File | pytest.Dir | pytest.Session)
        ]
        self._test = "::".join([item.path.name, *parts])
        self._update = update
        self._default_tolerance = default_tolerance
        self._checked: dict[Key, int] = {}

    def check(
        self,
        program_or_fn: Any,
        /,
        *args: Any,
        device: str = "cpu",
        limit: str | int | None = None,
        tolerance: str | int | None = None,
        **keywords: Any,
    ) -> "Report":
        """Fail where the program needs more memory than it may. Nothing is run or allocated.

        Args:
            program_or_fn: a function with its arguments, or a `jaxmem.Program`.
            device: what to compile for, as in ``jaxmem devices``; it need not be in this machine.
            limit: a budget: bytes, or ``"2 GiB"``. Without one there must be a baseline.
            tolerance: how much more than the baseline it may need: bytes, ``"64MiB"`` or ``"1%"``. By default the
                setting ``jaxmem_tolerance``, and without that nothing.
            keywords: as in `jaxmem.analyze`: ``donate_argnums``, ``name``, ``roles``, the function's own, ...

        Returns:
            The report, for further asserts: ``report.roles["saved_activations"]``.

        Raises:
            UsageError: ``limit`` is no size, or ``tolerance`` is none.
        """
        __tracebackhide__ = True
        limit_bytes = parse_bytes(limit) if isinstance(limit, str) else limit
        allowed = parse_tolerance(self._default_tolerance if tolerance is None else tolerance)
        from jaxmem.analysis import analyze

        report = analyze(program_or_fn, *args, device=device, **keywords)
        if limit_bytes is not None:
            report = replace(report, verdict=replace(report.verdict, limit_bytes=limit_bytes))
        problems = [problem for problem in (_over_limit(report), self._beyond_baseline(report, allowed)) if problem]
        if problems:
            pytest.fail("\n\n".join(problems), pytrace=False)
        return report

    def _beyond_baseline(self, report: "Report", tolerance: Tolerance) -> str:
        """Why the program needs too much by its baseline; empty where it does not. Or the baseline is written."""
        baseline = baseline_of(report, self._key(report))
        name, required = f"{baseline.key.program} on {_device(report)}", format_bytes(report.required_bytes)
        if self._update:
            record(self.path, baseline)
            self._tell(f"Baselines written to {FILE_NAME}", f"{name}, {required}")
            return ""
        known = [one for one in read(self.path) if one.key == baseline.key]
        same = next((one for one in known if one.compiler == baseline.compiler), None)
        if same is not None:
            diff = changes(same.side(FILE_NAME), side_of(report, "now"), tolerance=tolerance)
            if diff.exceeded:
                return f"{name} needs more than its baseline.\n\n{_text(diff)}\n\n{_machines(same, baseline)}{self._advice()}"
            if diff.difference_bytes < 0:
                less = format_bytes(-diff.difference_bytes)
                self._tell("Less than the baseline; --jaxmem-update makes it the new one", f"{name}, {less} less")
            return ""
        if known:
            other = max(known, key=lambda one: _numbers(one.compiler))
            diff = changes(other.side(FILE_NAME), side_of(report, "now"), tolerance=tolerance)
            others = ", ".join(one.compiler for one in known)
            return (
                f"{name} has no baseline for {baseline.compiler}; {FILE_NAME} has one for {others}. Another compiler may "
                f"need more or less memory for the same program. Against {other.compiler}:\n\n{_text(diff)}\n\n"
                f"{_machines(other, baseline)}To keep a baseline of this compiler beside it:\n{self._command()}"
            )
        if report.verdict.limit_bytes is None:
            return (
                f"{name} has no baseline in {FILE_NAME} and no limit= to be held against. "
                f"It needs {required}. To make that its baseline, and then commit {self.path.name}:\n{self._command()}"
            )
        self._tell(
            "Without a baseline, held against its limit alone; --jaxmem-update writes one", f"{name}, {required}"
        )
        return ""

    def _key(self, report: "Report") -> Key:
        """Of this check; a second one of the same program on the same device in one test is called ``#2``."""
        program, device = report.program, report.device
        key = Key(
            test=self._test,
            program=" ".join(word for word in (program.name, program.mode) if word),
            device=device.name,
            device_count=device.device_count,
        )
        self._checked[key] = self._checked.get(key, 0) + 1
        return replace(key, program=f"{key.program} #{self._checked[key]}") if self._checked[key] > 1 else key

    def _tell(self, title: str, said: str) -> None:
        self._item.user_properties.append((f"jaxmem: {title}", said))

    def _advice(self) -> str:
        return f"If that is meant, make it the new baseline:\n{self._command()}"

    def _command(self) -> str:
        return f"    pytest --jaxmem-update {_quoted(self._item.nodeid)}"


def _over_limit(report: "Report") -> str:
    limit_bytes = report.verdict.limit_bytes
    if limit_bytes is None or report.required_bytes <= limit_bytes:
        return ""
    from jaxmem.report import brief_text

    over = format_bytes(report.required_bytes - limit_bytes)
    head = (
        f"{report.program.name} on {_device(report)} needs {over} more than its limit of {format_bytes(limit_bytes)}."
    )
    return f"{head}\n\n{brief_text(report, width=_WIDTH)}"


def _text(shown: Any) -> str:
    from jaxmem.report import as_text

    return as_text(shown, width=_WIDTH)


def _device(report: "Report") -> str:
    device = report.device
    return device.name if device.device_count == 1 else f"{device.name} × {device.device_count}"


def _machines(old: Baseline, new: Baseline) -> str:
    """On CPU the machine decides too, since the program is compiled for it."""
    if new.platform != "cpu" or old.host == new.host:
        return ""
    return (
        f"The baseline is of another machine ({old.host}; this is {new.host}), and programs for cpu are compiled for the "
        "machine. Baselines of devices that XLA is told of, such as h100-sxm or tpu-v5e, are the same everywhere.\n"
    )


def _numbers(compiler: str) -> tuple[int, ...]:
    """``"jaxlib 0.10.2"`` → (0, 10, 2): which is the later one."""
    digits = "".join(character if character.isdigit() else " " for character in compiler)
    return tuple(map(int, digits.split()))


def _quoted(nodeid: str) -> str:
    from shlex import quote

    return quote(nodeid)
