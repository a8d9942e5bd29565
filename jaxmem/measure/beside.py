"""A measurement laid beside the report of the same program."""

from jaxmem.measure.data import Measurement
from jaxmem.result import Measured, Report
from jaxmem.unknown import Unknown


def measured_beside(report: Report, measurement: Measurement) -> Measured:
    """What a report shows of a measurement.

    On the processor the same compiler compiled both times: where it did not come to the same sizes (a capture of another
    machine or version), the prediction is of another program, and there is no error to speak of. On a GPU or TPU the
    compile without the device is what is judged.
    """
    counted = measurement.counted
    if isinstance(counted, Unknown):
        return Measured(
            bytes=counted, what=measurement.what, error_percent=counted, driver_bytes=counted, runs_in_pool=False
        )
    what = measurement.what
    if report.device.platform != "cpu":
        what += f", on {measurement.device}"
    if counted.is_upper_bound:
        what += "; at most: the counter stood as high before the run"
    return Measured(
        bytes=counted.peak_bytes,
        what=what,
        error_percent=_error_percent(report, measurement, counted.peak_bytes),
        driver_bytes=counted.driver_bytes,
        runs_in_pool=measurement.runs_in_pool,
    )


def _error_percent(report: Report, measurement: Measurement, peak_bytes: int) -> float | Unknown:
    ran, said = measurement.statistics, report.xla
    names = ("argument_bytes", "output_bytes", "alias_bytes", "temp_bytes")
    differing = [name for name in names if getattr(ran, name) != getattr(said, name)]
    if report.device.platform == "cpu" and differing:
        first = differing[0]
        return Unknown(
            f"compiled here, the program is another one: its {first} is {getattr(ran, first)}, the report's "
            f"{getattr(said, first)}"
        )
    if peak_bytes <= 0:
        return Unknown("the process did not grow")
    return 100 * (report.required_bytes - peak_bytes) / peak_bytes
