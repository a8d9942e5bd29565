"""From a program to its capture: found in the cache, or compiled and kept there.

The work is in three parts, so that the one in the middle may happen elsewhere: `prepare` traces here, where the function
lives; the compile takes the lowering alone; `Pending.keep` puts what comes back where the next request finds it.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmem.analysis.gemm import gemm_options
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_of, silent
from jaxmem.capture import (
    Capture,
    CaptureCache,
    installed_versions,
    lowering_key,
    recorded_digests,
    request_key,
    source_digest,
    this_host,
)
from jaxmem.capture import load as load_capture
from jaxmem.capture.machine import COMPILING_PACKAGES
from jaxmem.devices import Device, compiler_packages, obstacle, with_memory_fraction
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Lowering
from jaxmem.program import Program
from jaxmem.quiet import start_jax

if TYPE_CHECKING:
    from jaxmem.tracing import Traced


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
        if target.memory_fraction is not None and capture.device.platform != "cuda":
            raise UsageError(
                f"A memory fraction is what JAX's allocator takes of a GPU, and {target.text} was compiled for "
                f"{capture.device.name}."
            )
        return replace(capture, device=with_memory_fraction(capture.device, target.memory_fraction))
    device = target.find_device()
    added = gemm_options(target.gemm, device.platform, target.compiler_options)
    target = replace(target, compiler_options=tuple(sorted((*target.compiler_options, *added))))
    cache = CaptureCache() if target.use_cache else None
    request = _zoo_request(target, device) if is_zoo(target) else None
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
    key = lowering_key(lowering, device, _versions(device), this_host())
    if cache is not None and (known := cache.get(key)) is not None:
        progress("found in the cache", 0.0)
        if request is not None:
            cache.put_request(request, key)
        return replace(known, device=device)
    return Pending(
        lowering=lowering,
        layer_table=layer_table_of(traced),
        device=device,
        key=key,
        request=request,
        cache=cache,
    )


def finished(prepared: Capture | Pending, progress: Progress = silent) -> Capture:
    """The capture, compiled now if need be."""
    return prepared.compile(progress) if isinstance(prepared, Pending) else prepared


def layer_table_of(traced: "Traced") -> LayerTable | None:
    """The table of a traced program; None where it was handed over already lowered."""
    from jaxmem.tracing.layers import layer_table

    return layer_table(traced.closed_jaxpr, traced.arguments) if traced.closed_jaxpr is not None else None


def _versions(device: Device) -> tuple[tuple[str, str], ...]:
    return installed_versions((*COMPILING_PACKAGES, *compiler_packages(device.platform)))


def _zoo_request(target: Target, device: Device) -> str:
    """The key of a request for a zoo model. Whatever decides the trace is in it, so JAX need not be asked."""
    options = {f"set {name}": value for name, value in target.settings}
    options |= {f"compiler {name}": value for name, value in target.compiler_options}
    options |= {f"file {name}": digest for name, digest in recorded_digests(target.compiler_options).items()}
    options |= {"mode": target.mode or "", "batch_size": str(target.batch_size or "")}
    options |= {"mesh": str(target.mesh), "sharding": target.sharding or ""}
    from jaxmem_models.registry import constructor_of, find

    try:
        module, _ = constructor_of(find(target.text))
    except ValueError as error:
        raise UsageError(str(error)) from None
    packages = dict.fromkeys(("jaxmem_models", module.partition(".")[0]))
    sources = [source_digest(place) for package in packages for place in _places(package)]
    versions = (*_versions(device), *installed_versions(("flax", "optax")))
    return request_key(target.text, options, device, versions, this_host(), sources)


def _places(package: str) -> tuple[Path, ...]:
    """Where the sources of an importable package are: its folders, or its one file."""
    spec = find_spec(package)
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(Path(folder) for folder in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin else ()
