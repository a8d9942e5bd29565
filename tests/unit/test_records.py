"""What measurements are kept with: the machine, whose instruction set older files do not name."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.records import Setting, in_words, read, this_setting, write_data

HERE = Setting(
    processor="A processor",
    cores=2,
    memory_bytes=8 << 30,
    system="Linux x86_64",
    versions=(("jax", "0.10.2"),),
    instruction_set="AVX-512",
)


def test_results_from_before_the_instruction_set_was_kept_are_read(tmp_path: Path) -> None:
    file = tmp_path / "setting.json"
    write_data(HERE, file)
    values = json.loads(file.read_text())
    assert values.pop("instruction_set") == "AVX-512"
    file.write_text(json.dumps(values))
    old = read(Setting, file)
    assert old is not None
    assert old == replace(HERE, instruction_set="")
    assert old.is_like(HERE)
    assert HERE.is_like(old)
    assert not old.is_like(replace(HERE, cores=4))


def test_another_instruction_set_is_another_machine() -> None:
    assert not HERE.is_like(replace(HERE, instruction_set="AVX2"))
    assert HERE.is_like(HERE)


def test_the_words_name_it_where_it_is_known() -> None:
    assert "A processor with AVX-512, 2 cores" in in_words(HERE, ("2026-01-01",))
    assert "A processor, 2 cores" in in_words(replace(HERE, instruction_set=""), ("2026-01-01",))


def test_this_machine_has_one() -> None:
    assert this_setting().instruction_set
