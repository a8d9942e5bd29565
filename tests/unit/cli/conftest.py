"""Commands in an empty folder, with a stand-in for the analysis."""

from pathlib import Path

import pytest

from fake_analysis import FakeAnalysis


@pytest.fixture
def fake() -> FakeAnalysis:
    return FakeAnalysis()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
