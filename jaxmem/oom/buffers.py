"""The tables inside messages: the largest buffers, and how the memory is divided."""

import re
from dataclasses import replace

from jaxmem.layer_paths import scope_components
from jaxmem.oom.sizes import SIZE, read_size
from jaxmem.result import LargeBuffer, NamedSize
from jaxmem.roles import Phase
from jaxmem.source_lines import short_source
from jaxmem.unknown import Unknown

_BEGINS = re.compile(r"^[ \t]*(?:Buffer \d+:\s*|\d+\. (?=Size: ))", re.MULTILINE)
_ENDS = "=========================="
_FIELDS = re.compile(
    r"^[ \t]*(Size|Unpadded size|Shape|Entry Parameter Subshape|Operator|Allocation type): *(.*)$", re.MULTILINE
)
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_SOURCE = re.compile(r'source_file="([^"]*)"(?: source_line=(\d+))?')
_PROGRAM = re.compile(r'op_name="p?jit\(([^)"]+)\)|Error loading program \'([^\']+)\'')
_PART = re.compile(
    rf"^[ \t]+(parameter allocation|constant allocation|maybe_live_out allocation|preallocated temp allocation"
    rf"|total allocation|total fragmentation|reserved(?:\([\w/]+\))?|program|arguments|global|scoped|overlays"
    rf"|heap allocations \(without fragmentation\)|output|HLO temp):? +({SIZE})",
    re.MULTILINE,
)

_WITHOUT_PROGRAM = Unknown("only the program tells")


def program_in(text: str) -> str | Unknown:
    """The program that the message speaks of."""
    match = _PROGRAM.search(text)
    return Unknown("the message does not name it") if match is None else match[1] or match[2]


def parts_in(text: str) -> tuple[NamedSize, ...]:
    """How the message divides the memory, each part once, in its order."""
    parts: dict[str, int] = {}
    for name, size in _PART.findall(text):
        parts.setdefault(name, read_size(size))
    return tuple(NamedSize(name=name, bytes=size) for name, size in parts.items())


def buffers_in(text: str) -> tuple[LargeBuffer, ...]:
    """The buffers that the message lists, largest first."""
    starts = [match.end() for match in _BEGINS.finditer(text)]
    blocks = [text[start:end] for start, end in zip(starts, [*starts, len(text)][1:], strict=True)]
    found = [buffer for block in blocks if (buffer := _buffer(block.split(_ENDS)[0])) is not None]
    return tuple(sorted(found, key=lambda buffer: -buffer.bytes))


def _buffer(block: str) -> LargeBuffer | None:
    fields: dict[str, str] = {}
    for name, value in _FIELDS.findall(block):
        fields.setdefault(name, value.strip())
    if "Size" not in fields or not re.match(SIZE, fields["Size"]):
        return None
    size_bytes = read_size(fields["Size"])
    unpadded = fields.get("Unpadded size", "")
    buffer = LargeBuffer(
        bytes=size_bytes,
        padding_bytes=max(0, size_bytes - read_size(unpadded)) if re.match(SIZE, unpadded) else 0,
        role=_WITHOUT_PROGRAM,
        shape=fields.get("Shape") or fields.get("Entry Parameter Subshape", ""),
    )
    if "Entry Parameter Subshape" in fields:
        return replace(buffer, role=Unknown("an argument of the program; only the program tells what for"))
    operator = fields.get("Operator", "")
    source = _SOURCE.search(operator)
    name = _OP_NAME.search(operator)
    return replace(
        buffer,
        **named(name[1] if name else ""),
        source="" if source is None else short_source(f"{source[1]}:{source[2]}" if source[2] else source[1]),
    )


def named(op_name: str) -> dict[str, str | Phase]:
    """What JAX's name of an operation tells of it: layer, phase, and the operation itself."""
    path = re.sub(r"\[.*", "", op_name.split(";")[0])  # older versions append the operation's parameters
    if "/" not in path:
        return {"operation": path}
    scope, _, operation = path.rpartition("/")
    program, _, inside = scope.partition("/")
    inside = inside if program.startswith(("jit(", "pjit(")) else scope
    phase = Phase.BACKWARD if "transpose(" in inside else Phase.FORWARD if "jvp(" in inside else Phase.UNKNOWN
    return {"operation": operation, "layer": "/".join(scope_components(inside)), "phase": phase}
