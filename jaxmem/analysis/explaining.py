"""An out-of-memory error of one's own run, explained where it is raised."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jaxmem.oom import advise, explain_message, recognizes
from jaxmem.result import LargeBuffer, NamedSize, OutOfMemory, Report
from jaxmem.unknown import Unknown

_SHOWN = 12
_WIDTH = 100


@contextmanager
def explain_oom(fn: Any, /, *args: Any, device: str | None = None, **keywords: Any) -> Iterator[None]:
    """Explain an out-of-memory error that is raised inside the ``with`` block, and raise it again.

        with jaxmem.explain_oom(train_step, state, batch):
            state, loss = jax.block_until_ready(train_step(state, batch))

    JAX hands work over and goes on; the error comes where a result is waited for, and that must be inside the block.
    Where memory runs out, the function is compiled once more and analysed; what it needs, its largest buffers by role and
    layer, and what to try become a note of the error (`BaseException.add_note`), which Python prints below it. Without such
    an error nothing is done at all.

    Args:
        fn: the function that runs in the block, and its arguments, as in `jaxmem.analyze`.
        device: as in ``jaxmem devices``; by default the one that JAX runs on.
        keywords: as in `jaxmem.analyze`.
    """
    try:
        yield
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        if not recognizes(message):
            raise
        from jaxmem.report import as_text

        error.add_note(as_text(_explained(message, fn, args, device, keywords), width=_WIDTH))
        raise


def _explained(
    message: str, fn: Any, args: tuple[Any, ...], device: str | None, keywords: dict[str, Any]
) -> OutOfMemory:
    """The message, with what the program itself tells; never an error that hides the one explained."""
    said = explain_message(message)
    from jaxmem.analysis import analyze

    try:
        report = analyze(fn, *args, device=device or _running_on(), **keywords)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return replace(said, notes=(*said.notes, f"The program itself could not be analysed: {first}"))
    return _with_report(said, report)


def _running_on() -> str:
    import jax

    return "cpu" if jax.default_backend() == "cpu" else "attached"


def _with_report(said: OutOfMemory, report: Report) -> OutOfMemory:
    """What the message says of its own moment, and what the compiled program says of the rest."""
    available = report.verdict.usable_bytes if isinstance(said.available_bytes, Unknown) else said.available_bytes
    buffers = tuple(
        LargeBuffer(
            bytes=row.bytes,
            padding_bytes=max(0, row.bytes - row.logical_bytes),
            role=row.role,
            layer=row.layer,
            phase=row.phase,
            operation=row.opcode,
            source=row.source,
            shape=f"{row.dtype}[{','.join(map(str, row.shape))}]",
        )
        for row in report.peak_buffers[:_SHOWN]
    )
    required = report.required_bytes
    hidden = "at least " if report.required_is_lower_bound else ""
    return replace(
        said,
        program=report.program.name,
        required_bytes=required,
        available_bytes=available,
        parts=tuple(
            NamedSize(name=role.value.replace("_", " "), bytes=size) for role, size in report.roles.items() if size
        ),
        buffers=buffers,
        advice=advise(
            said.failure if said.failure != "host memory" else "CPU run",
            requested_bytes=said.requested_bytes,
            required_bytes=required,
            available_bytes=available,
            free_bytes=said.free_bytes,
            buffers=buffers,
        ),
        notes=(
            f"What the program needs is {hidden}what `jaxmem report` says of it, compiled for {report.device.name}.",
            "Among its arguments are arrays that exist already.",
        ),
    )
