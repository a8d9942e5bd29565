"""What decides an answer about a model of the zoo, as one key: found in the cache without JAX being asked."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import jaxmem
from jaxmem.analysis.targets import Target
from jaxmem.capture.cache import recorded_digests, request_key, source_digest
from jaxmem.capture.machine import COMPILING_PACKAGES, installed_versions, this_host
from jaxmem.devices import Device, compiler_packages
from jaxmem.errors import UsageError

_TRACING_PACKAGES = ("flax", "optax")
_WITHOUT_EFFECT = frozenset({"JAX_PLATFORMS"})
"""Settings of JAX in the environment that no trace depends on, and that jaxmem sets itself."""


def zoo_request(target: Target, device: Device, answer: Literal["capture", "estimate"]) -> str:
    """The key of a request for a zoo model. Whatever decides the trace is in it.

    Beyond what decides a capture, an estimate depends on the formula and on how it is written down: on all of jaxmem.

    Raises:
        UsageError: there is no such model.
    """
    options = {f"set {name}": value for name, value in target.settings}
    options |= {f"compiler {name}": value for name, value in target.compiler_options}
    options |= {f"file {name}": digest for name, digest in recorded_digests(target.compiler_options).items()}
    options |= {f"environment {name}": value for name, value in _settings_of_jax().items()}
    options |= {"mode": target.mode or "", "batch_size": str(target.batch_size or "")}
    options |= {"mesh": str(target.mesh), "sharding": target.sharding or "", "answer": answer}
    from jaxmem_models.registry import constructor_of, find

    try:
        module, _ = constructor_of(find(target.text))
    except ValueError as error:
        raise UsageError(str(error)) from None
    packages = dict.fromkeys(("jaxmem_models", module.partition(".")[0]))
    places = [place for package in packages for place in _places(package)]
    if answer == "estimate":
        places += [Path(folder) for folder in jaxmem.__path__]
    # An answer names the file of the step that it is about, so where the sources are counts as well.
    sources = [f"{place} {source_digest(place)}" for place in places]
    versions = (*versions_for(device), *installed_versions(_TRACING_PACKAGES))
    return request_key(target.text, options, device, versions, this_host(), sources)


def versions_for(device: Device) -> tuple[tuple[str, str], ...]:
    """Of everything that a compile for a device depends on."""
    return installed_versions((*COMPILING_PACKAGES, *compiler_packages(device.platform)))


def _settings_of_jax() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith("JAX_") and name not in _WITHOUT_EFFECT
    }


def _places(package: str) -> tuple[Path, ...]:
    """Where the sources of an importable package are: its folders, or its one file."""
    spec = find_spec(package)
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(Path(folder) for folder in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin else ()
