"""A quick run of `benchmarks.fuzz`: the same inputs every time. The long run's results are in benchmarks/results/fuzz.md."""

import pytest

from benchmarks.fuzz.readers import READERS, Reader, input_of, outcome_of

EXECUTIONS = {
    "hlo": 50,
    "dump": 25,
    "capture": 80,
    "report": 15,
    "json": 150,
    "baseline": 100,
    "card": 600,
    "roles": 600,
    "message": 400,
    "size": 1500,
    "autotune": 300,
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_input_is_read_or_refused(reader: Reader) -> None:
    outcomes = set()
    for number in range(EXECUTIONS[reader.name]):
        outcome, said = outcome_of(reader, input_of(reader, number))
        assert outcome in ("read", "refused"), f"python -m benchmarks.fuzz --again {reader.name} {number}: {said}"
        outcomes.add(outcome)
    assert "read" in outcomes
    assert outcomes == {"read", "refused"} or reader.name == "autotune"  # which looks for two words in any file


def test_an_execution_is_the_same_every_time() -> None:
    for reader in READERS:
        assert input_of(reader, 4711) == input_of(reader, 4711)
