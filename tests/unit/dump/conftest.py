"""Dumps of JAX, under the names that XLA gives them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dumps_of_tests import NAMES, golden


@pytest.fixture
def jax_dump(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(program: str, device: str) -> Path:
        path = tmp_path / NAMES[device]
        path.write_bytes(golden(program, device).hlo_proto)
        return path

    return write
