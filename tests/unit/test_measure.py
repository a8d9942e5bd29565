"""Counters of real runs, told what a device would say; and what a measurement means beside a report."""

from dataclasses import replace
from pathlib import Path

import pytest

from jaxmem.analysis import load
from jaxmem.capture import load as load_capture
from jaxmem.devices import find_device
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.measure import Counted, Measurement, measure_capture, measured_beside, refuse_elsewhere, run
from jaxmem.measure.counters import AllocatorMemory, NoStatistics, process_bytes
from jaxmem.report import as_text
from jaxmem.result import Report, Reports, from_json, to_json
from jaxmem.unknown import Unknown

GOLDEN = Path(__file__).parents[1] / "golden"
NO_DRIVER = Unknown("nobody asked")


class FakeDevice:
    """An allocator: ``peak_bytes_in_use`` never goes down."""

    def __init__(self) -> None:
        self.in_use = self.peak = 0

    def hold(self, size: int) -> None:
        self.in_use += size
        self.peak = max(self.peak, self.in_use)

    def statistics(self) -> dict[str, int]:
        return {"bytes_in_use": self.in_use, "peak_bytes_in_use": self.peak, "num_allocs": 3}


def counted_run(device: FakeDevice, *, arguments: int, temporary: int) -> Counted:
    counter = AllocatorMemory(device.statistics, lambda: 7)
    counter.begin()
    device.hold(arguments)
    counter.arguments_made()
    device.hold(temporary)
    device.hold(-temporary)
    return counter.ended()


def test_the_allocator_peak_is_arguments_and_run() -> None:
    counted = counted_run(FakeDevice(), arguments=100, temporary=40)
    assert counted == Counted(argument_bytes=100, step_bytes=40, is_upper_bound=False, driver_bytes=7)
    assert counted.peak_bytes == 140


def test_a_run_that_takes_nothing_besides_its_arguments_is_known_exactly() -> None:
    counted = counted_run(FakeDevice(), arguments=100, temporary=0)
    assert (counted.peak_bytes, counted.is_upper_bound) == (100, False)


def test_a_peak_from_before_the_run_is_only_an_upper_bound() -> None:
    device = FakeDevice()
    device.hold(500)  # as XLA does while it tries kernels
    device.hold(-500)
    counted = counted_run(device, arguments=100, temporary=40)
    assert (counted.peak_bytes, counted.is_upper_bound) == (500, True)


def test_an_allocator_that_does_not_count_says_so() -> None:
    with pytest.raises(NoStatistics, match="no bytes_in_use"):
        AllocatorMemory(lambda: None, lambda: 7).begin()


@pytest.mark.parametrize(
    ("table", "held"),
    [
        ("41, 512\n99, 3072\n", 3 * 2**30),
        ("41, 512\n", 512 * 2**20),  # a container: the one process is this one, by another number
        ("99, 100\n99, 28\n", 128 * 2**20),  # two cards
    ],
)
def test_the_drivers_table(table: str, held: int) -> None:
    assert process_bytes(table, 99) == held


@pytest.mark.parametrize("table", ["", "41, 512\n42, 512\n", "99, [N/A]\n", "No running processes found"])
def test_a_driver_that_does_not_tell(table: str) -> None:
    assert isinstance(process_bytes(table, 99), Unknown)


# --- where it may run ------------------------------------------------------------------------------------------------


def test_a_card_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "attached_device", lambda: find_device("cpu"))
    with pytest.raises(EnvironmentFailure) as refused:
        refuse_elsewhere(find_device("h100-sxm"))
    assert str(refused.value) == (
        "--measure runs the program on the device that it is for: h100-sxm (cuda). Attached to this machine is: host "
        "processor (cpu). Leave --measure out, measure with -d cpu, or use a machine with that device."
    )


def test_another_card_of_the_same_platform_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "attached_device", lambda: find_device("a100-sxm-80"))
    assert refuse_elsewhere(find_device("h100-sxm")).name == "a100-sxm-80"


def test_several_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="spread over 8"):
        refuse_elsewhere(find_device("cpu"), 8)


def test_a_system_without_a_high_water_mark_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "CLEAR", tmp_path / "clear_refs")
    with pytest.raises(EnvironmentFailure, match="high-water mark"):
        refuse_elsewhere(find_device("cpu"))


def test_functions_of_python_cannot_travel() -> None:
    capture = load_capture(GOLDEN / "pools.cpu.jaxmem")
    calling = replace(capture, stablehlo=capture.stablehlo + b"xla_ffi_python_cpu_callback")
    with pytest.raises(UsageError, match="calls back"):
        measure_capture(calling)


# --- beside a report -------------------------------------------------------------------------------------------------


def report_of(name: str) -> Report:
    report = load(GOLDEN / f"{name}.jaxmem")
    assert isinstance(report, Report)
    return report


def a_measurement(name: str, counted: Counted | Unknown, *, runs_in_pool: bool | Unknown = True) -> Measurement:
    return Measurement(
        device="NVIDIA H100 80GB HBM3",
        counted=counted,
        what="the counter",
        runs_in_pool=runs_in_pool,
        statistics=load_capture(GOLDEN / f"{name}.jaxmem").statistics,
    )


def test_the_error_is_that_of_required() -> None:
    report = report_of("pools.h100-sxm")
    counted = Counted(
        argument_bytes=0, step_bytes=2 * report.required_bytes, is_upper_bound=False, driver_bytes=10 * 2**30
    )
    measured = measured_beside(report, a_measurement("pools.h100-sxm", counted))
    assert measured.error_percent == -50.0
    assert measured.what == "the counter, on NVIDIA H100 80GB HBM3"
    text = " ".join(as_text(replace(report, measured=measured), width=120).split()).replace("−", "-")
    assert "required is off by -50.0 % · the driver counts 10.00 GiB" in text
    assert "it ran in the pool that JAX takes at the start" in text
    reports = Reports(reports=(replace(report, measured=measured),))
    assert from_json(to_json(reports), origin="here") == reports


def test_a_device_that_ran_out_of_memory_has_no_number() -> None:
    report = report_of("pools.h100-sxm")
    words = Unknown("NVIDIA H100 80GB HBM3 ran out of memory: RESOURCE_EXHAUSTED")
    measured = measured_beside(report, a_measurement("pools.h100-sxm", words, runs_in_pool=False))
    assert measured.bytes == measured.error_percent == words
    assert f"Measured {words.reason}" in " ".join(as_text(replace(report, measured=measured), width=120).split())


def test_an_upper_bound_says_so() -> None:
    counted = Counted(argument_bytes=1, step_bytes=1, is_upper_bound=True, driver_bytes=NO_DRIVER)
    measured = measured_beside(report_of("pools.h100-sxm"), a_measurement("pools.h100-sxm", counted))
    assert "at most" in measured.what


def test_another_program_on_the_processor_is_not_compared() -> None:
    report = report_of("pools.cpu")
    counted = Counted(argument_bytes=1, step_bytes=1, is_upper_bound=False, driver_bytes=NO_DRIVER)
    other = a_measurement("thin_maps.cpu", counted)
    measured = measured_beside(report, other)
    assert isinstance(measured.error_percent, Unknown)
    assert "another one" in measured.error_percent.reason
