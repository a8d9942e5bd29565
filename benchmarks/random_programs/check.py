"""Compiling many programs in one process, and what must hold of each report."""

import ast
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax

from benchmarks.random_programs import blocks
from benchmarks.random_programs import build as build_module
from benchmarks.random_programs.build import build
from benchmarks.random_programs.oracle import count, paint
from benchmarks.random_programs.plan import Plan
from jaxmem.assemble import read_report
from jaxmem.capture import Capture, installed_versions, load, save
from jaxmem.compilers import compile_lowering, run, worker
from jaxmem.compilers.process import WORDS
from jaxmem.devices import compiler_packages, find_device
from jaxmem.errors import EnvironmentFailure
from jaxmem.profile import MAIN_COLORS, MemoryProfile, profile_memory
from jaxmem.result import Report
from jaxmem.roles import Role
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table
from jaxmem.unknown import Unknown
from jaxmem.xla import live_peak_bytes, read_hlo_proto, replays


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one program.

    Attributes:
        broken: laws that do not hold, in words; empty where all do.
        unexplained: rows of the ledger that stay open, in words.
        refused: the compiler's own words where it does not take the program.
    """

    required_bytes: int = 0
    instructions: int = 0
    unexplained_bytes: int = 0
    unattributed_bytes: int = 0
    broken: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()
    refused: str | None = None


class NoProgram(Exception):
    """What was drawn is no program: a collective over a batch that cannot be divided, a product that JAX does not know."""


@contextmanager
def in_this_process() -> Iterator[None]:
    """The compiler's worker does its job here: starting a process would take longer than a small compile."""

    def here(folder: Path, *_: Any) -> None:
        (folder / WORDS).touch()
        worker.do_job(folder, lambda _: None)

    with patch.object(run, "run_worker", here):
        yield


UNOPTIMIZED = (("xla_backend_optimization_level", "0"), ("xla_llvm_disable_expensive_passes", "True"))
"""LLVM optimizes the machine code of a CPU program after its buffers have their places; here nobody runs it."""


def capture_of(plan: Plan, device: str, kept: Path | None = None) -> Capture:
    """Trace and compile a program. Call within `in_this_process`.

    Args:
        plan, device: what, for what.
        kept: a folder of captures, in which this one is looked for and kept; what tracing says is made anew.
    """
    target = find_device(device)
    try:
        program = build(plan)
    except Exception as error:
        raise _no_program(error) from error
    if target.platform == "cpu":
        program = program.with_compiler_options(UNOPTIMIZED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        try:
            traced = trace(program, platforms=(target.platform,))
        except Exception:
            # Whose error is it? Tracing each program twice to know beforehand would cost more than the compiler does.
            try:
                jax.eval_shape(program.fn, *program.args)
            except Exception as error:
                raise _no_program(error) from error
            raise
        try:
            lowering = traced.lowering
        except ValueError as error:
            if "is not supported by dot_general" not in str(error):
                raise
            raise NoProgram(f"JAX lowers no such program for {target.platform}: {error}") from error
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    if kept is None:
        return compile_lowering(lowering, table, target, timeout=None)
    file = kept / f"{kept_as(plan, device)}.jaxmem"
    if file.exists():
        return replace(load(file), arguments=lowering.arguments, outputs=lowering.outputs, layer_table=table)
    capture = compile_lowering(lowering, table, target, timeout=None)
    kept.mkdir(parents=True, exist_ok=True)
    save(capture, file, force=True)
    return capture


def _no_program(error: Exception) -> NoProgram:
    return NoProgram(f"JAX takes no such program: {type(error).__name__}: {str(error).splitlines()[0]}")


def kept_as(plan: Plan, device: str) -> str:
    """A name for the capture of a program: another one for other versions, and for other sources of the blocks."""
    versions = installed_versions(("jax", "jaxlib", *compiler_packages(find_device(device).platform)))
    sources = [ast.dump(ast.parse(Path(module.__file__ or "").read_text())) for module in (blocks, build_module)]
    return blake2b(repr((plan, device, versions, sources)).encode(), digest_size=12).hexdigest()


def check(plan: Plan, device: str, kept: Path | None = None) -> tuple[Finding, Capture | None]:
    """Compile a program and see whether everything holds; any error of jaxmem's own is a law broken."""
    capture = None
    try:
        capture = capture_of(plan, device, kept)
        report = read_report(capture)
        broken = tuple(_broken_laws(capture, report))
    except (EnvironmentFailure, NoProgram) as error:
        return Finding(refused=str(error)), None
    except Exception as error:  # whatever it is, it is a defect to be written down
        return Finding(broken=(f"{type(error).__name__}: {error}",)), capture
    return (
        Finding(
            required_bytes=report.required_bytes,
            instructions=len(read_hlo_proto(capture.hlo_proto, origin="the capture")[0].instructions),
            unexplained_bytes=-1 if isinstance(report.unexplained_bytes, Unknown) else report.unexplained_bytes,
            unattributed_bytes=report.roles.get(Role.UNATTRIBUTED, 0),
            broken=broken,
            unexplained=tuple(_open_rows(report)),
        ),
        capture,
    )


def _open_rows(report: Report) -> Iterator[str]:
    for row in report.ledger:
        if row.unexplained_bytes:
            items = ", ".join(f"{item.kind} {item.bytes}" for item in row.items)
            yield (
                f"{row.term} {row.layer}: formula {row.formula_bytes}, compiled {row.compiled_bytes} [{items}] {row.reason}"
            )


def _broken_laws(capture: Capture, report: Report) -> Iterator[str]:
    module, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    platform = capture.device.platform
    colors = MAIN_COLORS[platform]
    profile = profile_memory(module, assignment, platform=platform)

    def equal(what: str, found: Any, expected: Any) -> Iterator[str]:
        if found != expected:
            yield f"{what}: {found}, expected {expected}"

    # The replay, against the definition.
    counted = count(capture.hlo_proto, colors)
    yield from equal("live peak", report.live_peak_bytes, counted.live_peak_bytes)
    found = replays(assignment, colors)
    yield from equal("curves", tuple(replay.live_bytes for _, replay in found), counted.curves)
    yield from equal(
        "live at the peak",
        tuple(frozenset(live.canonical_id for live in replay.live_at_peak) for _, replay in found),
        counted.live_at_peak,
    )
    yield from equal("live peak, by itself", live_peak_bytes(assignment, colors), counted.live_peak_bytes)
    # The account.
    yield from equal("reserved by allocation", profile.reserved_bytes, counted.reserved_bytes)
    yield from equal("sum of the roles", sum(report.roles.values()), report.required_bytes)
    yield from equal("sum of the ledger", sum(row.compiled_bytes for row in report.ledger), report.required_bytes)
    yield from equal(
        "sum of reserved and hidden", report.reserved_bytes + (report.hidden.bytes or 0), report.required_bytes
    )
    if negative := [role for role, size_bytes in report.roles.items() if size_bytes < 0]:
        yield f"negative roles {negative}"
    yield from equal("held at the peak", _held(profile), _painted(profile))
    yield from equal("damage", profile.damage, ())
    # The compiler's own words.
    if platform == "cpu":
        statistics = capture.statistics
        said = [statistics.argument_bytes, statistics.output_bytes, statistics.temp_bytes, statistics.alias_bytes]
        arguments, outputs, temporaries, alias = (size for size in said if isinstance(size, int))
        constants = sum(each.size for each in profile.allocations if each.is_constant)
        yield from equal(
            "memory_analysis()", arguments + outputs - alias + temporaries + constants, report.reserved_bytes
        )


def _held(profile: MemoryProfile) -> dict[int, int]:
    held: dict[int, int] = {}
    for segment in profile.segments:
        holder = -1 if segment.buffer_id is None else segment.buffer_id
        held[holder] = held.get(holder, 0) + segment.size_bytes
    return {holder: size_bytes for holder, size_bytes in held.items() if size_bytes}


def _painted(profile: MemoryProfile) -> dict[int, int]:
    """Who lives at the peak is decided by the profile; of where the bytes are, all is counted again."""
    return paint(profile.allocations, [each for each in profile.buffers if each.id in profile.live_at_peak])
