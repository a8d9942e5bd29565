"""The codec: what goes in comes out, and everything else is refused with its place."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from jaxmem.codec import Mismatch, decode, encode
from jaxmem.roles import Role
from jaxmem.unknown import Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError("the value must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    count: int
    ratio: float
    flag: bool
    role: Role
    mode: Literal["train", "infer"]
    size_bytes: int | Unknown
    points: tuple[Point, ...]
    pair: tuple[str, int]
    sizes: Mapping[str, int]
    inner: Point | None
    data: bytes


EVERYTHING = Everything(
    count=10**18,
    ratio=0.1,
    flag=True,
    role=Role.GRADIENTS,
    mode="train",
    size_bytes=Unknown("nobody looked"),
    points=(Point(x=1, label="a"), Point(x=2)),
    pair=("b", 3),
    sizes={"c": 4},
    inner=None,
    data=b"\x00\xff",
)


def through_json(value: object, kind: Any, **options: Any) -> Any:
    values, members = encode(value, **options)
    return decode(kind, json.loads(json.dumps(values)), members=members, **options)


@pytest.mark.parametrize("columns", [(), (Point,)])
def test_round_trip(columns: tuple[type, ...]) -> None:
    result = through_json(EVERYTHING, Everything, columns=columns)
    assert result == EVERYTHING
    assert type(result.role) is Role
    assert type(result.points) is tuple


def test_bytes_travel_apart_under_their_path() -> None:
    values, members = encode(EVERYTHING)
    assert values["data"] == {"member": "data"}
    assert members == {"data": b"\x00\xff"}


def test_columns_are_arrays_of_equal_length() -> None:
    values, _ = encode(EVERYTHING, columns=(Point,))
    assert values["points"] == {"x": [1, 2], "label": ["a", ""]}


def changed(**changes: object) -> dict[str, Any]:
    values, _ = encode(EVERYTHING)
    return {name: value for name, value in (values | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(count=...), "Everything lacks count"),
        (changed(more=1), "Everything has no more"),
        (changed(count="1"), "count: expected int, found '1'"),
        (changed(count=True), "count: expected int, found True"),
        (changed(count=1.0), "count: expected int, found 1.0"),
        (changed(flag=1), "flag: expected bool, found 1"),
        (changed(ratio=float("nan")), "ratio: expected float, found nan"),
        (changed(ratio=float("inf")), "ratio: expected float, found inf"),
        (changed(role="nothing"), "role: expected a Role, found 'nothing'"),
        (changed(role=["parameters"]), "role: expected a Role, found ['parameters']"),
        (changed(mode="both"), "mode: expected one of 'train', 'infer', found 'both'"),
        (changed(size_bytes=None), "size_bytes: expected int or Unknown, found None"),
        (changed(size_bytes={"unknown": " "}), "size_bytes: expected int or Unknown, found {'unknown': ' '}"),
        (changed(points=[{"x": 1, "label": ""}, {"x": "2", "label": ""}]), "points[1].x: expected int, found '2'"),
        (changed(points={"x": [1]}), "points: expected an array, found {'x': [1]}"),
        (changed(pair=["b"]), "pair: expected an array of 2, found ['b']"),
        (changed(sizes={"c": None}), "sizes.c: expected int, found None"),
        (changed(sizes=[]), "sizes: expected an object, found []"),
        (changed(inner={"x": None, "label": ""}), "inner.x: expected int, found None"),
        (changed(data={"member": "elsewhere"}), "data: the member 'elsewhere' is missing"),
        (changed(data="text"), "data: expected {\"member\": name}, found 'text'"),
        ([], "expected a Everything, found []"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(values: object, message: str) -> None:
    with pytest.raises(Mismatch) as caught:
        decode(Everything, values, members={"data": b""})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"x": [1, 2], "label": ["a"]}, "points: columns of different lengths"),
        ({"label": ["a"]}, "points: Point lacks x"),
        ({"x": [1], "label": ["a"], "z": [1]}, "points: Point has no z"),
        ({"x": 1, "label": ["a"]}, "points: a column is an array"),
        ({"x": [1, True], "label": ["a", "b"]}, "points.x[1]: expected int, found True"),
        ([{"x": 1, "label": ""}], "points: expected columns of Point"),
    ],
)
def test_broken_columns(points: object, message: str) -> None:
    with pytest.raises(Mismatch, match=re.escape(message)):
        decode(Everything, changed(points=points), members={"data": b""}, columns=(Point,))


def test_a_member_nobody_refers_to_is_refused() -> None:
    values, members = encode(EVERYTHING)
    with pytest.raises(Mismatch, match="members that nothing refers to: extra"):
        decode(Everything, values, members={**members, "extra": b""})


def test_an_invariant_of_the_class_is_a_mismatch() -> None:
    with pytest.raises(Mismatch, match="the value must be positive"):
        decode(Positive, {"value": 0})


def test_a_whole_number_is_accepted_for_a_float() -> None:
    result = decode(Everything, changed(ratio=2), members={"data": b""})
    assert type(result.ratio) is float


def test_what_has_no_json_form_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="does not know object"):
        encode({"a": object()})
    with pytest.raises(TypeError, match="has no JSON form"):
        encode({"a": float("nan")})


def test_what_an_earlier_version_did_not_write_takes_its_default() -> None:
    assert decode(Point, {"x": 1}) == Point(x=1)
    assert decode(tuple[Point, ...], {"x": [1, 2]}, columns=(Point,)) == (Point(x=1), Point(x=2))
