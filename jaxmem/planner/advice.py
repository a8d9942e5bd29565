"""Advice that was tried: each change is compiled and laid beside the program without it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxmem.errors import JaxmemError
from jaxmem.result import Advice
from jaxmem.unknown import Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One compiled variant: what it needs, whether that fits, and what it computes (see `matrix_flops`)."""

    required_bytes: int
    fits: bool
    flops: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A change that can be tried.

    Attributes:
        change, how, note: as in `Advice`.
        compile: compiles the changed program.
    """

    change: str
    how: str
    compile: Callable[[], Tried]
    note: str = ""


def advise(before: Tried, changes: Iterable[Changed]) -> tuple[Advice, ...]:
    """Compile every change; those that save most come first, those that fail last.

    A change that cannot be compiled is an answer too: the program without it is not touched by that.
    """
    return tuple(sorted((_tried(before, change) for change in changes), key=_order))


def _tried(before: Tried, change: Changed) -> Advice:
    try:
        after = change.compile()
    except JaxmemError as error:
        failure = Unknown(f"it did not compile: {str(error).splitlines()[0]}")
        return Advice(
            change=change.change,
            how=change.how,
            before_bytes=before.required_bytes,
            after_bytes=failure,
            saved_bytes=failure,
            extra_flops=failure,
            helps=False,
            fits=False,
            note=change.note,
        )
    saved_bytes = before.required_bytes - after.required_bytes
    return Advice(
        change=change.change,
        how=change.how,
        before_bytes=before.required_bytes,
        after_bytes=after.required_bytes,
        saved_bytes=saved_bytes,
        extra_flops=_extra(before.flops, after.flops),
        helps=saved_bytes > 0,
        fits=after.fits,
        note=change.note,
    )


def _extra(before: int | Unknown, after: int | Unknown) -> int | Unknown:
    if isinstance(before, Unknown):
        return before
    return after if isinstance(after, Unknown) else after - before


def _order(advice: Advice) -> tuple[bool, int]:
    known = isinstance(advice.saved_bytes, int)
    return not known, -advice.saved_bytes if isinstance(advice.saved_bytes, int) else 0
