"""A page within a notebook: in a frame of its own, that can run its scripts and reach nothing else."""

from jaxmem.report.html.escape import attribute


def framed(page: str, *, height: int) -> str:
    """A whole page as an element for the output of a notebook's cell.

    Args:
        height: in CSS pixels; the page scrolls inside.
    """
    return (
        f'<iframe title="jaxmem report" sandbox="allow-scripts" srcdoc="{attribute(page)}" '
        f'style="width:100%;height:{height}px;border:1px solid #8884;border-radius:6px"></iframe>'
    )
