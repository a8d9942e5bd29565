"""Many processes on one cache."""

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.faults.rows import Row
from benchmarks.faults.writing import KEYS, SEED_FILE, fail
from jaxmem.capture import CaptureCache, load


def together(rounds: int) -> Iterator[Row]:
    """Eight processes put into and get from one cache that has room for two or three captures of six."""
    capture = load(SEED_FILE)
    versions = {key: replace(capture, created=key) for key in KEYS}
    limit_bytes = int(2.5 * SEED_FILE.stat().st_size)
    with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:

        def work(number: int) -> None:
            chance = random.Random(number)
            cache = CaptureCache(Path(name), limit_bytes=limit_bytes, warn=fail)
            for _ in range(rounds):
                key = chance.choice(KEYS)
                if chance.random() < 0.5:
                    cache.put(key, versions[key])
                    cache.put_request(key, key)
                found = cache.get(key) if chance.random() < 0.5 else cache.get_request(key)
                assert found in (None, versions[key])

        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                try:
                    work(number)
                except BaseException as error:
                    print(f"process {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        good = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
        files = list((Path(name) / "captures").iterdir())
        whole = all(load(file) == versions[file.stem] for file in files)
        size_bytes = sum(file.stat().st_size for file in files)
        yield Row(
            part="together",
            fault=f"eight processes on one cache, {rounds} times each, which evicts all the time",
            trials=8,
            good=good if whole else 0,
            found=f"every answer right or none; {len(files)} whole files of {size_bytes:,} B left, room for {limit_bytes:,} B",
        )
