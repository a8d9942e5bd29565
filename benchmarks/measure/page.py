"""The page of what was measured, and the table of the README."""

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.measure.explanations import EXPLANATIONS
from benchmarks.measure.rows import Results, Row
from benchmarks.records import in_words, table
from jaxmem.unknown import Unknown

MIB = 1 << 20
NOT_MEASURED = "not measured yet"
WORST = 5


def page(found: Sequence[Results]) -> str:
    """All tables. An accelerator without results says so."""
    processor = next((one for one in found if one.device == "cpu"), None)
    accelerators = [one for one in found if one.device != "cpu"]
    return f"""# Measured: what programs really take

    python -m benchmarks.measure -d cpu          # this machine's processor
    python -m benchmarks.measure -d attached     # the GPU or TPU of this machine: ten minutes; --dry-run shows the plan

Each program runs in fresh processes, with arguments of zeros and small constants. Sizes in MiB. *Error* is prediction less
measurement, in percent of the measurement: above zero, the prediction says more than was taken.

## CPU

{_processor_section(processor) if processor is not None else NOT_MEASURED}

## GPU and TPU

{chr(10).join(_accelerator_section(one) for one in accelerators) if accelerators else NOT_MEASURED}
"""


def _processor_section(results: Results) -> str:
    rows = [row for row in results.rows if row.peak_bytes]
    cells = [
        (
            row.network,
            row.mode,
            str(row.batch_size),
            _mebibytes(row.argument_bytes),
            _mebibytes(row.growth_bytes),
            _mebibytes(row.measured_bytes),
            _mebibytes(row.required_bytes),
            _mebibytes(row.hidden_bytes),
            *(_percent(row.error_percent(said)) for said in (row.required_bytes, row.statistics_bytes)),
            _percent(row.error_percent(row.formula_bytes)),
            _mebibytes(max(row.step_bytes) - min(row.step_bytes)),
            str(len(row.peak_bytes)),
        )
        for row in rows
    ]
    header = (
        *("network", "mode", "batch", "arguments", "growth of the run", "measured", "required", "of it hidden"),
        *("error of required, %", "of memory_analysis(), %", "of the estimate, %", "spread", "processes"),
    )
    return f"""{in_words(results.setting, tuple(row.date for row in rows))}

*Measured* is the growth of a fresh process's peak resident memory, arguments included: the median of the processes,
*spread* the largest less the smallest. The process's own first touches (threads, the code of kernels) are in it, which weigh
in a small program. *memory_analysis()* is argument + output − alias + temp, as XLA reports them.

What libraries take unseen follows the processor's instruction set and its threads; this page is of one processor, and
[the growth of processes](process_growth.md) tells of two kinds. The rules were derived from single operations, VGG-16,
ResNet-18, MobileNet v2 and v3 and RegNet (a look at each is where a rule was missing); the other networks took no part.

{table(header, cells, left=2)}

{_summary(rows, "required", lambda row: row.required_bytes)}
{_summary(rows, "`memory_analysis()`", lambda row: row.statistics_bytes)}
{_summary(rows, "the estimate, which needs no compile", lambda row: row.formula_bytes)}

{_worst(rows)}"""


def _summary(rows: Sequence[Row], name: str, said: Callable[[Row], int | Unknown]) -> str:
    errors = [error for row in rows if (error := row.error_percent(said(row))) is not None]
    if not errors:
        return f"- Error of {name}: {NOT_MEASURED}."
    sizes = [abs(error) for error in errors]
    return (
        f"- Error of {name}: median {median(sizes):.1f} %, largest {max(sizes):.1f} %, "
        f"too low in {sum(error < 0 for error in errors)} of {len(errors)} programs."
    )


def _worst(rows: Sequence[Row]) -> str:
    def size(row: Row) -> float:
        return abs(row.error_percent(row.required_bytes) or 0.0)

    lines = [
        f"- **{row.network}, {row.mode}, batch {row.batch_size}: {_percent(row.error_percent(row.required_bytes))} %.** "
        + EXPLANATIONS.get((row.device, row.network, row.mode), "Not explained yet.")
        for row in sorted(rows, key=size, reverse=True)[:WORST]
    ]
    return f"### The {WORST} largest errors of *required*\n\n" + "\n".join(lines)


def _accelerator_section(results: Results) -> str:
    ran = [row for row in results.rows if row.peak_bytes]
    cells = [
        (
            row.network,
            row.mode,
            str(row.batch_size),
            *(_mebibytes(size) for size in (row.formula_bytes, row.required_bytes, row.on_device_bytes)),
            "out of memory" if row.out_of_memory is not None else _mebibytes(row.measured_bytes),
            _mebibytes(row.driver_bytes),
            _mebibytes(row.workspace_bytes),
            *(
                _percent(row.error_percent(said))
                for said in (row.formula_bytes, row.required_bytes, row.on_device_bytes)
            ),
        )
        for row in results.rows
    ]
    header = (
        *("network", "mode", "batch", "estimate", "compiled without it", "compiled on it", "measured", "the driver"),
        *("library workspace", "error of the estimate, %", "compiled without it, %", "compiled on it, %"),
    )
    return f"""### {results.device}

{in_words(results.setting, tuple(row.date for row in results.rows))}

*Measured* is `peak_bytes_in_use` of JAX's allocator without preallocation; *the driver* is what nvidia-smi says of the
process, its CUDA context included. *Library workspace* is the largest that one call of cuDNN or cuBLAS is given in the program
compiled on the device; a compile without it plans none.

{table(header, cells, left=2)}

{hidden_range(ran)}

{_boundary(results)}"""


def hidden_range(rows: Sequence[Row]) -> str:
    """What a compile without the device leaves out, over all programs: what ``hidden`` may be taken to be."""
    left_out = [row.measured_bytes - row.required_bytes for row in rows if row.measured_bytes is not None]
    if not left_out:
        return f"What a compile without the device leaves out: {NOT_MEASURED}."
    share = [
        100 * (row.measured_bytes - row.required_bytes) / row.required_bytes
        for row in rows
        if row.measured_bytes is not None
    ]
    return (
        f"Measured less *required*, over {len(left_out)} programs: from {_mebibytes(min(left_out))} to "
        f"{_mebibytes(max(left_out))} MiB, median {_mebibytes(round(median(left_out)))} MiB; "
        f"{min(share):+.1f} to {max(share):+.1f} %, median {median(share):+.1f} %. "
        "That is the range to expect of *hidden* here."
    )


def _boundary(results: Results) -> str:
    ended = results.boundary
    if ended is None:
        return f"The largest batch, found by running out of memory: {NOT_MEASURED}."
    tried = " ".join(f"{probe.batch_size}{'' if probe.fits else ' (out of memory)'}" for probe in ended.found.proof)
    return (
        f"The largest batch of {ended.network}, {ended.mode}, in multiples of {ended.found.multiple_of}: predicted "
        f"{ended.predicted.largest_batch}, found {ended.found.largest_batch} by running it in JAX's pool. Tried: {tried}."
    )


def readme_table(found: Sequence[Results]) -> str:
    """The few lines of the README: errors of each prediction, device by device."""
    predictions: tuple[tuple[str, Callable[[Row], int | Unknown]], ...] = (
        ("jaxmem's estimate, no compile", lambda row: row.formula_bytes),
        ("`memory_analysis()`: argument + output − alias + temp", lambda row: row.statistics_bytes),
        ("jaxmem: *required*", lambda row: row.required_bytes),
        ("compiled on the device", lambda row: row.on_device_bytes),
    )
    devices = {one.device: one for one in found}
    columns = ["cpu", *(name for name in devices if name != "cpu")]
    if len(columns) == 1:
        columns.append("GPU")
    rows = [
        (
            name,
            *(
                _median_and_largest(devices[column].rows, said) if column in devices else NOT_MEASURED
                for column in columns
            ),
        )
        for name, said in predictions
    ]
    return table(("error against the measured peak: median (largest)", *columns), rows)


def _median_and_largest(rows: Sequence[Row], said: Callable[[Row], int | Unknown]) -> str:
    sizes = [abs(error) for row in rows if (error := row.error_percent(said(row))) is not None]
    return f"{median(sizes):.1f} % ({max(sizes):.1f} %), {len(sizes)} programs" if sizes else "–"


def _mebibytes(size: int | Unknown | None) -> str:
    return f"{size / MIB:,.1f}" if isinstance(size, int) else "–"


def _percent(error: float | None) -> str:
    return "–" if error is None else f"{error:+.1f}"
