"""What is fuzzed: each reader with its seeds, the way they are changed, and what happens to them as in the command line.

A reader goes all the way to the page that a person would see: a value that is read but cannot be shown is a defect too.
"""

import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.mutate import changed_bytes, changed_json, changed_text
from benchmarks.fuzz.protos import changed_proto
from jaxmem.assemble import device_facts, estimate_report, formula_of, read_report
from jaxmem.capture import Capture, load
from jaxmem.codec import encode
from jaxmem.compilers.autotune import read_recorded
from jaxmem.devices.own import load_card
from jaxmem.difference import diff_reports
from jaxmem.dump.roles import read_roles
from jaxmem.errors import JaxmemError
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION
from jaxmem.oom import explain_dump, explain_message
from jaxmem.pytest_plugin import baseline
from jaxmem.report import as_markdown, as_text
from jaxmem.result import (
    Boundary,
    Comparison,
    ComparisonCell,
    EstimateReports,
    Fit,
    Fits,
    Probe,
    Reports,
    from_json,
    to_json,
)
from jaxmem.units import parse_bytes
from jaxmem.xla import read_hlo_proto

DATA = Path(__file__).parents[2] / "tests" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One way into jaxmem.

    Attributes:
        name: on the command line and in the results; ``what`` in words.
        make: the input of an execution, decided by the random number generator alone.
        read: raises a `JaxmemError` or returns; anything else is a defect.
        share: of all executions.
    """

    name: str
    what: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes], object]
    share: float


# Seeds: real files of the tests.


@cache
def _captures() -> tuple[Capture, ...]:
    return tuple(load(file) for file in sorted((DATA / "captures").glob("*.jaxmem")))


@cache
def _protos() -> tuple[bytes, ...]:
    dump = zlib.decompress((DATA / "dumps" / "mlp_train.cpu.hlo.pb.gz").read_bytes(), 31)
    return *(dump,) * 4, *(capture.hlo_proto for capture in _captures())


@cache
def _messages() -> tuple[str, ...]:
    return tuple(file.read_text() for file in sorted((DATA / "oom").glob("*.txt")))


CARDS = (
    'name = "rtx-4080"\nkind = "NVIDIA GeForce RTX 4080"\ncompute_capability = "8.9"\nmultiprocessors = 76\n'
    'memory = "16 GiB"\nmemory_bandwidth = "716.8 GB"\nl2_cache = "64 MiB"\nclock_ghz = 2.505\nsource = "a data sheet"\n',
    'name = "my-card"\nkind = "NVIDIA H100 80GB HBM3"\nmemory = 84942979072\nsource = "the card"\n'
    "target_description = '''gpu_device_info { threads_per_block_limit: 1024 }'''\n",
)


@cache
def _results() -> tuple[str, ...]:
    """A result of every kind as JSON."""
    capture = _captures()[0]
    report, formula = read_report(capture), formula_of(capture)
    assert formula is not None
    estimate = estimate_report(formula, capture.program, device_facts(capture.device, 1))
    cell = ComparisonCell(
        program="looped",
        mode=None,
        batch_size=4,
        device="cpu",
        device_count=1,
        required_bytes=1000,
        fits=True,
        usable_bytes=4000,
        headroom_bytes=3000,
        formula_bytes=900,
        formula_error_percent=-10.0,
    )
    probes = [Probe(batch_size=n, required_bytes=n * 100, judged_bytes=n * 100, fits=n < 9) for n in (8, 9)]
    fit = Fit(
        program=capture.program,
        device=device_facts(capture.device, 1),
        budget_bytes=850,
        limit_bytes=None,
        resident_bytes=0,
        margin_bytes=0,
        rule="required against usable",
        asked_batch=8,
        fits=True,
        boundary=Boundary(
            largest_batch=8,
            next_batch=9,
            multiple_of=1,
            searched_to=9,
            compiles=2,
            monotone=True,
            proof=tuple(probes),
            answer="Batch 8 fits.",
        ),
        advised_batch=8,
        advice=(),
        donation=(),
    )
    return (
        to_json(Reports(reports=(report,))),
        to_json(EstimateReports(reports=(estimate,))),
        to_json(Comparison(cells=(cell, cell))),
        to_json(Fits(reports=(fit,))),
        to_json(diff_reports((report,), (report,), old_name="old", new_name="new")),
        *(to_json(explain_message(message)) for message in _messages()[:3]),
    )


# Inputs.


def _proto(random: Random) -> bytes:
    proto = changed_proto(random.choice(_protos()), random, _protos())
    if random.randrange(16) == 0:
        return changed_bytes(zlib.compress(proto, 1, 31), random)
    return proto


def archive(members: dict[str, bytes]) -> bytes:
    """A zip archive, stored."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, data in members.items():
            opened.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


@cache
def _members() -> tuple[dict[str, bytes], ...]:
    unpacked = []
    for file in sorted((DATA / "captures").glob("*.jaxmem")):
        with zipfile.ZipFile(file) as opened:
            # What is compiled says nothing here, and would only be copied about.
            unpacked.append({name: opened.read(name) for name in opened.namelist()} | {"stablehlo": b"-"})
    return tuple(unpacked)


@cache
def _archives() -> tuple[bytes, ...]:
    packed = tuple(file.read_bytes() for file in sorted((DATA / "captures").glob("*.jaxmem")))
    return (*packed, *map(archive, _members()))


def _capture(random: Random) -> bytes:
    if random.randrange(3) == 0:
        return changed_bytes(random.choice(_archives()), random, _archives())
    members = dict(random.choice(_members()))
    if random.randrange(8):
        table = changed_json(members["capture.json"].decode(), random)
        members["capture.json"] = table.encode(errors="surrogatepass")
    else:
        name = random.choice(("../capture.json", "/etc/passwd", "hlo_proto/", "capture.json\0", "stablehlo", ""))
        members[name] = members.pop(random.choice(tuple(members)))
    return archive(members)


def _report_of(random: Random) -> bytes:
    """A capture whose archive is whole: the module, or the table, says something else than the compiler did."""
    members = dict(random.choice(_members()))
    if random.randrange(3):
        members["hlo_proto"] = changed_proto(members["hlo_proto"], random)
    else:
        table = changed_json(members["capture.json"].decode(), random)
        members["capture.json"] = table.encode(errors="surrogatepass")
    return archive(members)


def _json(random: Random) -> bytes:
    text = random.choice(_results())
    if random.randrange(4) == 0:
        return changed_text(text, random, _results())
    return changed_json(text, random).encode(errors="surrogatepass")


@cache
def _baselines() -> str:
    key = baseline.Key(test="test_model.py::test_step", program="looped", device="cpu", device_count=1)
    with tempfile.TemporaryDirectory(prefix="jaxmem-fuzz-") as name:
        file = Path(name) / "memory_baseline.json"
        baseline.record(file, baseline.baseline_of(read_report(_captures()[0]), key))
        return file.read_text()


def _baseline(random: Random) -> bytes:
    if random.randrange(4) == 0:
        return changed_text(_baselines(), random)
    return changed_json(_baselines(), random).encode(errors="surrogatepass")


ROLES = (
    '[roles]\n"params*" = "parameters"\n"opt_state*.mu*" = "optimizer_first_moment"\n2 = "inputs"\n"0-1" = "inputs"\n',
)


def _roles(random: Random) -> bytes:
    return changed_text(random.choice(ROLES), random, ROLES)


def _message(random: Random) -> bytes:
    return changed_text(random.choice(_messages()), random, _messages())


def _card(random: Random) -> bytes:
    return changed_text(random.choice(CARDS), random, CARDS)


_SIZES = ("2 GiB", "1.5G", "300 MB", "4096", "16 kB", "0.25 TiB")


def _size(random: Random) -> bytes:
    return changed_text(random.choice(_SIZES), random, _SIZES)


_RECORDED = (
    'version: 3\nresults { device: "CUDA: 9.0, Cores: 132, GPU clock: 1.98 GHz, Memory bandwidth: 3352 GB/s, L2 cache: '
    '50 MB, DNN version: 9.10.2" hlo: "(f32[8,8]) custom-call" result { gemm { algorithm: -1 } } }\n',
)


def _recorded(random: Random) -> bytes:
    return changed_text(random.choice(_RECORDED), random, _RECORDED)


# What is done with them.


def _in_file(read: Callable[[Path], Any], suffix: str) -> Callable[[bytes], Any]:
    """A reader of files, fed with bytes. The file is one of memory where the system has such."""
    shm = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="jaxmem-fuzz-", dir=shm if shm.is_dir() else None)
    path = Path(folder.name) / f"input{suffix}"

    def read_bytes(data: bytes) -> Any:
        assert folder  # removed when this function is
        path.write_bytes(data)
        return read(path)

    return read_bytes


def _show(results: Any) -> None:
    as_text(results)
    as_markdown(results)
    to_json(results).encode()


def _show_some(results: Any, data: bytes) -> None:
    """A page takes many times longer than reading what is on it: one in ten, and the same ones every time."""
    if zlib.crc32(data) % 10 == 0:
        _show(results)


def _read_capture(path: Path) -> None:
    encode(load(path))


def _read_report(path: Path) -> None:
    report = read_report(load(path), origin=str(path))
    _show(Reports(reports=(report,)))


def _read_json(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:  # what is not text is refused before this: `load`
        text = data.decode(errors="replace")
    _show_some(from_json(text, "input.json"), data)


def _read_card(path: Path) -> None:
    json.dumps(encode(load_card(path))[0])


def _read_message(data: bytes) -> None:
    _show_some(explain_message(data.decode(errors="replace")), data)


def _read_size(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="surrogateescape")  # as Python hands over the words of a command line
    parse_bytes(text)


READERS = (
    Reader(
        name="hlo",
        what="HloProto, plain and in gzip",
        make=_proto,
        read=lambda data: read_hlo_proto(data, origin="input"),
        share=0.012,
    ),
    Reader(
        name="dump",
        what="an HloProto explained, to the page",
        make=_proto,
        read=_in_file(lambda path: _show(explain_dump(path)), ".cpu_after_optimizations.hlo.pb"),
        share=0.003,
    ),
    Reader(
        name="capture", what="captures (*.jaxmem)", make=_capture, read=_in_file(_read_capture, ".jaxmem"), share=0.012
    ),
    Reader(
        name="report",
        what="whole captures of changed content, to the page and to JSON",
        make=_report_of,
        read=_in_file(_read_report, ".jaxmem"),
        share=0.002,
    ),
    Reader(name="json", what="saved results (*.json), to the page", make=_json, read=_read_json, share=0.035),
    Reader(
        name="baseline",
        what="baselines of the pytest plugin",
        make=_baseline,
        read=_in_file(lambda path: [one.side("old") for one in baseline.read(path)], ".json"),
        share=0.015,
    ),
    Reader(
        name="roles",
        what="files of roles for dumps (TOML)",
        make=_roles,
        read=_in_file(lambda path: read_roles(path).roles(("params['w']", "opt_state[0].mu['w']", "x")), ".toml"),
        share=0.05,
    ),
    Reader(name="card", what="card files (TOML)", make=_card, read=_in_file(_read_card, ".toml"), share=0.3),
    Reader(name="message", what="out-of-memory messages, to the page", make=_message, read=_read_message, share=0.25),
    Reader(name="size", what="sizes on the command line", make=_size, read=_read_size, share=0.211),
    Reader(
        name="autotune",
        what="files of autotune results",
        make=_recorded,
        read=_in_file(lambda path: read_recorded(((AUTOTUNE_RESULTS_OPTION, str(path)),)), ".txt"),
        share=0.11,
    ),
)


def reader_of(name: str) -> Reader:
    """By name."""
    return next(reader for reader in READERS if reader.name == name)


def input_of(reader: Reader, number: int) -> bytes:
    """The input of one execution: a number decides it, on every machine with the same Python."""
    return reader.make(Random(f"{reader.name} {number}"))


def outcome_of(reader: Reader, data: bytes) -> tuple[str, str]:
    """How reading ended: ``read``, ``refused`` (exit code 2 or 3), or ``defect``; and in which words."""
    try:
        reader.read(data)
    except JaxmemError as error:
        return ("refused" if error.exit_code in (2, 3) else "defect"), f"{type(error).__name__}: {error}"
    except Exception as error:
        return "defect", f"{type(error).__name__}: {error}"
    return "read", ""
