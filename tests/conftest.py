"""What all tests share."""

import os
import signal

import pytest

# Tests trace on the CPU backend: with compilers for other platforms installed, JAX would look for their devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


# A shell's background jobs ignore interrupts, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
