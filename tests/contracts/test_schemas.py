"""The published JSON Schemas: current, valid themselves, and refusing what the reader refuses.

That every answer obeys them is checked wherever a test makes one: see ``tests/conftest.py``.
"""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import jaxmem.result
from jaxmem.cli import main
from jaxmem.errors import InputError
from jaxmem.lowering import ProgramFacts
from jaxmem.result import (
    Advice,
    Boundary,
    BufferChange,
    BufferRow,
    BufferTable,
    Compared,
    Comparison,
    ComparisonCell,
    DeviceFacts,
    Diff,
    Diffs,
    DiffSide,
    DonationLeaf,
    DumpedModule,
    DumpFolder,
    Estimate,
    EstimateLayer,
    EstimateReport,
    EstimateReports,
    EstimateRow,
    Fit,
    Fits,
    GemmVariant,
    Hidden,
    HiddenFusion,
    LargeBuffer,
    LayerChange,
    LayerRow,
    LedgerItem,
    LedgerRow,
    Measured,
    Moment,
    NamedSize,
    OtherMemory,
    OutOfMemory,
    Probe,
    Report,
    Reports,
    RoleChange,
    ScalingLaw,
    ScalingRow,
    Together,
    Verdict,
    Versions,
    XlaNumbers,
    from_json,
    gemm_range,
    load,
    to_json,
)
from jaxmem.result.json_text import FIT_AT_THE_TOP, SCHEMAS, Results
from jaxmem.result.schema import NAMES, derived, published
from jaxmem.result.shown import Shown
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

FOLDER = Path(jaxmem.result.__file__).parent / "schemas"

NOBODY = Unknown('nobody knows: "<b>", \u202e, 𝄞')
PROGRAM = ProgramFacts(name="<script>\u202e\n", mode="train", batch_size=8)
DEVICE = DeviceFacts(name="cpu", platform="cpu", memory_bytes=NOBODY, usable_bytes=90)
VERDICT = Verdict(fits=True, judged_bytes=10, usable_bytes=90, headroom_bytes=80, rule="rule", assumptions=("none",))
BUFFER = BufferRow(
    bytes=8, logical_bytes=7, role=Role.INPUTS, layer="a", phase=Phase.FORWARD, instruction="i", opcode="add",
    shape=(2, 3), dtype="f32", source="a.py:1", start=0, end=1, allocation=0, offset=0, rule="r",
)  # fmt: skip
ESTIMATE = Estimate(name="jaxmem", formula="w", bytes=10, error_percent=0.5)


def a_report() -> Report:
    compared = Compared(formula_bytes=NOBODY, compiled_bytes=8)
    evidence = (("buffer", "x"), ("live", (1, 2)), ("count", 3), ("both", ("a", "b")))
    return Report(
        program=PROGRAM,
        device=DEVICE,
        versions=Versions(jaxmem="0", jax=NOBODY, jaxlib="0", libtpu="1", compiler_options=(("a", "b"),)),
        xla=XlaNumbers(
            argument_bytes=1, output_bytes=2, alias_bytes=3, temp_bytes=4, generated_code_bytes=NOBODY,
            reported_peak_bytes=NOBODY,
        ),
        live_peak_bytes=8,
        reserved_bytes=8,
        hidden=Hidden(bytes=2, reason="r", fusions=(HiddenFusion(instruction="f", layer="", bytes=2),)),
        required_bytes=10,
        required_is_lower_bound=False,
        roles={Role.INPUTS: 8, Role.HIDDEN: 2},
        ledger=(
            LedgerRow(term="inputs", symbol="x", formula_bytes=7, compiled_bytes=8,
                      items=(LedgerItem(kind="padding", bytes=1, evidence=evidence),)),
            LedgerRow(term="hidden", symbol="", formula_bytes=NOBODY, compiled_bytes=2),
        ),
        unexplained_bytes=NOBODY,
        estimates=(ESTIMATE,),
        layers=(LayerRow(layer="a", parameters=compared, gradients=compared, optimizer=compared, activations=compared),),
        peak_buffers=(BUFFER,),
        buffers=BufferTable.from_rows((BUFFER,)),
        other_memories=(OtherMemory(name="host", color=5, reserved_bytes=1, live_peak_bytes=1),),
        verdict=VERDICT,
        gemm_range=gemm_range((GemmVariant(backend="triton", required_bytes=10),)),
        measured=Measured(bytes=11, what="w", error_percent=-9.1),
        notes=("note",),
    )  # fmt: skip


def answers() -> dict[str, Results]:
    """One answer of each kind in which nothing is empty: what is not there cannot be refused."""
    rows = (EstimateRow(term="t", symbol="w", formula="1", bytes=10),)
    layer = EstimateLayer(layer="a", parameter_bytes=1, gradient_bytes=2, optimizer_bytes=3, activation_bytes=4)
    law = ScalingLaw(
        lower_batch_size=1, upper_batch_size=3, batch_size=2, bend_bytes=0,
        rows=(ScalingRow(term="t", fixed_bytes=1, bytes_per_example=2),),
    )  # fmt: skip
    boundary = Boundary(
        largest_batch=1, next_batch=None, multiple_of=1, searched_to=8, compiles=1, monotone=True, answer="a",
        proof=(Probe(batch_size=1, required_bytes=10, judged_bytes=10, fits=True),),
    )  # fmt: skip
    advice = Advice(
        change="c", how="h", before_bytes=9, after_bytes=8, saved_bytes=1, extra_flops=NOBODY, helps=True, fits=True
    )
    leaf = DonationLeaf(path="p", role=Role.INPUTS, bytes=8, outcome="not requested", reason="r")
    fit = Fit(
        program=PROGRAM, device=DEVICE, budget_bytes=90, limit_bytes=None, resident_bytes=0, margin_bytes=0, rule="r",
        asked_batch=1, fits=True, boundary=boundary, advised_batch=1, advice=(advice,), donation=(leaf,), notes=("n",),
    )  # fmt: skip
    cell = ComparisonCell(
        program="p", mode=None, batch_size=8, device="cpu", required_bytes=10, fits=True, usable_bytes=90,
        headroom_bytes=80, formula_bytes=9, formula_error_percent=-10.0, largest_batch=NOBODY,
    )  # fmt: skip
    moment = Moment(
        name="train", program=PROGRAM, program_bytes=8, is_lower_bound=False, required_bytes=10,
        beside=(NamedSize(name="n", bytes=2),),
    )  # fmt: skip
    old, new = (
        DiffSide(
            name=name, program=PROGRAM, device=DEVICE, versions=Versions(jaxmem="0", jax=NOBODY, jaxlib="0"),
            required_bytes=size, required_is_lower_bound=False,
        )
        for name, size in (("old", 10), ("new", 12))
    )  # fmt: skip
    role = RoleChange(role=Role.INPUTS, old_bytes=10, new_bytes=12, difference_bytes=2)
    diff = Diff(
        old=old, new=new, difference_bytes=2, allowed_bytes=1, exceeded=True, roles=(role,), unchanged_buffers=3,
        layers=(LayerChange(layer="a", old_bytes=10, new_bytes=12, difference_bytes=2, roles=(role,)),), notes=("n",),
        buffers=(
            BufferChange(change="grew", old_bytes=8, new_bytes=10, difference_bytes=2, old=BUFFER, new=BUFFER),
        ),
    )  # fmt: skip
    return {
        "report": Reports(reports=(a_report(),)),
        "estimate": EstimateReports(
            reports=(
                EstimateReport(program=PROGRAM, device=DEVICE, rows=rows, total_bytes=10, layers=(layer,),
                               estimates=(ESTIMATE,), notes=("n",), scaling=law),
            )
        ),
        "fit": Fits(reports=(fit,)),
        "compare": Comparison(cells=(cell,)),
        "dump": DumpFolder(
            folder="f",
            modules=(
                DumpedModule(module="m", platform="cpu", live_peak_bytes=1, reserved_bytes=NOBODY, file="m.hlo.pb"),
            ),
        ),
        "oom": OutOfMemory(
            failure="GPU run", program=NOBODY, evidence="e", requested_bytes=1, required_bytes=2, available_bytes=3,
            free_bytes=NOBODY, sizes_are_rounded=True, parts=(NamedSize(name="n", bytes=2),),
            buffers=(LargeBuffer(bytes=8, role=NOBODY),), advice=("a",), notes=("n",),
        ),
        "together": Together(
            device=DEVICE, state_bytes=8, moments=(moment,), largest="train", required_bytes=10, verdict=VERDICT
        ),
        "diff": Diffs(reports=(diff,), only_old=("a",), only_new=("b",)),
    }  # fmt: skip


ANSWERS = answers()

OPEN = ("evidence", "compiler_options")
"""Objects whose keys are names from a program."""


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of the JSON but for the whole, each kind of row once."""
    children = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def with_change(values: Any, path: tuple[str | int, ...], change: Callable[[Any, Any], object]) -> Any:
    """A copy in which ``change`` was made to what holds the place ``path``, and its key there."""
    changed = copy.deepcopy(values)
    part = changed
    for key in path[:-1]:
        part = part[key]
    change(part, path[-1])
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_the_published_schema_is_what_the_dataclasses_say(name: str, update_golden: bool) -> None:
    if update_golden:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_text(derived(name), encoding="utf-8")
    assert published(name) == derived(name), "run pytest with --update-golden if the JSON is meant to change"
    jsonschema_rs.meta.validate(json.loads(published(name)))


def test_every_answer_has_a_schema_and_an_example_here() -> None:
    assert set(ANSWERS) == set(NAMES) == {path.stem for path in FOLDER.iterdir()}
    assert set(NAMES.values()) == set(SCHEMAS)


def test_every_answer_shows_itself_and_is_kept(tmp_path: Path) -> None:
    for name, answer in answers().items():
        assert isinstance(answer, Shown)
        assert answer._repr_html_().startswith("<iframe")
        assert repr(answer).strip()
        answer.save(tmp_path / f"{name}.json")
        assert load(tmp_path / f"{name}.json") == answer


def test_every_field_is_described() -> None:
    """A report is read by people who have no sources: each class says what it is."""
    definitions = [each for name in NAMES for each in json.loads(published(name))["$defs"].values()]
    assert [each for each in definitions if len(each["description"]) < 10] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_type_is_refused(name: str) -> None:
    """At every place. And what the schema refuses, the reader does not take."""
    validator = jsonschema_rs.validator_for(json.loads(published(name)))
    values = json.loads(to_json(ANSWERS[name]))
    assert validator.is_valid(values)
    for path in places(values):
        for wrong in ({"no such key": [{}]}, [[[]]], True, 1.5, "words", None):
            changed = with_change(values, path, lambda part, key, wrong=wrong: part.__setitem__(key, wrong))
            if validator.is_valid(changed):
                assert not isinstance(wrong, dict | list), path
            elif not (name == "fit" and path[0] in FIT_AT_THE_TOP):
                with pytest.raises(InputError):
                    from_json(json.dumps(changed), "here")


@pytest.mark.parametrize("name", NAMES)
def test_a_key_too_few_or_too_many_is_refused(name: str) -> None:
    validator = jsonschema_rs.validator_for(json.loads(published(name)))
    values = json.loads(to_json(ANSWERS[name]))
    assert not validator.is_valid(values | {"no such key": 1})
    for path in places(values):
        if (
            isinstance(path[-1], str)
            and not set(path[:-1]) & set(OPEN)
            and (name != "fit" or path[0] not in FIT_AT_THE_TOP)
        ):
            assert not validator.is_valid(with_change(values, path, lambda part, key: part.pop(key))), path
        longer = with_change(
            values, path, lambda part, key: isinstance(part[key], dict) and part[key].update(more=[{}])
        )
        assert (longer == values) == validator.is_valid(longer), path


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["report", "jaxmem.report/1"]
    for name in NAMES:
        assert main(["schema", name]) == 0
        assert capsys.readouterr().out == published(name)
    assert main(["schema", "nothing"]) == 2
    assert "Schemas: report, estimate" in capsys.readouterr().err
