"""Two results compared: which buffer is which, what the sums are, what is said of them."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

import jaxmem
from jaxmem.difference import NO_GROWTH, diff_reports, parse_tolerance
from jaxmem.errors import InputError, InvariantError, UsageError
from jaxmem.report import as_text
from jaxmem.result import BufferRow, Diff, Diffs, Report, Reports, from_json, to_json
from jaxmem.roles import Phase, Role
from reports_by_hand import KIB, MIB, buffer, report_of


def diff_of(old: Report, new: Report, tolerance: str | int = 0) -> Diff:
    (found,) = diff_reports(
        (old,), (new,), old_name="old.json", new_name="new.json", tolerance=parse_tolerance(tolerance)
    ).reports
    return found


def told(diff: Diff) -> list[tuple[str, int, str | None, str | None]]:
    """What is said of each buffer: what became of it, by how much, and its instruction on both sides."""
    return [
        (
            one.change,
            one.difference_bytes,
            one.old.instruction if one.old else None,
            one.new.instruction if one.new else None,
        )
        for one in diff.buffers
    ]


# --- which buffer is which --------------------------------------------------------------------------------------------


def test_renumbered_instructions_are_the_same() -> None:
    old = [buffer(f"fusion.{number}", KIB, start=number, layer=f"conv{number % 3}") for number in range(30)]
    numbers = random.Random(0).sample(range(1000), 30)
    new = [replace(row, instruction=f"fusion.{numbers[row.start]}.clone") for row in old]
    found = diff_of(report_of(*old), report_of(*new))
    assert (found.buffers, found.unchanged_buffers, found.difference_bytes) == ((), 30, 0)


def test_a_number_alone_makes_no_match() -> None:
    """fusion.1 and fusion.2 change places: the names say one thing, layers and shapes another."""
    old = report_of(buffer("fusion.1", KIB, layer="a"), buffer("fusion.2", 2 * KIB, layer="b", start=1))
    new = report_of(buffer("fusion.2", KIB, layer="a"), buffer("fusion.1", 3 * KIB, layer="b", start=1))
    assert told(diff_of(old, new)) == [("grew", KIB, "fusion.2", "fusion.1")]


def test_a_buffer_that_grew_is_one_buffer() -> None:
    old = report_of(buffer("fusion.1", KIB), buffer("copy.1", KIB, opcode="copy", start=1))
    new = report_of(buffer("fusion.9", 5 * KIB), buffer("copy.3", KIB, opcode="copy", start=1))
    assert told(diff_of(old, new)) == [("grew", 4 * KIB, "fusion.1", "fusion.9")]


def test_equal_buffers_go_by_the_order_of_the_program() -> None:
    """Twelve blocks without names of their own become thirteen: the last is new, no other."""
    old = [buffer(f"fusion.{number}", KIB, layer="", start=number) for number in range(12)]
    new = [buffer(f"fusion.{90 - number}", KIB, layer="", start=number) for number in range(13)]
    assert told(diff_of(report_of(*old), report_of(*new))) == [("new", KIB, None, "fusion.78")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (buffer("fusion.1", KIB, source="net.py:10"), buffer("fusion.1", KIB, source="net.py:14")),
        (buffer("fusion.1", KIB, source="here/net.py:10"), buffer("fusion.1", KIB, source="there/net.py:10")),
        (buffer("loop_add_fusion.1", KIB), buffer("loop_multiply_fusion.1", KIB)),
        (buffer("add.1", KIB, opcode="add"), buffer("fusion.1", KIB)),
        (buffer("fusion.1", KIB, source=""), buffer("fusion.1", KIB)),
    ],
)
def test_what_another_commit_or_compiler_changes_is_the_same(old: BufferRow, new: BufferRow) -> None:
    found = diff_of(report_of(old), report_of(new))
    assert (told(found), found.unchanged_buffers) == ([], 1)


def test_another_batch_size_scales_each_with_itself() -> None:
    shapes = [(8, 28, 28, 16), (8, 14, 14, 64), (16, 8, 3)]
    old = [
        buffer(f"fusion.{number}", KIB * (number + 1), shape=shape, layer="", source="", start=9 - number)
        for number, shape in enumerate(shapes)
    ]
    new = [
        replace(
            row, shape=tuple(32 if size == 8 else size for size in row.shape), bytes=4 * row.bytes, start=row.offset
        )
        for row in reversed(old)
    ]
    found = diff_of(report_of(*old, batch_size=8), report_of(*new, batch_size=32))
    assert [(one.change, one.old_bytes, one.new_bytes) for one in found.buffers] == [
        ("grew", 3 * KIB, 12 * KIB),
        ("grew", 2 * KIB, 8 * KIB),
        ("grew", KIB, 4 * KIB),
    ]


def test_without_any_identity_nothing_is_said_to_have_grown() -> None:
    old = report_of(buffer("fusion.1", KIB, layer="", source="", shape=(256,)))
    new = report_of(buffer("fusion.1", 9 * KIB, layer="", source="", shape=(2304,)))
    assert told(diff_of(old, new)) == [("new", 9 * KIB, None, "fusion.1"), ("gone", -KIB, "fusion.1", None)]


@pytest.mark.parametrize(
    "other",
    [{"role": Role.TRANSIENT}, {"layer": "conv2"}, {"phase": Phase.BACKWARD}],
    ids=lambda other: next(iter(other)),
)
def test_role_layer_and_phase_are_identity(other: dict) -> None:
    old, new = report_of(buffer("fusion.1", KIB)), report_of(buffer("fusion.1", KIB, **other))
    assert sorted(told(diff_of(old, new))) == [
        ("gone", -KIB, "fusion.1", None),
        ("new", KIB, None, "fusion.1"),
    ]


def test_what_was_not_live_at_the_peak_before() -> None:
    row = buffer("fusion.1", KIB)
    later = report_of(row), report_of(others=(row,))
    assert told(diff_of(later[1], later[0])) == [("arrived", KIB, "fusion.1", "fusion.1")]
    assert told(diff_of(*later)) == [("left", -KIB, "fusion.1", "fusion.1")]


def test_equals_that_change_places_at_the_peak_are_not_told() -> None:
    rows = [buffer(f"fusion.{number}", KIB, start=number) for number in range(4)]
    assert told(diff_of(report_of(*rows[:2], others=rows[2:]), report_of(*rows[2:], others=rows[:2]))) == []


def test_updated_state_is_the_state() -> None:
    """At one peak the parameter lies in its slot, at the other what replaces it: nothing has changed."""
    before = buffer("kernel.1", KIB, role=Role.PARAMETERS, opcode="parameter", source="")
    after = buffer("add_fusion.4", KIB, role=Role.PARAMETERS, phase=Phase.UPDATE, source="update.py:42", start=9)
    found = diff_of(report_of(before, others=(after,)), report_of(after, others=(before,)))
    assert (told(found), found.unchanged_buffers) == ([], 1)


# --- the sums ---------------------------------------------------------------------------------------------------------


def test_roles_and_layers_close_over_hidden_memory_too() -> None:
    old = report_of(buffer("fusion.1", 3 * KIB), hidden_bytes=KIB)
    new = report_of(
        buffer("fusion.1", 5 * KIB),
        buffer("fusion.2", KIB, role=Role.GRADIENTS, layer="conv2"),
        hidden_bytes=None,
    )
    found = diff_of(old, new)
    assert found.difference_bytes == 2 * KIB
    assert {row.role: row.difference_bytes for row in found.roles} == {
        Role.SAVED_ACTIVATIONS: 2 * KIB,
        Role.GRADIENTS: KIB,
        Role.HIDDEN: -KIB,
    }
    assert {row.layer: row.difference_bytes for row in found.layers} == {"conv1": 2 * KIB, "conv2": KIB, "": -KIB}
    assert "known for cpu only" in found.notes[0]
    with pytest.raises(InvariantError, match=r"roles changed by 0 B in all, but should by 2048 B"):
        replace(found, roles=())
    with pytest.raises(InvariantError, match="layers changed"):
        replace(found, layers=found.layers[1:])
    with pytest.raises(InvariantError, match="not sorted"):
        replace(found, layers=found.layers[::-1])
    with pytest.raises(InvariantError, match="over its tolerance exactly where"):
        replace(found, exceeded=False)


def test_a_layer_that_only_moved_bytes_between_roles_is_told() -> None:
    found = diff_of(report_of(buffer("fusion.1", KIB)), report_of(buffer("fusion.1", KIB, role=Role.TRANSIENT)))
    (layer,) = found.layers
    assert (layer.difference_bytes, [row.difference_bytes for row in layer.roles]) == (0, [KIB, -KIB])
    assert "conv1     1.00 KiB  1.00 KiB         0 B\n    transient +1.00 KiB · saved activations -1.00 KiB" in as_text(
        found
    )


@pytest.mark.parametrize(
    ("tolerance", "exceeded"),
    [(0, True), ("0", True), ("9 %", True), ("10%", False), (1023, True), (1024, False), ("1KiB", False)],
)
def test_tolerance(tolerance: str | int, exceeded: bool) -> None:
    old, new = report_of(buffer("fusion.1", 10 * KIB)), report_of(buffer("fusion.1", 11 * KIB))
    assert diff_of(old, new, tolerance).exceeded is exceeded
    assert diff_of(new, old, tolerance).exceeded is False


@pytest.mark.parametrize("text", ["", "-1%", "much", "1%%", -5, True])
def test_what_is_no_tolerance(text: str | int) -> None:
    with pytest.raises(UsageError, match=r"is no tolerance\. Write a size or a percentage"):
        parse_tolerance(text)
    assert NO_GROWTH.allowed_bytes(MIB) == 0


# --- several reports --------------------------------------------------------------------------------------------------


def names(diffs: Diffs) -> list[tuple[str | None, int | None, int | None]]:
    return [(one.new.program.mode, one.old.program.batch_size, one.new.program.batch_size) for one in diffs.reports]


def between(old: list[Report], new: list[Report]) -> Diffs:
    return diff_reports(tuple(old), tuple(new), old_name="old", new_name="new")


def test_reports_are_paired_whatever_their_order() -> None:
    train, infer = report_of(mode="train"), report_of(mode="infer", batch_size=1)
    assert names(between([train, infer], [infer, train])) == [("train", 8, 8), ("infer", 1, 1)]


def test_what_was_varied_still_finds_its_partner() -> None:
    old = [report_of(mode="train"), report_of(mode="infer", batch_size=1)]
    new = [report_of(mode="train", batch_size=64), report_of(mode="infer", batch_size=1, device="h100-sxm")]
    assert names(between(old, new)) == [("train", 8, 64), ("infer", 1, 1)]
    assert names(between(old, [report_of(mode="infer", name="other", batch_size=1)])) == [("infer", 1, 1)]


def test_what_has_no_partner_is_said() -> None:
    found = between(
        [report_of(batch_size=8), report_of(batch_size=16)], [report_of(batch_size=16), report_of(mode="x")]
    )
    assert names(found) == [("train", 16, 16)]
    assert (found.only_old, found.only_new) == (("net · train · batch 8 · cpu",), ("net · x · batch 8 · cpu",))
    text = as_text(found)
    assert "Without a partner\nnet · train · batch 8 · cpu only in the old" in text
    assert "net · x · batch 8 · cpu only in the new" in text


def test_two_single_reports_are_compared_whatever_they_are() -> None:
    found = between([report_of(name="a", mode="train")], [report_of(name="b", mode="infer", batch_size=1)])
    assert len(found.reports) == 1
    assert as_text(found).startswith("a · training · batch 8 on cpu → b · inference · batch 1 on cpu\n")


# --- what is printed and kept -----------------------------------------------------------------------------------------


@pytest.fixture
def grown() -> Diff:
    old = report_of(
        buffer("broadcast_add_fusion.3", 2 * MIB, shape=(8, 65536)),
        buffer("copy.1", MIB, opcode="copy", layer="head", role=Role.PARAMETERS, start=1),
        buffer("fusion.8", 512 * KIB, layer="bn1", role=Role.TRANSIENT, start=2),
        jaxlib="0.10.1",
    )
    new = report_of(
        buffer("broadcast_add_fusion.11", 6 * MIB, shape=(24, 65536)),
        buffer("copy.4", MIB, opcode="copy", layer="head", role=Role.PARAMETERS, start=1),
        buffer("iota.2", 256 * KIB, opcode="iota", layer="pool", role=Role.CONSTANTS, source="", dtype="s32", start=2),
    )
    return diff_of(old, new, "1%")


def test_the_page_names_the_guilty(grown: Diff) -> None:
    text = as_text(grown, width=100)
    assert text.splitlines()[:4] == [
        "net · training · batch 8 on cpu",
        "old.json → new.json · jax 0.10.1 → 0.10.2 · jaxlib 0.10.1 → 0.10.2",
        "Required 3.50 MiB → 7.25 MiB +3.75 MiB +107.1 % · more than the 35.84 KiB allowed",
        "Most of it in conv1 (saved activations) +4.00 MiB · f32[8,65536] → f32[24,65536] by fusion",
    ]
    for line in (
        "conv1  saved activations  f32[8,65536] → f32[24,65536]  grew   +4.00 MiB",
        "    fusion broadcast_add_fusion.11 at net.py:10",
        "bn1    transient          f32[131072]                   gone  -512.0 KiB",
        "pool   constants          s32[65536]                    new   +256.0 KiB",
        "    iota.2",
        "1 other role        1.00 MiB   1.00 MiB         0 B",
        "1 buffer at the peak is the same.",
    ):
        assert line in text


def test_nothing_changed() -> None:
    report = report_of(buffer("fusion.1", KIB))
    assert as_text(diff_of(report, report)).splitlines() == [
        "net · training · batch 8 on cpu",
        "old.json → new.json",
        "Required 1.00 KiB → 1.00 KiB the same",
    ]


def test_many_changes_are_counted_and_shown_on_request() -> None:
    old = [buffer(f"fusion.{number}", KIB, layer=f"layer{number:02}", start=number) for number in range(40)]
    new = [replace(row, bytes=KIB * (2 + row.start)) for row in old]
    found = diff_of(report_of(*old), report_of(*new))
    assert "28 other layers" in as_text(found)
    assert "and 28 smaller changes: -v shows them all" in as_text(found)
    assert "layer00" not in as_text(found)
    assert "layer00" in as_text(found, detail=True)
    assert found.layers[0].layer == "layer39"


def test_json_and_back(grown: Diff, tmp_path: Path) -> None:
    grown.save(tmp_path / "d.json")
    assert jaxmem.load(tmp_path / "d.json") == Diffs(reports=(grown,))
    data = json.loads((tmp_path / "d.json").read_text())
    assert data["schema"] == "jaxmem.diff/1"
    (one,) = data["reports"]
    assert one["new"]["required_bytes"] - one["old"]["required_bytes"] == one["difference_bytes"] == 3 * MIB + 768 * KIB
    assert sum(row["difference_bytes"] for row in one["roles"]) == one["difference_bytes"]
    assert one["buffers"][0]["new"]["instruction"] == "broadcast_add_fusion.11"
    one["layers"].pop(0)
    with pytest.raises(InputError, match="is damaged: the layers changed by"):
        from_json(json.dumps(data), "d.json")


# --- jaxmem.diff ------------------------------------------------------------------------------------------------------


def test_paths_and_reports(tmp_path: Path) -> None:
    old, new = report_of(buffer("fusion.1", KIB)), report_of(buffer("fusion.1", 2 * KIB))
    old.save(tmp_path / "old.json")
    found = jaxmem.diff(tmp_path / "old.json", new, tolerance="1KiB")
    assert isinstance(found, Diff)
    assert (found.difference_bytes, found.exceeded, found.new.name) == (KIB, False, "new")
    assert found.old.name == str(tmp_path / "old.json")
    several = jaxmem.diff(Reports(reports=(old, report_of(mode="infer"))), new)
    assert isinstance(several, Diffs)
    assert to_json(several) == to_json(several)


def test_captures_of_two_devices() -> None:
    golden = Path(__file__).parents[1] / "golden"
    found = jaxmem.diff(golden / "pools.cpu.jaxmem", str(golden / "pools.h100-sxm.jaxmem"))
    assert isinstance(found, Diff)
    assert found.unchanged_buffers > 10
    assert found.layers[0].layer == "first"


def test_what_cannot_be_compared(grown: Diff, tmp_path: Path) -> None:
    grown.save(tmp_path / "d.json")
    with pytest.raises(InputError, match=r"d.json holds jaxmem.diff/1, and a diff compares reports"):
        jaxmem.diff(tmp_path / "d.json", report_of())
    with pytest.raises(UsageError, match="was given Diff"):
        jaxmem.diff(grown, report_of())  # pyright: ignore[reportArgumentType]
