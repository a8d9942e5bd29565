"""The page of a dump folder: one table of its modules."""

from jaxmem.report.document import Cell, Column, Document, Heading, Missing, Paragraph, Row, Table, Text
from jaxmem.report.phrases import file_name, known_or_missing
from jaxmem.result import DumpedModule, DumpFolder
from jaxmem.unknown import Unknown

_COLUMNS = (
    Column(title="module", align="left", flexible="shorten"),
    Column(title="platform", align="left"),
    Column(title="live peak"),
    Column(title="reserved"),
    Column(title="file", align="left", flexible="wrap"),
)


def dump_folder_page(folder: DumpFolder) -> Document:
    """The page of a dump folder; why a file cannot be read stands below its row."""
    return Document(
        (
            Heading(f"{len(folder.modules)} compiled modules in {file_name(folder.folder.rstrip('/'))}", 1),
            Table(columns=_COLUMNS, rows=tuple(map(_row, folder.modules))),
            Paragraph((Text("One of them: jaxmem report FILE", "quiet"),)),
        )
    )


def _row(module: DumpedModule) -> Row:
    cells = (
        _text(module.module),
        _text(module.platform),
        known_or_missing(module.live_peak_bytes),
        known_or_missing(module.reserved_bytes),
        Text(module.file),
    )
    unread = module.reserved_bytes
    return Row(cells=cells, notes=(unread.reason,) if isinstance(unread, Unknown) else ())


def _text(text: str | Unknown) -> Cell:
    return Missing(text.reason) if isinstance(text, Unknown) else Text(text)
