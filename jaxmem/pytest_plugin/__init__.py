"""Memory budgets and baselines in a test suite: the fixture ``device_memory``, and ``--jaxmem-update``.

    def test_train_step(device_memory):
        device_memory.check(train_step, state, batch, device="h100-sxm", limit="20 GiB", donate_argnums=0)

pytest imports this module at every start, in projects that never use it too: it imports nothing but pytest.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jaxmem.pytest_plugin.check import DeviceMemory

_UPDATE = "--jaxmem-update"
_TOLERANCE = "jaxmem_tolerance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line option and the setting in the configuration file."""
    group = parser.getgroup("jaxmem", "memory of JAX programs (jaxmem)")
    group.addoption(
        _UPDATE, action="store_true", help="write what each device_memory.check needs to memory_baseline.json"
    )
    parser.addini(_TOLERANCE, "how much a program may grow beyond its baseline, e.g. 1% or 64MiB", default="0")


@pytest.fixture
def device_memory(request: pytest.FixtureRequest) -> "DeviceMemory":
    """Check how much memory a JAX program needs: ``device_memory.check(train_step, state, batch, limit="2 GiB")``.

    Nothing is run or allocated: the program is compiled for ``device``, which need not be in this machine. It fails where
    more is needed than ``limit``, or more than the baseline in memory_baseline.json, which --jaxmem-update writes.
    """
    from jaxmem.pytest_plugin.check import DeviceMemory

    return DeviceMemory(
        request.node,
        update=bool(request.config.getoption(_UPDATE)),
        default_tolerance=request.config.getini(_TOLERANCE),
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What passed and yet wants to be known: baselines that were written, are missing, or are too high by now."""
    # The properties of a test arrive with each of its reports, from other processes too.
    told = {
        (name.removeprefix("jaxmem: "), report.nodeid, said): None
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, said in getattr(report, "user_properties", ())
        if name.startswith("jaxmem: ")
    }
    if not told:
        return
    terminalreporter.section("memory (jaxmem)")
    for title in dict.fromkeys(title for title, _, _ in told):
        terminalreporter.write_line(f"{title}:")
        for _, nodeid, said in (one for one in told if one[0] == title):
            terminalreporter.write_line(f"  {nodeid}: {said}")
