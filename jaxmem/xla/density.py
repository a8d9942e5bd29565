"""How many messages a dump may be made of: an empty one is two bytes in a file, and more than a hundred in memory.

A dump has a message for every buffer, event and alias, and most of its bytes are the names and operands of its instructions:
those of the tests have one in 53 bytes at the most. They are counted level by level, each message's own still as bytes, so that
what is refused was never parsed into messages.
"""

from typing import Any

from jaxmem.xla.schema import MESSAGES, OUTLINE

UNCHECKED_BYTES = {"HloProto": 1 << 20, "Instruction": 1 << 14}
"""One of no more than this may be of whatever it likes: a dump takes some 130 MiB then. Instructions are parsed one by one."""

BYTES_A_MESSAGE = 16
"""Fewer, on the average, no compiler writes."""


def too_dense(name: str, serialized: bytes) -> bool:
    """Whether a serialized HloProto or Instruction has more messages than one in `BYTES_A_MESSAGE`, those that stay bytes in it
    not counted.

    Raises:
        google.protobuf.message.DecodeError: it is damaged.
    """
    if len(serialized) <= UNCHECKED_BYTES[name]:
        return False
    most = len(serialized) // BYTES_A_MESSAGE
    return _messages(name, serialized, most) > most


def _messages(name: str, serialized: bytes, most: int) -> int:
    """How many messages are in one; once they are more than ``most``, at least so many."""
    outline = MESSAGES[f"{name}{OUTLINE}"].FromString(serialized)
    found, containers = 0, []
    for field, inside, is_repeated in _PARTS[name]:
        parts = getattr(outline, field)
        if not is_repeated:
            parts = (parts,) if parts else ()
        found += len(parts)
        if inside in _CONTAINERS:
            containers.append((inside, parts))
    del outline  # of what is not repeated the parts are copies
    for inside, parts in containers:
        for part in parts:
            if found > most:
                return found
            found += _messages(inside, part, most - found)
    return found


def _parts(message: Any) -> tuple[tuple[str, str, bool], ...]:
    """The fields of a message that are messages: field, message in it, whether there may be several."""
    return tuple(
        (field.name, field.message_type.name, field.is_repeated)
        for field in message.DESCRIPTOR.fields
        if field.message_type is not None
    )


_PARTS = {name: _parts(message) for name, message in MESSAGES.items()}


def _can_hold_many(name: str) -> bool:
    return any(is_repeated or _can_hold_many(inside) for _, inside, is_repeated in _PARTS[name] if inside != name)


_CONTAINERS = frozenset(filter(_can_hold_many, MESSAGES))
"""Messages that are looked into: any others have at most a few in them."""
