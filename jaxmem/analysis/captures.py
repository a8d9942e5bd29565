"""From a program to its capture: found in the cache, or compiled and kept there.

The work is in three parts, so that the one in the middle may happen elsewhere: `prepare` traces here, where the function
lives; the compile takes the lowering alone; `Pending.keep` puts what comes back where the next request finds it. While the
compiler works in its process, this one derives the formula (`finished_beside_formula`), which never sees the compile.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jaxmem.analysis.gemm import gemm_options
from jaxmem.analysis.requests import versions_for, zoo_request
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_of, silent
from jaxmem.assemble import formula_of, formula_on
from jaxmem.capture import Capture, CaptureCache, lowering_key, this_host
from jaxmem.capture import load as load_capture
from jaxmem.devices import Device, obstacle, refuse_bad_fraction, with_memory_fraction
from jaxmem.errors import EnvironmentFailure
from jaxmem.formula import Formula
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Lowering
from jaxmem.pause import collecting_paused
from jaxmem.program import Program
from jaxmem.quiet import start_jax

if TYPE_CHECKING:
    from jaxmem.tracing import Traced

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A compile that is still to be made, and where its capture goes.

    Attributes:
        lowering, device: what is compiled, for what.
        traced: the program, which stays here.
        key: of the capture in the cache; ``request`` of what a person asked for, None where it can change unseen.
        cache: None keeps nothing.
    """

    lowering: Lowering
    traced: "Traced"
    device: Device
    key: str
    request: str | None
    cache: CaptureCache | None

    @property
    def layer_table(self) -> LayerTable | None:
        """The traced program as plain data; None where it came already lowered."""
        return self.traced.layer_table

    def compile(self, progress: Progress = silent) -> Capture:
        """Make it here and now."""
        return self.compile_beside(lambda _: None, progress)[0]

    def compile_beside(self, work: Callable[[LayerTable | None], T], progress: Progress = silent) -> tuple[Capture, T]:
        """Make it here and now. While the compiler works, the traced program becomes plain data, and ``work`` is done on it."""
        from concurrent.futures import ThreadPoolExecutor

        from jaxmem.compilers import compile_lowering

        @collecting_paused()
        def aside() -> tuple[LayerTable | None, T]:
            return self.layer_table, work(self.layer_table)

        with ThreadPoolExecutor(max_workers=1) as threads:
            begun = threads.submit(aside)
            capture = compile_lowering(self.lowering, None, self.device, progress=progress)
            table, done = begun.result()
        return self.keep(replace(capture, layer_table=table)), done

    def keep(self, capture: Capture) -> Capture:
        """Put the capture into the cache, and hand it on."""
        if self.cache is not None:
            self.cache.put(self.key, capture)
            if self.request is not None:
                self.cache.put_request(self.request, self.key)
        return capture


def prepare_target(target: Target, *, progress: Progress = silent) -> Capture | Pending:
    """The capture of what a person named, loaded or from the cache; or the compile that makes it."""
    if target.text.lower().endswith(".jaxmem"):
        capture = load_capture(Path(target.text))
        compiled_for = f"{target.text} was compiled for {capture.device.name}"
        refuse_bad_fraction(target.memory_fraction, [capture.device.platform], found=compiled_for)
        return replace(capture, device=with_memory_fraction(capture.device, target.memory_fraction))
    device = target.find_device()
    added = gemm_options(target.gemm, device.platform, target.compiler_options)
    target = replace(target, compiler_options=tuple(sorted((*target.compiler_options, *added))))
    cache = CaptureCache() if target.use_cache else None
    request = zoo_request(target, device, "capture") if is_zoo(target) else None
    if cache is not None and request is not None and (known := cache.get_request(request)) is not None:
        progress("found in the cache", 0.0)
        return replace(known, device=device)  # the memory of this machine today, not of the day of the compile
    progress("tracing", 0.0)
    start_jax()
    return prepare(program_of(target), device, cache, request=request, progress=progress)


def prepare(
    program: Program,
    device: Device,
    cache: CaptureCache | None,
    *,
    request: str | None = None,
    progress: Progress = silent,
) -> Capture | Pending:
    """The capture of a program from the cache, or the compile that makes it."""
    if (problem := obstacle(device.platform)) is not None:  # known before the trace, so said before it
        raise EnvironmentFailure(f"jaxmem cannot compile for {device.name} here: {problem}")
    from jaxmem.tracing import trace

    traced = trace(program, platforms=(device.platform,))
    lowering = traced.lowering
    key = lowering_key(lowering, device, versions_for(device), this_host())
    if cache is not None and (known := cache.get(key)) is not None:
        progress("found in the cache", 0.0)
        if request is not None:
            cache.put_request(request, key)
        return replace(known, device=device)
    return Pending(
        lowering=lowering,
        traced=traced,
        device=device,
        key=key,
        request=request,
        cache=cache,
    )


def finished(prepared: Capture | Pending, progress: Progress = silent) -> Capture:
    """The capture, compiled now if need be."""
    return prepared.compile(progress) if isinstance(prepared, Pending) else prepared


def finished_beside_formula(
    prepared: Capture | Pending, progress: Progress = silent
) -> tuple[Capture, Callable[[], Formula | None]]:
    """The capture and its formula: derived while the compiler works, or, of a capture that was there, when asked for."""
    if isinstance(prepared, Capture):
        return prepared, lambda: formula_of(prepared)
    lowering, platform = prepared.lowering, prepared.device.platform

    def derived(table: LayerTable | None) -> Formula | None:
        if table is None:
            return None
        return formula_on(this_host(), table, lowering.arguments, lowering.outputs, lowering.program, platform=platform)

    capture, formula = prepared.compile_beside(derived, progress)
    return capture, lambda: formula
