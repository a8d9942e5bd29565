"""Does it fit? What is held against what, by platform, and what had to be taken for granted."""

from dataclasses import replace

from jaxmem.capture import Capture
from jaxmem.devices import Device, asked_for, fraction_of
from jaxmem.result import Report, Verdict
from jaxmem.unknown import Unknown

_ASSUMPTIONS = {
    "cpu": (
        "nothing else of this process lives in the machine's memory",
        "the process itself (Python, JAX, the compiled code) is not counted",
    ),
    "cuda": (
        "nothing else lives on the card",
        "the CUDA context, loaded kernels and NCCL lie outside JAX's pool, in the part of the card it leaves",
    ),
    "tpu": ("nothing else lives on the chip",),
}


def judge(capture: Capture, *, required_bytes: int, reserved_bytes: int) -> Verdict:
    """The verdict on one compiled program.

    Args:
        required_bytes: what the program needs, as far as it is known.
        reserved_bytes: the allocations of main memory, on a TPU with the program's code. There the compiler itself
            holds this sum against the memory and refuses what is above it: its word is the verdict.
    """
    device = capture.device
    usable = device.usable_bytes
    known = isinstance(usable, int)
    on_tpu = device.platform == "tpu"
    judged_bytes = reserved_bytes if on_tpu else required_bytes
    return Verdict(
        fits=capture.failure is None if on_tpu else judged_bytes <= usable if known else usable,
        judged_bytes=judged_bytes,
        usable_bytes=usable,
        headroom_bytes=usable - judged_bytes if known else usable,
        rule="the TPU compiler's own check: all allocations of HBM with the program's code"
        if on_tpu
        else _required_against(device.usable_source),
        assumptions=_ASSUMPTIONS[device.platform],
    )


def judge_dump(device: Device | None, no_device: Unknown, *, platform: str, required_bytes: int) -> Verdict:
    """The verdict on a module from a dump, of which no compiler's word is known; without a device, ``no_device`` says why
    there is none."""
    usable = no_device if device is None else device.usable_bytes
    known = isinstance(usable, int)
    return Verdict(
        fits=required_bytes <= usable if known else usable,
        judged_bytes=required_bytes,
        usable_bytes=usable,
        headroom_bytes=usable - required_bytes if known else usable,
        rule="required against usable" if device is None else _required_against(device.usable_source),
        assumptions=_ASSUMPTIONS[platform],
    )


def with_memory_fraction(report: Report, fraction: float) -> Report:
    """A finished report where JAX's allocator takes another fraction of a card; unchanged where there is no such allocator,
    or the card's memory is not known."""
    device, verdict = report.device, report.verdict
    if device.platform != "cuda" or isinstance(device.memory_bytes, Unknown):
        return report
    usable_bytes = fraction_of(device.memory_bytes, fraction)
    left = usable_bytes - verdict.judged_bytes - verdict.resident_bytes
    return replace(
        report,
        device=replace(device, usable_bytes=usable_bytes),
        verdict=replace(
            verdict,
            usable_bytes=usable_bytes,
            headroom_bytes=left,
            fits=left >= 0,
            rule=_required_against(asked_for(fraction)),
        ),
    )


def _required_against(source: str) -> str:
    return f"required against usable ({source})"


def beside(verdict: Verdict, resident_bytes: int) -> Verdict:
    """The same verdict where something else takes ``resident_bytes`` of the device."""
    if not resident_bytes:
        return verdict
    left = verdict.headroom_bytes
    headroom_bytes = left if isinstance(left, Unknown) else left - resident_bytes
    return replace(
        verdict,
        # What does not fit by itself, or is refused by a TPU's compiler, does not fit beside anything.
        fits=verdict.fits and headroom_bytes >= 0 if isinstance(headroom_bytes, int) else verdict.fits,
        headroom_bytes=headroom_bytes,
        resident_bytes=verdict.resident_bytes + resident_bytes,
        assumptions=tuple(said for said in verdict.assumptions if not said.startswith("nothing else")),
    )
