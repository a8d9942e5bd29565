"""Whatever adds up survives the way to JSON and back; whatever does not is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result import (
    BufferRow,
    BufferTable,
    DeviceFacts,
    Evidence,
    Hidden,
    LedgerItem,
    LedgerRow,
    Report,
    Reports,
    Verdict,
    Versions,
    XlaNumbers,
    from_json,
    to_json,
)
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SIZES = st.integers(0, 2**50)
UNKNOWN = WORDS.filter(str.strip).map(Unknown)
EVIDENCE: st.SearchStrategy[Evidence] = st.dictionaries(
    WORDS,
    st.one_of(
        WORDS, st.integers(), st.lists(st.integers(), max_size=3).map(tuple), st.lists(WORDS, max_size=3).map(tuple)
    ),
    max_size=3,
).map(lambda pairs: tuple(pairs.items()))
ITEMS = st.builds(LedgerItem, kind=WORDS, bytes=st.integers(-(2**50), 2**50), evidence=EVIDENCE)
ROWS = st.builds(
    LedgerRow,
    term=WORDS,
    symbol=WORDS,
    layer=WORDS,
    formula_bytes=st.one_of(SIZES, UNKNOWN),
    compiled_bytes=SIZES,
    items=st.lists(ITEMS, max_size=3).map(tuple),
    reason=WORDS,
)
BUFFERS = st.lists(
    st.builds(
        BufferRow,
        bytes=SIZES,
        logical_bytes=SIZES,
        role=st.sampled_from(Role),
        layer=WORDS,
        phase=st.sampled_from(Phase),
        instruction=WORDS,
        opcode=WORDS,
        shape=st.lists(SIZES, max_size=4).map(tuple),
        dtype=WORDS,
        source=WORDS,
        start=SIZES,
        end=SIZES,
        allocation=SIZES,
        offset=SIZES,
        rule=WORDS,
    ),
    max_size=3,
).map(tuple)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    rows = tuple(draw(st.lists(ROWS, max_size=4)))
    required = sum(row.compiled_bytes for row in rows)
    hidden = draw(st.one_of(st.none(), st.integers(0, required)))
    unexplained = [row.unexplained_bytes for row in rows]
    unknown = next((each for each in unexplained if isinstance(each, Unknown)), None)
    cut = draw(st.integers(0, required))
    maybe = st.one_of(SIZES, UNKNOWN)
    buffers = draw(BUFFERS)
    return Report(
        program=ProgramFacts(name=draw(WORDS), batch_size=draw(st.one_of(st.none(), SIZES))),
        device=DeviceFacts(name=draw(WORDS), platform="cpu", memory_bytes=draw(maybe), usable_bytes=draw(maybe)),
        versions=Versions(
            jaxmem="0",
            jax=draw(UNKNOWN),
            jaxlib="0",
            compiler_options=tuple(draw(st.dictionaries(WORDS, WORDS, max_size=2)).items()),
        ),
        xla=XlaNumbers(
            argument_bytes=draw(maybe),
            output_bytes=draw(maybe),
            alias_bytes=draw(maybe),
            temp_bytes=draw(maybe),
            generated_code_bytes=draw(maybe),
            reported_peak_bytes=draw(maybe),
        ),
        live_peak_bytes=draw(SIZES),
        reserved_bytes=required - (hidden or 0),
        hidden=Hidden(bytes=hidden, reason=draw(WORDS)),
        required_bytes=required,
        required_is_lower_bound=hidden is None,
        roles={Role.PARAMETERS: cut, draw(st.sampled_from(list(Role)[1:])): required - cut},
        ledger=rows,
        unexplained_bytes=unknown or sum(each for each in unexplained if isinstance(each, int)),
        peak_buffers=buffers,
        buffers=BufferTable.from_rows(buffers),
        verdict=Verdict(
            fits=Unknown("no device"),
            judged_bytes=required,
            usable_bytes=Unknown("no device"),
            headroom_bytes=Unknown("no device"),
            rule=draw(WORDS),
        ),
        notes=tuple(draw(st.lists(WORDS, max_size=2))),
    )


@given(st.lists(reports(), max_size=2))
def test_round_trip(several: list[Report]) -> None:
    whole = Reports(reports=tuple(several))
    assert from_json(to_json(whole), "here") == whole


@given(reports(), st.sampled_from(["required_bytes", "reserved_bytes", "unexplained_bytes"]), st.integers(1, 2**20))
def test_one_number_changed_is_refused(report: Report, name: str, more: int) -> None:
    values = {field: getattr(report, field) for field in Report.__dataclass_fields__}
    if isinstance(values[name], Unknown):
        values[name] = more
    else:
        values[name] += more
    with pytest.raises(InvariantError):
        Report(**values)
