"""Changes to bytes, text and JSON values, each decided by a random number generator alone."""

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63))
"""Where counting goes wrong."""

WORDS = (
    "", " ", "\0", "\x1b[2J", "\ud800", "nan", "-1", "é", "../../etc/passwd", "%s", "9" * 400, "9" * 5000, "١٢", "\u2028",
)  # fmt: skip
"""Texts that readers trip over: control sequences, half a pair of surrogates, digits without end, digits of other scripts."""


def changed_bytes(data: bytes, random: Random, others: tuple[bytes, ...] = ()) -> bytes:
    """A few small changes anywhere: other bytes, pieces removed, doubled, moved, or taken from another file."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        length = len(changed)
        start = random.randrange(length + 1)
        end = min(length, start + random.choice((1, 2, 4, 8, 64, 1024)))
        match random.randrange(7):
            case 0 if length:
                changed[random.randrange(length)] ^= 1 << random.randrange(8)
            case 1 if length:
                changed[random.randrange(length)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            case 2:
                del changed[start:end]
            case 3:
                changed[start:start] = changed[start:end]
            case 4:
                changed[start:start] = random.randbytes(random.choice((1, 2, 9, 40)))
            case 5 if others:
                other = random.choice(others)
                place = random.randrange(len(other) + 1)
                changed[start:end] = other[place : place + random.choice((1, 8, 64, 1024))]
            case _ if random.randrange(8) == 0:
                del changed[start:]
    return bytes(changed)


def changed_text(text: str, random: Random, others: tuple[str, ...] = ()) -> bytes:
    """A few changes to words and numbers of a text; now and then to its bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((1, 3, 10, 80)))
        match random.randrange(6):
            case 0:
                text = text[:start] + random.choice(WORDS) + text[end:]
            case 1:
                text = text[:start] + str(random.choice(NUMBERS)) + text[end:]
            case 2:
                text = text[:start] + text[end:]
            case 3:
                text = text[:start] + text[start:end] * random.choice((2, 3, 50)) + text[end:]
            case 4 if others:
                other = random.choice(others)
                place = random.randrange(len(other) + 1)
                text = text[:start] + other[place : place + random.choice((5, 50, 500))] + text[start:]
            case _:
                # A number in the text becomes another: the places where sizes stand.
                digits = [place for place, one in enumerate(text) if one.isdigit()]
                if digits:
                    place = random.choice(digits)
                    text = text[:place] + str(random.choice((*NUMBERS, 10**400, 1.5e300))) + text[place + 1 :]
    data = text.encode(errors="surrogatepass")
    return changed_bytes(data, random) if random.randrange(4) == 0 else data


_DEEP = "a list in a list in a list"
"""Stands in a value for what Python's own writer of JSON would not write."""


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    containers = [value]
    for container in containers:
        for key, child in container.items() if isinstance(container, dict) else enumerate(container):
            yield container, key
            if isinstance(child, dict | list):
                containers.append(child)


def _of_another_kind(random: Random, value: Any) -> Any:
    return random.choice(
        (
            None, True, False, random.choice(NUMBERS), -random.choice(NUMBERS), 10**400, 0.5, float("nan"), float("inf"),
            random.choice(WORDS), [], {}, [value], {"member": "hlo_proto"}, {"member": "capture.json"}, {"unknown": ""},
            {"unknown": "for a reason"},
        )
    )  # fmt: skip


def _delete(random: Random, container: Any, key: Any, everything: list[tuple[Any, Any]]) -> None:
    del container[key]


def _other_kind(random: Random, container: Any, key: Any, everything: list[tuple[Any, Any]]) -> None:
    container[key] = _of_another_kind(random, container[key])


def _from_elsewhere(random: Random, container: Any, key: Any, everything: list[tuple[Any, Any]]) -> None:
    other, place = random.choice(everything)
    container[key] = copy.deepcopy(other[place])


def _number(random: Random, container: Any, key: Any, everything: list[tuple[Any, Any]]) -> None:
    numbers = [(other, place) for other, place in everything if type(other[place]) is int]
    if numbers:
        other, place = random.choice(numbers)
        other[place] = random.choice((*NUMBERS, other[place] + 1, other[place] - 1, other[place] * 2, 10**30, 10**400))


def _grow(random: Random, container: Any, key: Any, everything: list[tuple[Any, Any]]) -> None:
    child = container[key]
    if isinstance(container, list):
        container.insert(key, copy.deepcopy(child))
    else:
        container[random.choice(("new", "schema", *map(str, list(container)[:3]))) + "_"] = child


def _deepen(random: Random, container: Any, key: Any, everything: list[tuple[Any, Any]]) -> None:
    container[key] = _DEEP


_CHANGES: tuple[Callable[..., None], ...] = (
    _delete,
    _other_kind,
    _other_kind,
    _from_elsewhere,
    _number,
    _number,
    _grow,
)


def changed_json(text: str, random: Random) -> str:
    """A few changes to the values of a JSON text, which mostly stays JSON."""
    value = json.loads(text)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        everything = [place for place in _places(value) if len(place[0])]
        if not everything:
            break
        container, key = random.choice(everything)
        change = _deepen if random.randrange(50) == 0 else random.choice(_CHANGES)
        change(random, container, key, everything)
    written = json.dumps(value, ensure_ascii=bool(random.randrange(2)))
    if _DEEP in written:
        depth = random.choice((2, 30, 300, 990, 100_000))
        written = written.replace(f'"{_DEEP}"', "[" * depth + "]" * depth)
    if random.randrange(20) == 0:  # a key twice
        written = written.replace('"', '"schema": 1, "', 1)
    return written
