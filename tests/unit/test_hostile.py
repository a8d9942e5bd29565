"""Inputs that once brought a reader down, or would have: each is refused in words, in little time and memory."""

import json
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz.hostile import HOSTILE, of_empty_messages
from benchmarks.fuzz.readers import CARDS, DATA, archive, outcome_of, reader_of
from jaxmem.capture import load
from jaxmem.capture.file import unpack
from jaxmem.codec import Mismatch, decode, parse_json
from jaxmem.devices.own import load_card
from jaxmem.errors import InputError, JaxmemError, UsageError
from jaxmem.files import read_bounded, unpacked_limit
from jaxmem.formula.equal import equal_values
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.oom import explain_message
from jaxmem.result import from_json
from jaxmem.roles import Phase
from jaxmem.units import parse_bytes
from jaxmem.xla import read_hlo_proto
from jaxmem.xla.condense import NotAProto, condensed
from jaxmem.xla.schema import MESSAGES

LOOPED = DATA / "captures" / "looped.cpu.jaxmem"
QUICK = [name for name, (_, make) in HOSTILE.items() if not any(word in name for word in (
    "MiB", "GiB", "million", "300,000", "100,000", "30,000", "20,000", "thousand", "ten million", "just below", "half a",
))]  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_what_is_made_to_exhaust_a_reader(name: str) -> None:
    reader, make = HOSTILE[name]
    assert outcome_of(reader_of(reader), make())[0] in ("read", "refused")


@pytest.mark.parametrize(
    "message", ["logical buffers", "allocations", "heap traces", "donors", "dimensions of a window"]
)
def test_empty_messages_are_counted_before_they_are_parsed(message: str) -> None:
    """Two bytes each in the file, up to 120 times that in memory: they took 8 GiB in a dump of 64 MiB."""
    said = refusal("hlo", of_empty_messages(message, 2))
    assert "most of them empty" in said or "say nothing" in said


def test_a_large_dump_of_empty_instructions_is_given_up_early() -> None:
    """It was gone through piece by piece, a minute and seventy times its size long."""
    computation = MESSAGES["Computation"](instructions=[MESSAGES["Instruction"]()] * 200_000)
    module = MESSAGES["HloModule"](computations=[computation.SerializeToString()])
    data = MESSAGES["HloProto"](hlo_module=module).SerializeToString()
    with pytest.raises(NotAProto, match="fields, most of them empty"):
        condensed(BytesIO(data), len(data))


def test_the_dimensions_of_many_small_windows_say_something() -> None:
    """Few enough for one instruction to pass, but a hundred times its size in memory, and each instruction has its own."""
    shape = MESSAGES["Shape"](element_type=11).SerializeToString()
    window = MESSAGES["Window"](dimensions=[MESSAGES["WindowDimension"]()] * 200)
    instruction = MESSAGES["Instruction"](id=1, opcode=b"reduce-window", shape=shape, window=window)
    computation = MESSAGES["Computation"](id=1, instructions=[instruction], root_id=1)
    module = MESSAGES["HloModule"](computations=[computation.SerializeToString()], entry_computation_id=1)
    said = refusal("hlo", MESSAGES["HloProto"](hlo_module=module).SerializeToString())
    assert "200 dimensions and aliases that say nothing" in said


def test_a_layout_of_very_many_tiles() -> None:
    """Two bytes each; a dump of 64 MiB of them was read for twenty seconds."""
    layout = MESSAGES["Layout"](tiles=[MESSAGES["Tile"]()] * 65)
    shape = MESSAGES["Shape"](element_type=11, layout=layout).SerializeToString()
    instruction = MESSAGES["Instruction"](id=1, opcode=b"iota", shape=shape)
    computation = MESSAGES["Computation"](id=1, instructions=[instruction], root_id=1).SerializeToString()
    module = MESSAGES["HloModule"](computations=[computation], entry_computation_id=1)
    said = refusal("hlo", MESSAGES["HloProto"](hlo_module=module).SerializeToString())
    assert "65 tiles in one another, and 64 are read" in said


def refusal(reader: str, data: bytes) -> str:
    outcome, said = outcome_of(reader_of(reader), data)
    assert outcome == "refused"
    return said


def test_computations_that_call_each_other_twice_are_not_followed_two_to_the_sixtieth_times() -> None:
    for name in ("sixty computations, each called twice by the next", "sixty fusions, each called twice by the next"):
        assert "called so often" in refusal("dump", HOSTILE[name][1]())


def test_a_card_file_nested_without_end() -> None:
    assert "nested without end" in refusal("card", b"name = " + b"[" * 10_000)


# --- numbers


@pytest.mark.parametrize("text", ["9" * 400 + " GiB", "2000 PiB", "1" * 20])
def test_a_size_beyond_all_memory_once_became_infinity(text: str) -> None:
    with pytest.raises(UsageError, match="more memory than there is"):
        parse_bytes(text)


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_message_with_a_number_of_very_many_digits_is_no_message(digits: int) -> None:
    with pytest.raises(InputError, match="No out-of-memory message"):
        explain_message(f"Out of memory while trying to allocate {'9' * digits} bytes")


def test_an_unpadded_size_that_is_no_size() -> None:
    text = (DATA / "oom" / "tpu-compile-easydel.txt").read_text()
    assert "Unpadded size: " in text
    assert explain_message(text.replace("Unpadded size: ", "Unpadded size: about ")).buffers[0].padding_bytes == 0


@pytest.mark.parametrize("memory", ["1" + "0" * 400, "2" * 5000, '"9' + "9" * 400 + ' GiB"', str(2**60)])
def test_a_card_with_more_memory_than_there_is(tmp_path: Path, memory: str) -> None:
    card = tmp_path / "card.toml"
    card.write_text(f'name = "a"\nkind = "b"\nsource = "c"\ntarget_description = "d"\nmemory = {memory}\n')
    with pytest.raises(InputError) as caught:
        load_card(card)
    assert len(str(caught.value)) < 500  # the digits are not said again


def test_a_clock_of_four_hundred_digits() -> None:
    card = CARDS[0].replace("2.505", "1" + "0" * 400)
    assert "clock_ghz is a number above 0" in refusal("card", card.encode())


def test_numbers_that_have_no_ratio_are_no_numbers() -> None:
    for kind in (int, float):
        with pytest.raises(Mismatch, match="a number of 1329 bits"):
            decode(kind, 10**400)
    with pytest.raises(Mismatch):
        decode(tuple[int, ...], [1, -(10**400)])


# --- JSON that says two things, or nothing


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        ('{"a": NaN}', "NaN, which is no number"),
        ('{"a": [-Infinity]}', "-Infinity, which is no number"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ("[" * 100_000, "nested without end"),
    ],
)
def test_json_that_readers_would_take_for_different_things(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)
    with pytest.raises(InputError, match=problem):
        from_json(text, "a.json")


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "😀"


def test_what_a_message_shows_of_a_value_is_short_whatever_the_value() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    for value in (deep, ["x" * 10**6] * 100, {"a": deep}):
        with pytest.raises(Mismatch) as caught:
            decode(int, value)
        assert len(str(caught.value)) < 200


# --- captures whose tables point nowhere


def members() -> dict[str, bytes]:
    import zipfile

    with zipfile.ZipFile(LOOPED) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def loaded_with(tmp_path: Path, change: Any) -> None:
    parts = members()
    document = json.loads(parts["capture.json"])
    change(document["capture"])
    file = tmp_path / "changed.jaxmem"
    file.write_bytes(archive(parts | {"capture.json": json.dumps(document).encode()}))
    load(file)


def set_in(*path: Any, value: Any) -> Any:
    def change(capture: Any) -> None:
        for step in path[:-1]:
            capture = capture[step]
        capture[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            set_in("layer_table", "operations", "operands", 0, value=[9999]),
            r"operations\[0\].operands\[0\]: points at 9999",
        ),
        (set_in("layer_table", "operations", "results", 1, value=[0]), "is said to be made by another operation"),
        (set_in("layer_table", "operations", "hands_on", 0, value=77), "expected 0 to"),
        # Operation 3 is a product, 13 a transposition.
        (set_in("layer_table", "operations", "operands", 3, value=[5, 6, 6]), "a product of 3 arrays"),
        (set_in("layer_table", "operations", "sizes", 3, value=[["rhs_batch", [9]]]), r"rhs_batch\[0\]: points at 9"),
        (set_in("layer_table", "operations", "sizes", 13, value=[["permutation", [0, 0]]]), "no order of 2 dimensions"),
        (set_in("layer_table", "values", "argument", 0, value=77), r"values\[0\].argument: points at 77"),
        (set_in("layer_table", "values", "divided_over", 0, value=0), "divided over 0 devices"),
        (set_in("layer_table", "outputs", 0, value=-1), "points at -1"),
        (set_in("layer_table", "arguments", value=[]), "expected 4 arguments"),
        (set_in("outputs", "argument_index", 0, value=4), r"outputs\[0\].argument_index: points at 4 of 4"),
        (set_in("arguments", "parameter_number", 0, value=3), "not numbered from 0 on"),
        (set_in("arguments", "shape", 0, value=[-1]), "an array of shape"),
        (set_in("host", "threads", value=0), "host.threads: expected at least 1"),
    ],
)
def test_an_index_that_points_nowhere_is_named_with_its_place(tmp_path: Path, change: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        loaded_with(tmp_path, change)


# --- modules whose instructions do not fit together

ARRAY = MESSAGES["Shape"](element_type=11)
PAIR = MESSAGES["Shape"](element_type=13, tuple_shapes=[ARRAY, ARRAY])


def instruction(number: int, opcode: str, shape: Any = ARRAY, operands: Any = (), calls: Any = (), **more: Any) -> Any:
    return MESSAGES["Instruction"](
        id=number,
        name=f"{opcode}.{number}".encode(),
        opcode=opcode.encode(),
        shape=shape.SerializeToString(),
        operand_ids=operands,
        called_computation_ids=calls,
        **more,
    )


def module(*instructions: Any, inner: tuple[Any, ...] = (), **more: Any) -> bytes:
    """An entry computation, and another one with number 2 where one is called. The last instruction is the root."""
    computations = [(1, instructions), *([(2, inner)] if inner else [])]
    return MESSAGES["HloProto"](
        hlo_module=MESSAGES["HloModule"](
            entry_computation_id=1,
            computations=[
                MESSAGES["Computation"](id=number, instructions=body, root_id=body[-1].id).SerializeToString()
                for number, body in reversed(computations)
            ],
            **more,
        )
    ).SerializeToString()


A, B = instruction(1, "iota"), instruction(2, "iota")
TAKES_ONE = (instruction(11, "parameter"), instruction(12, "add", operands=[11, 11]))
SCHEDULE = MESSAGES["Schedule"](
    sequences=[MESSAGES["ScheduleEntry"](key=1, value=MESSAGES["InstructionSequence"](instruction_ids=[2, 1]))]
)
MISFITS = {
    "a tuple of other elements than its operands": (module(A, B, instruction(3, "tuple", PAIR, [1])), "of 1 operands"),
    "an element of another kind": (
        module(A, B, instruction(3, "tuple", PAIR, [1, 2]), instruction(4, "get-tuple-element", PAIR, [3])),
        r"takes f32\[\] for \(f32\[\], f32\[\]\)",
    ),
    "a fusion without a computation": (module(A, instruction(3, "fusion", operands=[1])), "calls 0 computations"),
    "a call with too many operands": (
        module(A, B, instruction(3, "call", operands=[1, 2], calls=[2]), inner=TAKES_ONE),
        "hands its computation other operands than that takes",
    ),
    "a call whose computation returns something else": (
        module(A, instruction(3, "call", PAIR, operands=[1], calls=[2]), inner=TAKES_ONE),
        r"takes f32\[\] for",
    ),
    "a loop without a body": (
        module(A, instruction(3, "while", operands=[1], calls=[2]), inner=TAKES_ONE),
        "is no loop over one state with a condition and a body",
    ),
    "a branch without its operand": (
        module(A, instruction(3, "conditional", operands=[1], calls=[2]), inner=TAKES_ONE),
        "chooses between 1 branches with 1 operands",
    ),
    "an end without a beginning": (module(A, instruction(3, "copy-done", operands=[1])), r"does not end what f32\[\] begins"),
    "an asynchronous beginning that makes an array": (
        module(A, instruction(3, "async-start", operands=[1], calls=[2]), inner=TAKES_ONE),
        "where operands and results are expected",
    ),
    "a gather that hands on fewer arrays than it takes": (
        module(A, B, instruction(3, "all-gather-start", PAIR, [1, 2])),
        "where operands and results are expected",
    ),
    "several sums in one array": (module(A, B, instruction(3, "all-reduce", operands=[1, 2])), "of 2 operands"),
    "a schedule that reads before it writes": (
        module(A, instruction(2, "add", operands=[1]), schedule=SCHEDULE),
        "runs add.2 before what it reads",
    ),
    "an array with the elements of a tuple": (
        module(instruction(1, "iota", MESSAGES["Shape"](element_type=11, tuple_shapes=[ARRAY]))),
        "a shape of f32 has 1 elements of a tuple",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_instructions_that_do_not_fit_together(name: str) -> None:
    data, problem = MISFITS[name]
    with pytest.raises(InputError, match=problem):
        read_hlo_proto(data, origin="a dump")


def test_what_fits_together_is_read() -> None:
    both, called = instruction(3, "tuple", PAIR, [1, 2]), instruction(4, "call", operands=[1], calls=[2])
    read, _ = read_hlo_proto(module(A, B, both, called, inner=TAKES_ONE), origin="a dump")
    assert len(read.instructions) == 6


# --- files without end


def test_a_file_larger_than_its_kind_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.toml"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole: it takes no disk
    for read in (load_card, load):
        with pytest.raises(InputError, match="is larger than"):
            read(file)


def test_a_device_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(InputError, match="/dev/zero is larger than"):
        read_bounded("/dev/zero", limit_bytes=1 << 20)


@pytest.mark.parametrize("name", ["nothing-there", ".", "a\0b"])
def test_a_name_that_cannot_be_opened_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_bounded(name, limit_bytes=10)


def test_what_unpacks_to_a_hundred_times_its_size_is_a_bomb() -> None:
    assert unpacked_limit(10, 1 << 30) == 64 << 20
    assert unpacked_limit(1 << 20, 1 << 30) == 100 << 20
    assert unpacked_limit(1 << 30, 1 << 30) == 1 << 30


def test_members_with_names_of_other_places_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JaxmemError, match="its members are"):
        unpack(HOSTILE["a capture with a member outside of it"][1](), origin="a capture")
    assert not list(tmp_path.parent.rglob("outside"))


def test_operations_said_to_be_the_same_that_make_more_and_fewer_results() -> None:
    """Found by fuzzing whole captures: the formula paired their results, and one had none left."""
    values = [Value(shape=(2,), dtype="float32", itemsize_bits=32, argument=0)]
    values += [Value(shape=(2,), dtype="float32", itemsize_bits=32, operation=operation) for operation in (0, 0, 1)]
    make = partial(
        Operation, primitive="split", scope="", layer="", phase=Phase.FORWARD, operands=(0,), same="said to be the same"
    )
    operations = (make(results=(1, 2)), make(results=(3,)))
    table = LayerTable(values=tuple(values), operations=operations, arguments=(0,), outputs=(1, 2, 3))
    assert equal_values(table, merges_remat=True)[2] == [0, 1]
