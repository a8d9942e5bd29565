"""What comes back from another machine is taken only where it answers the question that was asked."""

from dataclasses import replace
from pathlib import Path

import pytest

from jaxmem.capture import Capture, load, this_host
from jaxmem.capture.file import pack
from jaxmem.capture.machine import COMPILING_PACKAGES, installed_versions
from jaxmem.compilers.travel import compile_packed, pack_job, unpack_capture
from jaxmem.devices import compiler_packages, find_device
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.lowering import Lowering, ProgramFacts

GOLDEN = Path(__file__).parents[1] / "golden"


def compiled_here(name: str) -> Capture:
    capture = load(GOLDEN / name)
    versions = installed_versions((*COMPILING_PACKAGES, *compiler_packages(capture.device.platform)))
    return replace(capture, host=this_host(), versions=versions)


@pytest.mark.parametrize("name", ["pools.cpu.jaxmem", "pools.h100-sxm.jaxmem"])
def test_a_capture_comes_back_with_the_table_that_stayed(name: str) -> None:
    capture = compiled_here(name)
    travelled = pack(replace(capture, layer_table=None))
    assert unpack_capture(travelled, capture.layer_table, capture.device) == capture


@pytest.mark.parametrize("name", ["pools.cpu.jaxmem", "pools.h100-sxm.jaxmem"])
def test_other_versions_are_refused(name: str) -> None:
    capture = compiled_here(name)
    versions = tuple((package, "0.0.1" if package == "jaxlib" else version) for package, version in capture.versions)
    with pytest.raises(EnvironmentFailure, match=r"compiled with jaxlib 0\.0\.1, and here is .*jaxlib"):
        unpack_capture(pack(replace(capture, versions=versions)), None, capture.device)


def test_another_processor_is_refused_only_for_a_program_on_one() -> None:
    other = replace(this_host(), cpu_model="another processor")
    for name, refused in (("pools.cpu.jaxmem", True), ("pools.h100-sxm.jaxmem", False)):
        capture = replace(compiled_here(name), host=other)
        if refused:
            with pytest.raises(EnvironmentFailure, match="compiled for another processor"):
                unpack_capture(pack(capture), None, capture.device)
        else:
            assert unpack_capture(pack(capture), capture.layer_table, capture.device) == capture


def test_a_job_carries_what_the_compile_needs() -> None:
    lowering = Lowering(
        program=ProgramFacts(name="step"), stablehlo=b"", arguments=(), outputs=(), platforms=("cuda",), device_count=1
    )
    with pytest.raises(UsageError, match="step was lowered for cuda and cannot be compiled for cpu"):
        compile_packed(pack_job(lowering, find_device("cpu"), timeout=1.0))
