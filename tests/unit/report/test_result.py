"""Reports as data: what must add up, and the way to JSON and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxmem.errors import EnvironmentFailure, InputError, InvariantError, UsageError
from jaxmem.result import (
    BufferTable,
    EstimateReport,
    EstimateReports,
    Hidden,
    LedgerItem,
    LedgerRow,
    Report,
    Reports,
    RoleBytes,
    error_percent,
    from_json,
    load,
    to_json,
)
from jaxmem.roles import Role
from jaxmem.unknown import Unknown


def as_data(report: Report) -> Any:
    return json.loads(to_json(Reports(reports=(report,))))


# --- what must add up ------------------------------------------------------------------------------------------------


def test_roles_must_sum_to_required(report: Report) -> None:
    short = {**report.roles, Role.WORKSPACE: report.roles[Role.WORKSPACE] - 1}
    with pytest.raises(InvariantError, match=r"roles adds up to .* \(-1 B\)"):
        replace(report, roles=short)


def test_compiled_column_must_sum_to_required(report: Report) -> None:
    first = replace(report.ledger[0], compiled_bytes=report.ledger[0].compiled_bytes + 4, formula_bytes=12_004)
    with pytest.raises(InvariantError, match=r"compiled column of the ledger .* \(\+4 B\)"):
        replace(report, ledger=(first, *report.ledger[1:]))


@pytest.mark.parametrize("index", range(2, 6))
def test_a_missing_item_is_unexplained(report: Report, index: int) -> None:
    row = replace(report.ledger[index], items=())
    ledger = (*report.ledger[:index], row, *report.ledger[index + 1 :])
    assert isinstance(row.difference_bytes, int)
    with pytest.raises(InvariantError, match="unexplained"):
        replace(report, ledger=ledger)
    assert replace(report, ledger=ledger, unexplained_bytes=abs(row.difference_bytes))


def test_unexplained_does_not_cancel_between_rows(report: Report) -> None:
    """40,000 too few here and 40,000 too many there are 80,000 unexplained, not 0."""
    more = LedgerItem(kind="fused_away", bytes=40_000)
    rows = list(report.ledger)
    rows[0] = replace(rows[0], items=(more,))
    rows[1] = replace(rows[1], items=(replace(more, bytes=-40_000),))
    assert replace(report, ledger=tuple(rows), unexplained_bytes=80_000)


def test_required_is_reserved_and_hidden(report: Report) -> None:
    with pytest.raises(InvariantError, match="reserved and hidden"):
        replace(report, hidden=Hidden(bytes=1, reason="too little"))


def test_lower_bound_exactly_where_hidden_is_not_known(report: Report) -> None:
    with pytest.raises(InvariantError, match="lower bound"):
        replace(report, required_is_lower_bound=True)


def test_a_ledger_without_formula_has_no_unexplained_number(report: Report) -> None:
    row = replace(report.ledger[0], formula_bytes=Unknown("a bare dump has no program"))
    assert row.difference_bytes == Unknown("a bare dump has no program")
    ledger = (row, *report.ledger[1:])
    with pytest.raises(InvariantError, match="unexplained"):
        replace(report, ledger=ledger, unexplained_bytes=0)
    bare = replace(report, ledger=ledger, unexplained_bytes=Unknown("a bare dump has no program"))
    assert as_data(bare)["reports"][0]["ledger"][0]["formula_bytes"] == {"unknown": "a bare dump has no program"}


def test_headroom_must_follow(report: Report) -> None:
    with pytest.raises(InvariantError, match="headroom"):
        replace(report.verdict, headroom_bytes=0)


def test_an_estimate_must_sum(estimate_report: EstimateReport) -> None:
    with pytest.raises(InvariantError, match="rows of the estimate add up"):
        replace(estimate_report, total_bytes=estimate_report.total_bytes + 1)


def test_columns_of_buffers_have_one_length(report: Report) -> None:
    with pytest.raises(InvariantError, match="differ in length"):
        replace(report.buffers, bytes=(1, 2))
    assert tuple(report.buffers.rows()) == report.peak_buffers
    assert len(BufferTable()) == 0


def test_role_bytes() -> None:
    roles = RoleBytes({Role.PARAMETERS: 12})
    assert roles["parameters"] == roles[Role.PARAMETERS] == 12
    assert list(roles) == list(Role)
    assert roles == RoleBytes({"parameters": 12})
    with pytest.raises(ValueError, match="not a role: weights"):
        RoleBytes({"weights": 1})


def test_difference_is_compiled_minus_formula() -> None:
    row = LedgerRow(term="t", symbol="", formula_bytes=10, compiled_bytes=7, items=(LedgerItem(kind="k", bytes=-2),))
    assert (row.difference_bytes, row.unexplained_bytes) == (-3, 1)


def test_error_percent() -> None:
    assert error_percent(150, 100) == 50.0
    assert error_percent(50, 100) == -50.0
    assert isinstance(error_percent(1, 0), Unknown)


def test_unknown_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Unknown(" ")


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_round_trip(report: Report, estimate_report: EstimateReport) -> None:
    for whole in (Reports(reports=(report, report)), EstimateReports(reports=(estimate_report,))):
        assert from_json(to_json(whole), "here") == whole


def test_the_keys_of_the_public_contract(report: Report) -> None:
    data = as_data(report)
    assert data["schema"] == "jaxmem.report/1"
    one = data["reports"][0]
    contract = """
        program device versions xla live_peak_bytes reserved_bytes hidden required_bytes required_is_lower_bound
        roles ledger unexplained_bytes estimates layers peak_buffers buffers verdict measured"""
    assert set(contract.split()) <= set(one)
    assert list(one["roles"]) == [role.value for role in Role]
    assert one["ledger"][2]["items"][0]["evidence"] == {"formula": "relu mask of conv1", "instruction": "fusion.7"}
    assert one["ledger"][2]["difference_bytes"] == -40_000
    assert one["versions"]["compiler_options"] == {"xla_cpu_flag": "true"}
    assert one["versions"]["libtpu"] == {"unknown": "libtpu takes no part on this platform"}
    assert one["buffers"]["shape"] == [[32, 250, 250, 1]]


def test_columns_take_one_line_each(report: Report) -> None:
    many = replace(report, buffers=BufferTable.from_rows(report.peak_buffers * 1000))
    assert len(to_json(Reports(reports=(many,))).splitlines()) == len(to_json(Reports(reports=(report,))).splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("roles"), "roles"),
        (lambda one: one.update(colour="red"), "colour"),
        (lambda one: one["roles"].update(parameters=1), "roles adds up"),
        (lambda one: one["roles"].update(weights=0), "not a role: weights"),
        (lambda one: one["ledger"][2].update(difference_bytes=0), "difference_bytes of 'saved activations' is 0"),
        (lambda one: one["ledger"][2].pop("difference_bytes"), "'difference_bytes' is missing"),
        (lambda one: one["ledger"][2]["items"][0].update(evidence=["formula"]), "not of the form"),
        (lambda one: one.update(required_bytes="many"), "required_bytes"),
        (lambda one: one.update(required_bytes=True), "required_bytes"),
        (lambda one: one.update(ledger=None), "not of the form"),
        (lambda one: one["xla"].update(temp_bytes=None), "temp_bytes"),
        (lambda one: one["peak_buffers"][0].update(role="weights"), "role"),
        (lambda one: one["buffers"].update(bytes=[]), "differ in length"),
        (lambda one: one.update(versions=3), "not of the form"),
    ],
)
def test_a_damaged_report_says_where(report: Report, change: Any, message: str) -> None:
    data = as_data(report)
    change(data["reports"][0])
    with pytest.raises(InputError) as caught:
        from_json(json.dumps(data), "r.json")
    assert str(caught.value).startswith("r.json is damaged: ")
    assert message in str(caught.value)
    assert "jaxmem report PROGRAM" in str(caught.value)


def test_every_truncation_is_an_input_error(report: Report) -> None:
    text = to_json(Reports(reports=(report,)))
    # The last character is the newline: without it the report is whole.
    for end in [*range(0, len(text) - 2, 37), len(text) - 2]:
        with pytest.raises(InputError, match="not complete JSON"):
            from_json(text[:end], "r.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": "jaxmem.report/2", "reports": []}', "pip install --upgrade jaxmem"),
        ('{"a": 1}', "it names no schema"),
        ("[1, 2]", "it names no schema"),
        ('{"schema": "other/1"}', "its schema is 'other/1'"),
        ('{"schema": "jaxmem.report/1", "reports": 3}', "damaged"),
        ('{"schema": "jaxmem.report/1"}', "damaged"),
        ('{"schema": ["jaxmem.report/1"]}', "its schema is"),
        ("[" * 100_000, "not a report|not complete"),
        ('{"n": ' + "9" * 5000 + "}", "not a report|names no schema"),
        ("", "not complete JSON"),
    ],
)
def test_foreign_text(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_json(text, "r.json")


# --- files -----------------------------------------------------------------------------------------------------------


def test_save_and_load(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    report.save(path)
    assert load(path) == Reports(reports=(report,))
    with pytest.raises(UsageError, match="exists and is left as it is"):
        report.save(path)
    report.save(path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_load_what_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load(tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(InputError, match="is not a report: byte 4 is not UTF-8"):
        load(tmp_path / "r.json")


def test_a_full_disk_leaves_the_old_file(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxmem.files.os.fsync", full)
    with pytest.raises(EnvironmentFailure, match="No space left on device"):
        report.save(path, force=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxmem.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.save(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_a_link_keeps_pointing(report: Report, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    report.save(tmp_path / "link.json", force=True)
    assert (tmp_path / "link.json").is_symlink()
    assert load(tmp_path / "real.json") == Reports(reports=(report,))
