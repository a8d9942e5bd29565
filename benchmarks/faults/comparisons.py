"""Comparisons that are killed, and started again."""

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.commands import COMPARE, command, ended
from benchmarks.faults.rows import Row
from jaxmem.capture import load


def killed_comparisons(count: int) -> Iterator[Row]:
    """A comparison killed at random moments; then the same once more."""
    chance, good, problems = random.Random(11), 0, []
    with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
        begun = time.monotonic()
        status, wanted, said = ended(command(Path(name), *COMPARE))
        whole = time.monotonic() - begun
        if status != 0:
            raise SystemExit(f"The comparison itself fails: {said}")
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="jaxmem-faults-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            process = command(folder, *COMPARE)
            assert process.stderr is not None
            wanted_cells = chance.randrange(3)
            for line in process.stderr if wanted_cells else ():
                if f"{wanted_cells} of 3" in line:
                    break
            time.sleep(chance.uniform(0, 0.2 if wanted_cells else 0.9) * whole)
            process.kill()
            ended(process)
            kept = len([load(file) for file in (folder / "cache" / "captures").glob("*.jaxmem")])
            status, table_text, said = ended(command(folder, *COMPARE))
            right = status == 0 and table_text == wanted
            good += right
            problems += [] if right else [said[-200:] or "another table"]
            for _ in range(100):
                if not list(folder.glob("jaxmem-*")):
                    break
                time.sleep(0.1)
            else:
                problems.append("a worker's folder stayed")
            print(f"comparison killed with {kept} captures kept: {'right' if right else 'WRONG'}", flush=True)
    yield Row(
        part="comparisons",
        fault="compare: SIGKILL at a random moment, then the same command again",
        trials=count,
        good=good,
        found="; ".join(problems) or "the same table as without a kill, no temporary folder left",
    )
