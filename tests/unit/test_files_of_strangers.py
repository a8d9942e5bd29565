"""Captures, reports, dumps and card files are data: opening one runs nothing, writes nothing, and opens no other file."""

import subprocess
import sys
import textwrap
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"

PROGRAM = """
import json, sys, zipfile
from pathlib import Path
from benchmarks.fuzz.readers import CARDS, archive
from jaxmem.assemble import read_report
from jaxmem.capture import load
from jaxmem.devices.own import load_card
from jaxmem.oom import explain_dump
from jaxmem.report import as_markdown, as_text
from jaxmem.result import Reports, to_json
from jaxmem.result import load as load_result

folder, data = Path(sys.argv[1]), Path(sys.argv[2])
with zipfile.ZipFile(data / "captures" / "looped.cpu.jaxmem") as opened:
    members = {name: opened.read(name) for name in opened.namelist()}
# Whatever in a capture may name a file or code names one.
table = json.loads(members["capture.json"])
table["capture"]["compiler_options"] = [
    ["xla_gpu_load_autotune_results_from", "/etc/passwd"], ["xla_dump_to", str(folder / "written")]
]
table["capture"]["configuration"] = [["jax_compilation_cache_dir", str(folder / "written")]]
table["capture"]["program"]["source"] = "/etc/passwd:1"
table["capture"]["program"]["name"] = "os:system"
(folder / "c.jaxmem").write_bytes(archive(members | {"capture.json": json.dumps(table).encode()}))
(folder / "card.toml").write_text(CARDS[0])
(folder / "r.json").write_text(to_json(Reports(reports=(read_report(load(folder / "c.jaxmem")),))))


def everything():
    report = read_report(load(folder / "c.jaxmem"))
    as_text(report), as_markdown(report), as_text(load_result(folder / "r.json"))
    as_text(explain_dump(data / "dumps" / "mlp_train.cpu.hlo.pb.gz"))
    load_card(folder / "card.toml")


everything()  # once, so that what is imported late is there
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments[:2]))))
everything()
for event in seen:
    print(*event)
"""

MINE = ("c.jaxmem", "card.toml", "r.json", "mlp_train.cpu.hlo.pb.gz")


def test_opening_runs_nothing_writes_nothing_and_opens_no_other_file(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), str(DATA)],
        cwd=DATA.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    events = [line.partition(" ")[::2] for line in ran.stdout.splitlines()]
    opened = [what for event, what in events if event == "open"]
    assert len(opened) == 4
    assert all(any(mine in what for mine in MINE) and what.endswith("'r')") for what in opened)
    # No process, no socket, no import, no code compiled or run, no folder made, nothing removed.
    # A dump's neighbours are listed: XLA marks there which module ran out of memory.
    assert {event for event, _ in events} <= {"open", "pathlib.Path.glob", "os.scandir", "builtins.id"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jaxmem", "card.toml", "r.json"]
