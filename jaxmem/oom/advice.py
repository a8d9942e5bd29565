"""What to try, from what the failure shows: sentences with its own numbers, none without a reason in them."""

from collections.abc import Sequence

from jaxmem.result import Failure, LargeBuffer, NamedSize
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown

_CONSIDERABLE = 0.1
"""A part of the need below this is not worth a sentence."""


def advise(
    failure: Failure,
    *,
    requested_bytes: int | Unknown,
    required_bytes: int | Unknown,
    available_bytes: int | Unknown,
    free_bytes: int | Unknown,
    parts: Sequence[NamedSize] = (),
    buffers: Sequence[LargeBuffer] = (),
    contiguous_bytes: int | None = None,
) -> tuple[str, ...]:
    """What to try, the most certain first."""
    sizes = {part.name: part.bytes for part in parts}
    advice = []
    if failure == "host memory":
        return (
            "This is the machine's own memory, not a device's: load less at once (data, checkpoints), or compile "
            "smaller programs beside one another.",
            "`jaxmem report PROGRAM -d cpu` shows what a program needs of it.",
        )
    if contiguous_bytes is not None:
        advice.append(
            f"Enough is free, but in pieces: the largest is {format_bytes(contiguous_bytes)}. Delete arrays that are no "
            "longer used, donate those that are replaced, and make long-lived arrays first."
        )
    known = [size for size in (required_bytes, available_bytes) if isinstance(size, int)]
    if len(known) == 2:
        over = known[0] - known[1]
        if over > 0:
            advice.append(
                f"The program alone needs {format_bytes(over)} more than there is: it must become smaller. "
                "`jaxmem fit PROGRAM -d DEVICE` finds the largest batch that fits, and tries changes."
            )
        elif failure != "TPU compile":
            advice.append(
                f"The program alone would fit ({format_bytes(known[0])} of {format_bytes(known[1])}): other arrays or "
                "programs live on the device. Look for old states and batches that are still referenced."
            )
    elif isinstance(requested_bytes, int) and isinstance(free_bytes, int) and contiguous_bytes is None:
        advice.append(
            f"{format_bytes(requested_bytes)} were asked for and {format_bytes(free_bytes)} were free. "
            "`jaxmem report PROGRAM -d DEVICE` shows what the program needs; the rest is what else lives there."
        )
    results = sizes.get("maybe_live_out allocation", 0)
    if isinstance(required_bytes, int) and results > _CONSIDERABLE * required_bytes:
        advice.append(
            f"{format_bytes(results)} are results beside the arguments. Where a result replaces an argument, donate it "
            "(donate_argnums): it is then written over it."
        )
    padding = sum(buffer.padding_bytes for buffer in buffers)
    if padding > _CONSIDERABLE * sum(buffer.bytes for buffer in buffers):
        widest = max(buffers, key=lambda buffer: buffer.padding_bytes)
        advice.append(
            f"{format_bytes(padding)} of the buffers shown are padding, {format_bytes(widest.padding_bytes)} of it in "
            f"{widest.shape}: a TPU fills the last two dimensions up to multiples of 8 and 128. Put large dimensions last."
        )
    temporary = sizes.get("preallocated temp allocation", sizes.get("HLO temp", 0))
    if isinstance(required_bytes, int) and temporary > required_bytes // 2:
        advice.append(
            f"{format_bytes(temporary)} are temporaries, which mostly scale with the batch: a smaller batch, "
            "accumulated gradients, recomputation (jax.checkpoint) or bfloat16 make them smaller."
        )
    if failure == "GPU run":
        advice.append(
            "JAX takes three quarters of a card and leaves the rest: XLA_CLIENT_MEM_FRACTION=0.9 gives it more."
        )
    if not any("jaxmem fit" in sentence for sentence in advice):
        advice.append("`jaxmem fit PROGRAM -d DEVICE` finds the largest batch that fits, and tries changes.")
    return tuple(advice)
