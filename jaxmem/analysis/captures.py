"""From a program to its capture: found in the cache, or compiled and kept there.

The work is in three parts, so that the one in the middle may happen elsewhere: `prepare` traces here, where the function
lives; the compile takes the lowering alone; `Pending.keep` puts what comes back where the next request finds it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from jaxmem.analysis.gemm import gemm_options
from jaxmem.analysis.requests import versions_for, zoo_request
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_of, silent
from jaxmem.capture import Capture, CaptureCache, lowering_key, this_host
from jaxmem.capture import load as load_capture
from jaxmem.devices import Device, obstacle, refuse_bad_fraction, with_memory_fraction
from jaxmem.errors import EnvironmentFailure
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Lowering
from jaxmem.program import Program
from jaxmem.quiet import start_jax


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A compile that is still to be made, and where its capture goes.

    Attributes:
        lowering, device: what is compiled, for what.
        layer_table: the traced program, which stays here; None where it came already lowered.
        key: of the capture in the cache; ``request`` of what a person asked for, None where it can change unseen.
        cache: None keeps nothing.
    """

    lowering: Lowering
    layer_table: LayerTable | None
    device: Device
    key: str
    request: str | None
    cache: CaptureCache | None

    def compile(self, progress: Progress = silent) -> Capture:
        """Make it here and now."""
        from jaxmem.compilers import compile_lowering

        return self.keep(compile_lowering(self.lowering, self.layer_table, self.device, progress=progress))

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
        layer_table=traced.layer_table,
        device=device,
        key=key,
        request=request,
        cache=cache,
    )


def finished(prepared: Capture | Pending, progress: Progress = silent) -> Capture:
    """The capture, compiled now if need be."""
    return prepared.compile(progress) if isinstance(prepared, Pending) else prepared
