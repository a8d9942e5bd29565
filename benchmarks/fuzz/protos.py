"""Changes to a HloProto that know its structure: ids that point elsewhere, sizes that lie, parts that are lost or twice.

The message classes are those that jaxmem reads with; a part that is read later stands in its parent as bytes, and `_INSIDE`
says as what.
"""

from random import Random
from typing import Any

from benchmarks.fuzz.mutate import NUMBERS, changed_bytes
from jaxmem.xla.schema import MESSAGES

_INSIDE = {
    ("HloModule", "computations"): "Computation",
    ("Instruction", "shape"): "Shape",
    ("Instruction", "metadata"): "Metadata",
}
"""(message, field of bytes): the message in it."""

_WORDS: dict[str, tuple[bytes, ...]] = {
    "opcode": (
        b"while", b"call", b"conditional", b"fusion", b"tuple", b"get-tuple-element", b"parameter", b"bitcast", b"copy",
        b"async-start", b"async-update", b"async-done", b"copy-start", b"copy-done", b"all-gather-start", b"all-reduce",
        b"all-gather-done", b"all-reduce-done", b"collective-permute-start", b"custom-call", b"convolution", b"dot",
        b"reduce-window", b"select-and-scatter", b"dynamic-update-slice", b"constant", b"iota", b"broadcast", b"add", b"slice",
    ),
}  # fmt: skip
_TEXTS = (
    b"",
    b"\xff\xfe",
    b"\x1b[2J",
    b"\0",
    b"x" * 3000,
    b"jit(f)/while/body/transpose(jvp(x))/y",
    b"[" * 50,
    b"(" * 50,
)
_INT, _BOOL = 3, 8


def changed_proto(data: bytes, random: Random, others: tuple[bytes, ...] = ()) -> bytes:
    """A few changes to a serialized HloProto."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        damaged = random.randrange(6) == 0
        data = changed_bytes(data, random, others) if damaged else _changed(data, "HloProto", random)
    return data


def _changed(data: bytes, kind: str, random: Random) -> bytes:
    try:
        message = MESSAGES[kind].FromString(data)
    except Exception:  # broken by an earlier change: broken further
        return changed_bytes(data, random)
    _change(message, kind, random)
    return message.SerializeToString()


def _change(message: Any, kind: str, random: Random) -> None:
    """Go down to a part chosen at random, and change something there."""
    present = [field for field, _ in message.ListFields()]
    field = random.choice(present) if present and random.randrange(8) else random.choice(message.DESCRIPTOR.fields)
    inside = _INSIDE.get((kind, field.name))
    value = getattr(message, field.name)
    if hasattr(value, "append"):
        _change_list(message, field, value, inside, random)
    elif field.message_type is not None:
        if random.randrange(10) == 0:
            message.ClearField(field.name)
        else:
            _change(value, field.message_type.name, random)
    elif inside is not None and random.randrange(6):
        setattr(message, field.name, _changed(value, inside, random))
    else:
        setattr(message, field.name, _scalar(field, value, random))


def _change_list(message: Any, field: Any, values: Any, inside: str | None, random: Random) -> None:
    count = len(values)
    place = random.randrange(count) if count else 0
    action = random.randrange(10)
    if count and action < 6:  # most changes are to one of them
        if field.message_type is not None:
            _change(values[place], field.message_type.name, random)
        elif inside is not None:
            values[place] = _changed(values[place], inside, random)
        else:
            values[place] = _scalar(field, values[place], random)
    elif count and action == 6:
        del values[place]
    elif count and action == 7:
        other = random.randrange(count)
        if field.message_type is None:
            values[place], values[other] = values[other], values[place]
        else:
            values[place].CopyFrom(values[other])
    elif count and action == 8:
        values.append(values[place])  # of a message, a copy
    elif field.message_type is not None:
        _change(values.add(), field.message_type.name, random)
    else:
        values.append(_scalar(field, b"" if field.type not in (_INT, _BOOL) else 0, random))


def _scalar(field: Any, value: Any, random: Random) -> Any:
    if field.type == _BOOL:
        return not value
    if field.type == _INT:
        nearby = max(-(2**63), min(2**63 - 1, value + random.choice((-2, -1, 1, 2, 16))))
        return random.choice((*NUMBERS, nearby, nearby, nearby, random.randrange(40), random.randrange(400)))
    if field.name in _WORDS:
        return random.choice(_WORDS[field.name])
    return changed_bytes(value, random) if value and random.randrange(2) else random.choice(_TEXTS)
