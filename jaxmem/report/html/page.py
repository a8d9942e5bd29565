"""One HTML file that needs nothing beside itself: the frame around documents and charts, its styles, scripts, and policy.

The policy in the page's head lets exactly the scripts run that are in it, and nothing be loaded from anywhere.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from jaxmem.report.html.escape import inert, packed
from jaxmem.report.html.palette import swatches, variables

_STYLES = ("page.css", "report.css")
_SCRIPTS = tuple(f"{name}.js" for name in "data format occupancy details map icicle tables reports".split())
_THEME_SCRIPT = "theme.js"


def html_page(title: str, body: str, *, navigation: str = "", data: Any = None, libraries: Sequence[str] = ()) -> str:
    """A whole page.

    Args:
        title: of the window; plain text.
        body: what stands in its main part, as HTML.
        navigation: what stands beside the name of jaxmem at the top, as HTML.
        data: JSON values for the scripts; None for a page without charts.
        libraries: sources of foreign scripts, before those of the page.
    """
    scripts = [_asset(_THEME_SCRIPT)]
    if data is not None:
        own = "\n".join(map(_asset, _SCRIPTS))
        scripts += [*libraries, f'(() => {{\n"use strict";\n{own}\n}})();']
    carried = "" if data is None else f'<script type="text/plain" id="jaxmem-data">{packed(data)}</script>'
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{inert(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{_styles()}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#main">Skip to the report</a>',
            '<header class="bar"><span class="brand">jaxmem</span>',
            navigation,
            '<button type="button" id="theme" aria-pressed="false">Dark</button></header>',
            f'<main id="main" tabindex="-1">{body}</main>',
            carried,
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
        )
    )


def _policy(scripts: Iterable[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    # BokehJS makes style sheets of its own while it draws.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _styles() -> str:
    dark = variables(dark=True)
    return "\n".join(
        (
            f":root{{{variables(dark=False)}}}",
            f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}",
            f":root[data-theme=dark]{{{dark}}}",
            *map(_asset, _STYLES),
            swatches(),
        )
    )


def _asset(name: str) -> str:
    return files("jaxmem.report.html").joinpath("assets", name).read_text(encoding="utf-8").strip()
