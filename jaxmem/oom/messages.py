"""Messages of XLA, its allocators, NumPy and the kernel, as they have been since 2021, read into one form."""

import re
from dataclasses import dataclass
from typing import Any

from jaxmem.errors import InputError
from jaxmem.oom.advice import advise
from jaxmem.oom.buffers import buffers_in, parts_in, program_in
from jaxmem.oom.sizes import SIZE, read_size
from jaxmem.result import Failure, OutOfMemory
from jaxmem.unknown import Unknown

_UNSAID = Unknown("the message does not say")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sort:
    """One sort of message: how it is recognized, and which of its sizes is which.

    ``pattern`` has groups named after the fields of `OutOfMemory`, without ``_bytes``.
    """

    failure: Failure
    pattern: re.Pattern[str]
    what: str


def _sort(failure: Failure, what: str, pattern: str) -> _Sort:
    named = re.sub(r"<(\w+)>", lambda name: f"(?P<{name[1]}>{SIZE})", pattern)
    return _Sort(failure=failure, what=what, pattern=re.compile(named))


# In this order: a log of a TPU or a GPU may also hold lines of the machine around it, and the line that is most exact
# comes before the one that only repeats it.
_SORTS = (
    _sort(
        "TPU compile",
        "XLA's refusal to compile for a TPU (Ran out of memory in memory space hbm. Used ... of ...)",
        r"Ran out of memory in memory space (?!smem|vmem)\w{1,20}\. Used <required> of <available>",
    ),
    _sort(
        "TPU compile",
        "the same in the words of newer versions (Ran out of memory on HBM ... exceeds available HBM ...)",
        r"Ran out of memory on HBM, the total memory required for [^(]{0,300}\(<required>\) exceeds available "
        r"HBM \(<available>\)",
    ),
    _sort(
        "TPU run",
        "an allocation on a TPU (Attempting to allocate ... That was not possible. There are ... free)",
        r"Attempting to (?:allocate|reserve) <requested>(?: at the bottom of memory)?\. That was not possible\."
        r"(?: There are <free> free)?",
    ),
    _sort(
        "TPU run",
        "the same in older words (Could not allocate ... bytes in memory 0x0x0_HBM0)",
        r"Could not allocate <requested> in memory \w{0,20}HBM\d{0,4}(?:;[^;\n]{0,100}allocatable, <free> available)?",
    ),
    _sort(
        "GPU run",
        "an allocation on a GPU (Failed to allocate request for ... on device ordinal ...)",
        r"Failed to allocate request for [^(\n]{0,100}\(<requested>\) on device ordinal \d",
    ),
    _sort(
        "GPU run",
        "an allocation on a GPU (Out of memory while trying to allocate ... bytes)",
        r"Out of memory while trying to allocate <requested>",
    ),
    _sort(
        "GPU run",
        "the table of the BFC allocator (Allocator (GPU_0_bfc) ran out of memory trying to allocate ...)",
        r"Allocator \(GPU_\d+_bfc\) ran out of memory trying to allocate [\d.]{1,20}\w{1,8} \(rounded to <requested>\)",
    ),
    _sort(
        "GPU run",
        "the same table by its end alone (bfc_allocator.cc ... Stats: Limit: ... InUse: ...)",
        r"bfc_allocator\.cc:\d{1,6}\] Stats:",
    ),
    _sort(
        "GPU run",
        "the driver's own refusal (failed to allocate ... from device: CUDA_ERROR_OUT_OF_MEMORY)",
        r"failed to allocate [^(\n]{0,100}\(<requested>\) from device: CUDA_ERROR_OUT_OF_MEMORY",
    ),
    _sort(
        "CPU run",
        "an allocation on the processor (RESOURCE_EXHAUSTED: Out of memory allocating ... bytes)",
        r"RESOURCE_EXHAUSTED: Out of memory allocating <requested>",
    ),
    _sort(
        "host memory",
        "an allocation of NumPy (Unable to allocate ... for an array with shape ...)",
        r"Unable to allocate <requested> for an array with shape",
    ),
    _sort(
        "host memory",
        "the kernel's line in the system's log (Out of memory: Killed process ... anon-rss: ...)",
        r"Out of memory: Killed process \d{1,10}[^\n]{0,300}anon-rss:<required>",
    ),
    _sort("host memory", "C++ without memory (std::bad_alloc)", r"std::bad_alloc|St9bad_alloc"),
    _sort("host memory", "Python without memory (MemoryError)", r"(?m)^MemoryError\b"),
)

LOOKED_FOR = tuple(sort.what for sort in _SORTS)
"""What `explain_message` recognizes, in words."""

_LIMIT = re.compile(rf"^Limit:\s+(?P<size>{SIZE})$", re.MULTILINE)
_IN_USE = re.compile(rf"^InUse:\s+(?P<size>{SIZE})$", re.MULTILINE)
_CAPACITY = re.compile(rf"HBM capacity (?P<size>{SIZE})")
_CONTIGUOUS = re.compile(rf"largest contiguous region of free memory is (?P<size>{SIZE})")
_TOTAL = "total allocation"


def recognizes(text: str) -> bool:
    """Whether a text holds a message that `explain_message` understands."""
    return any(sort.pattern.search(text) for sort in _SORTS)


def explain_message(text: str) -> OutOfMemory:
    """What an out-of-memory message says.

    Args:
        text: the message, alone or inside a log.

    Raises:
        InputError: no message that is known is in it; says what was looked for.
    """
    for sort in _SORTS:
        if (found := sort.pattern.search(text)) is not None:
            return _explained(sort.failure, found, text)
    looked_for = "\n".join(f"  - {what}" for what in LOOKED_FOR)
    size = f"{len(text.splitlines())} lines" if text.strip() else "nothing"
    raise InputError(
        f"No out-of-memory message was found in {size} of text. What was looked for:\n{looked_for}\n"
        "Pass the whole error, or the folder that a failed compile dumped (xla_dump_to)."
    )


def _explained(failure: Failure, found: re.Match[str], text: str) -> OutOfMemory:
    said: dict[str, int] = {name: read_size(value) for name, value in found.groupdict().items() if value is not None}
    parts = parts_in(text)
    totals = {part.name: part.bytes for part in parts}
    limit, in_use = _first(_LIMIT, text), _first(_IN_USE, text)

    def size(name: str, *others: int | None) -> int | Unknown:
        return next((value for value in (said.get(name), *others) if value is not None), _UNSAID)

    values: dict[str, Any] = {
        "requested_bytes": size("requested"),
        "required_bytes": size("required", totals.get(_TOTAL)),
        "available_bytes": size("available", limit, _first(_CAPACITY, text)),
        "free_bytes": size("free", limit - in_use if limit is not None and in_use is not None else None),
    }
    buffers = buffers_in(text)
    contiguous = _first(_CONTIGUOUS, text)
    return OutOfMemory(
        failure=failure,
        program=program_in(text),
        evidence=_line(text, found.start()),
        **values,
        sizes_are_rounded=(
            bool(parts)
            or limit is not None
            or any(_ROUNDED.search(value) for value in found.groupdict().values() if value is not None)
        ),
        parts=parts,
        buffers=buffers,
        advice=advise(failure, **values, parts=parts, buffers=buffers, contiguous_bytes=contiguous),
        notes=_notes(failure, buffers),
    )


_ROUNDED = re.compile(r"\d\.\d+ ?[KMGTP]")


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return None if match is None else read_size(match["size"])


def _line(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()


def _notes(failure: Failure, buffers: tuple[Any, ...]) -> tuple[str, ...]:
    notes = []
    if buffers:
        notes.append("The buffers are those that the message lists, which is not all of them.")
    if failure in ("GPU run", "CPU run", "TPU run"):
        notes.append("The allocation that failed is the last straw: what was there before it is the rest of the load.")
    return tuple(notes)
