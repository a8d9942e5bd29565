"""What all tests share."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from jaxmem.result import Report, Reports, json_text
from jaxmem.result.schema import NAMES, derived

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


@pytest.fixture(scope="session", autouse=True)
def every_answer_obeys_its_schema() -> Iterator[None]:
    """Every report that a test makes, and every answer that it writes as JSON, is what the published schema says."""
    validators = {schema: jsonschema_rs.validator_for(json.loads(derived(name))) for name, schema in NAMES.items()}
    values_of, check_sums = json_text.json_values, Report.__post_init__

    def checked_values(results: json_text.Results) -> dict[str, Any]:
        values = values_of(results)
        validators[values["schema"]].validate(values)
        return values

    def check(report: Report) -> None:
        check_sums(report)
        checked_values(Reports(reports=(report,)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "json_values", checked_values)
        patch.setattr(Report, "__post_init__", check)
        yield
