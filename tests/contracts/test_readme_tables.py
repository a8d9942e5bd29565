"""The tables of the README are those that the results give: no number was changed by hand, or left behind."""

from benchmarks import peers
from benchmarks.measure.__main__ import kept_results
from benchmarks.measure.page import readme_table
from benchmarks.records import in_readme, read


def test_what_the_peers_say() -> None:
    results = read(peers.Results, peers.FILE)
    assert results is not None
    assert in_readme("peers") == peers.summary(results)


def test_what_was_measured() -> None:
    assert in_readme("measured") == readme_table(kept_results())
