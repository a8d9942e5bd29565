"""The one leaf in which text becomes HTML.

Names come from programs and from other people's files. Here they lose whatever would act on a browser; nothing else in
this room writes a text into a page, and the scripts of the page set text only as text.
"""

import base64
import gzip
import html
import json
import re
from typing import Any

from jaxmem.report.spelling import shortened, visible

LONGEST = 2000
"""Nobody reads more of a name; a scope may have ten thousand characters."""

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def inert(text: str) -> str:
    """The text as HTML that shows exactly this text, in an element as in a quoted attribute."""
    return html.escape(visible(text), quote=True)


def isolated(text: str) -> str:
    """As `inert`, of readable length, and a text from right to left does not turn what stands beside it."""
    safe = inert(shortened(visible(text), LONGEST))
    return f"<bdi>{safe}</bdi>" if _NOT_ASCII.search(safe) else safe


def attribute(page: str) -> str:
    """A whole page of HTML as the value of a quoted attribute: unlike in `inert`, every character of it stays."""
    return html.escape(page, quote=True)


def packed(data: Any) -> str:
    """JSON values as text without a single character of HTML: compressed, in base 64."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")
