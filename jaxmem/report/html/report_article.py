"""The part of the page that belongs to one report: its answer, and the places of its charts and tables."""

from collections.abc import Sequence

from jaxmem.report.document import (
    Column,
    Document,
    Heading,
    Paragraph,
    Part,
    Percent,
    Row,
    Size,
    Table,
    Text,
)
from jaxmem.report.html.elements import part_html, parts_html, table_html
from jaxmem.report.html.escape import inert, isolated
from jaxmem.report.html.moments import peak_in_words
from jaxmem.report.html.palette import css_name
from jaxmem.report.pages import report_page
from jaxmem.report.phrases import title
from jaxmem.result import Report
from jaxmem.roles import Role
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown

_ROLES = "Where the bytes go"
_LEDGER = "Formula against compiler"
_FROM_DATA = frozenset({"Largest at the peak", "Layers, as compiled"})
"""Sections of the document whose tables are made in the page, where they can be searched, sorted, and are whole."""

_ALL = frozenset({"What the compiler cannot see"})
"""Sections that leave nothing out here."""


_SHOWN_PARTS = 6


def report_article(report: Report, number: int) -> str:
    """One report as HTML; all but the first are hidden until they are chosen."""
    document, whole = report_page(report), report_page(report, detail=True)
    top, sections = _sections(document)
    complete = dict(_sections(whole)[1])
    named = f"report-{number}"
    rest = "".join(
        f"<section>{part_html(Heading(heading))}{parts_html(complete[heading] if heading in _ALL else parts)}</section>"
        for heading, parts in sections
        if heading not in _FROM_DATA and heading not in (_ROLES, _LEDGER)
    )
    by_heading = dict(sections)
    return "\n".join(
        (
            f'<article id="{named}" data-report="{number}" aria-labelledby="{named}-title"{" hidden" if number else ""}>',
            f'<h1 id="{named}-title">{isolated(title(report.program, report.device))}</h1>',
            '<section class="answer">',
            f'<div class="words">{_words(top[1:])}{_capacity(report)}{_largest(report)}</div>',
            f'<div class="roles"><h2>{_ROLES}</h2>{_roles(by_heading[_ROLES])}</div>',
            "</section>",
            _map(report, named),
            _icicle(named),
            _long_table(named, "buffers", "Buffers", "Which buffers: at the peak, or all of them."),
            _long_table(named, "layers", "Layers", "What each layer takes, the formula beside the compiler."),
            f"<section>{part_html(Heading(_LEDGER))}{parts_html(by_heading[_LEDGER])}</section>",
            _long_table(named, "ledger", "The ledger, layer by layer", "Each row with what its difference is made of."),
            rest,
            "</article>",
        )
    )


def _sections(document: Document) -> tuple[Sequence[Part], list[tuple[str, Sequence[Part]]]]:
    """What stands before the first section, and the sections by their headings."""
    top: list[Part] = []
    sections: list[tuple[str, Sequence[Part]]] = []
    for part in document.parts:
        if isinstance(part, Heading) and part.level == 2:
            sections.append((part.text, document.section(part.text)))
        elif not sections:
            top.append(part)
    return top, sections


# --- the answer ------------------------------------------------------------------------------------------------------


_KINDS = {"Required": "headline", "Fits:": "verdict", "Does not fit:": "verdict", "Fit not known": "verdict"}
"""What the first word of a paragraph makes of it."""


def _words(parts: Sequence[Part]) -> str:
    """The paragraphs above the sections; the headline and the verdict stand out."""
    written = []
    for part in parts:
        first = part.cells[0] if isinstance(part, Paragraph) and part.cells else None
        kind = _KINDS.get(first.text, "fact") if isinstance(first, Text) else "fact"
        written.append(f'<div class="{kind}">{part_html(part)}</div>')
    return "".join(written)


def _roles(parts: Sequence[Part]) -> str:
    """The table of roles, which is the legend of every chart."""
    written = []
    for part in parts:
        if isinstance(part, Table):
            names = [row.cells[0].text if isinstance(row.cells[0], Text) else "" for row in part.rows]
            known = {role.value.replace("_", " "): f"role-{css_name(role)}" for role in Role}
            written.append(
                table_html(part, caption="Required bytes by role", row_classes=tuple(known.get(n, "") for n in names))
            )
        else:
            written.append(part_html(part))
    return "".join(written)


def _capacity(report: Report) -> str:
    """The roles as one bar beside what the device has."""
    usable = report.verdict.usable_bytes
    resident = report.verdict.resident_bytes
    whole = max(report.required_bytes + resident, 0 if isinstance(usable, Unknown) else usable, 1)
    pieces = [
        f'<span class="piece role-{css_name(role)}" style="--share:{size / whole:.6f}" '
        f'title="{inert(role.value.replace("_", " "))}: {format_bytes(size)}"></span>'
        for role, size in sorted(report.roles.items(), key=lambda pair: -pair[1])
        if size
    ]
    if resident:
        pieces.append(
            f'<span class="piece resident" style="--share:{resident / whole:.6f}" '
            f'title="resident: {format_bytes(resident)}"></span>'
        )
    limit = ""
    if isinstance(usable, int):
        scale = f"of {format_bytes(usable)} usable on {inert(report.device.name)}"
        share = 100 * (report.required_bytes + resident) / usable if usable else 0.0
        said = f"<strong>{share:.1f} %</strong> {scale}"
        if usable < whole:
            limit = f'<span class="limit" style="--at:{usable / whole:.6f}" title="usable"></span>'
    else:
        said = f"Usable memory unknown: {isolated(usable.reason)}."
    return (
        f'<div class="capacity" role="img" aria-label="{inert(format_bytes(report.required_bytes))} required">'
        f'{"".join(pieces)}{limit}</div><p class="quiet capacity-scale">{said}</p>'
    )


def _largest(report: Report) -> str:
    """The largest parts by role and layer: whose the bytes are, at the second glance."""
    parts = sorted((row for row in report.ledger if row.layer), key=lambda row: -row.compiled_bytes)[:_SHOWN_PARTS]
    if not parts:
        return ""
    known = {role.value.replace("_", " "): f"role-{css_name(role)}" for role in Role}
    rows = tuple(
        Row(
            cells=(
                Text(row.layer),
                Text(row.term, "quiet"),
                Size(row.compiled_bytes),
                Percent(100 * row.compiled_bytes / max(report.required_bytes, 1)),
            )
        )
        for row in parts
    )
    columns = (
        Column(title="layer", align="left", flexible="shorten"),
        Column(title="role", align="left"),
        Column(title="bytes"),
        Column(title="share"),
    )
    table = table_html(
        Table(columns=columns, rows=rows),
        caption="The largest parts",
        row_classes=tuple(known.get(row.term, "") for row in parts),
    )
    return f'<div class="largest"><h2>The largest parts</h2>{table}</div>'


# --- places for what the scripts make --------------------------------------------------------------------------------


def _map(report: Report, named: str) -> str:
    if not len(report.buffers):
        return f"<section><h2>Memory over the step</h2><p>{inert(peak_in_words(report))}</p></section>"
    said = f"{named}-map-said"
    return (
        f'<section class="map"><h2>Memory over the step</h2><p id="{said}" class="quiet">{isolated(peak_in_words(report))}'
        " Each box is a buffer, its padding included: from left to right the step, upwards its address, coloured by role."
        "</p>"
        '<div class="tools" role="group" aria-label="Part of the step"></div>'
        f'<div class="chart" data-chart="map" role="img" aria-label="Memory map" aria-describedby="{said}"></div>'
        '<div class="details" data-details aria-live="polite"><p class="quiet">Point at a box, or choose a buffer in the '
        "table below.</p></div></section>"
    )


def _icicle(named: str) -> str:
    return (
        '<section class="peak"><h2>What it is made of</h2>'
        f'<p id="{named}-icicle-said" class="quiet">Required bytes by role, then by module, down to the layer. The same '
        "numbers are in the tables. Choose a part to look into it.</p>"
        '<nav class="crumbs" aria-label="Part that is shown"></nav>'
        f'<div class="chart" data-chart="icicle" role="img" aria-label="Required bytes by role, module and layer" '
        f'aria-describedby="{named}-icicle-said"></div></section>'
    )


def _long_table(named: str, kind: str, heading: str, said: str) -> str:
    identifier = f"{named}-{kind}"
    return (
        f'<section class="long" data-table="{kind}" id="{identifier}"><h2>{heading}</h2><p class="quiet">{said}</p>'
        f"<noscript><p>This table needs scripts.</p></noscript></section>"
    )


def report_button(report: Report, number: int) -> str:
    """What chooses a report: what it is, what it needs, whether that fits."""
    fits = report.verdict.fits
    outcome, mark = (
        ("warning", "?") if isinstance(fits, Unknown) else ("good", "fits") if fits else ("bad", "too large")
    )
    program, _, device = title(report.program, report.device).rpartition(" on ")
    size = ("≥ " if report.required_is_lower_bound else "") + format_bytes(report.required_bytes)
    return (
        f'<button type="button" data-shows="{number}" aria-pressed="{"false" if number else "true"}">'
        f'<span class="what">{isolated(program)}</span> <span class="where">{isolated(device)}</span> '
        f'<span class="size">{size}</span> <span class="{outcome}">{mark}</span></button>'
    )
