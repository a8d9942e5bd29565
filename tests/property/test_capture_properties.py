"""Captures made at random: all come back equal, and no damage makes the reader fall over."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmem.capture import Capture
from jaxmem.capture.file import pack, unpack
from jaxmem.errors import InputError
from jaxmem.unknown import Unknown

st.register_type_strategy(Unknown, st.builds(Unknown, st.text(min_size=1).filter(str.strip)))
seconds = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
captures = st.builds(Capture, compile_seconds=seconds, worker_start_seconds=seconds)


@given(captures)
@settings(max_examples=60, deadline=None)
def test_round_trip(capture: Capture) -> None:
    assert unpack(pack(capture), origin="x") == capture


@given(captures, st.data())
@settings(max_examples=200, deadline=None)
def test_damage_is_an_input_error_or_harmless(capture: Capture, data: st.DataObject) -> None:
    content = bytearray(pack(capture))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InputError):
        assert isinstance(unpack(bytes(content), origin="x"), Capture)
