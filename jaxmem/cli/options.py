"""Options that several commands share, and how their values are read."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxmem.difference import Tolerance

from jaxmem.cli.output import FORMATS, SUFFIXES


def add_program_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """PROGRAM and what makes its variants. ``several`` programs and batch sizes arrive as sequences."""
    parser.add_argument(
        "program",
        metavar="PROGRAM",
        nargs="+" if several else None,
        help="zoo name, module:attribute, file.py:attribute, *.jaxmem" + ("" if several else ", *.json, *.hlo.pb"),
    )
    add_variant_options(parser, several=several)


def add_variant_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """What makes the variants of a program, and the devices it is compiled for."""
    group = parser.add_argument_group("the program")
    group.add_argument(
        "--mode", choices=("train", "infer", "both"), help="zoo: training step, inference (default: both)"
    )
    group.add_argument(
        "-b",
        "--batch-size",
        metavar="N[,N]" if several else "N",
        type=positive_integers if several else positive_integer,
        help="batch size (default: train 32, infer 1)",
    )
    group.add_argument("--optimizer", metavar="NAME", help="adam, adamw, sgd, momentum, ... (default: adam)")
    group.add_argument("--dtype", metavar="NAME", help="float32, bfloat16 or mixed (default: float32)")
    group.add_argument(
        "--image-size", metavar="N", type=positive_integer, help="height and width (default: the paper's)"
    )
    group.add_argument("--no-donate", action="store_true", help="keep the old state beside the new one")
    group.add_argument(
        "--remat", metavar="POLICY", help="compute again in the backward pass instead of keeping: blocks, dots, offload"
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="settings",
        type=key_value,
        action="append",
        default=[],
        help="keyword argument of the program's callable (repeatable)",
    )
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """What to compile for, and how many of it."""
    group = parser.add_argument_group("the device")
    group.add_argument("-d", "--device", metavar="NAME[,NAME]", type=names, help="what to compile for (default: cpu)")

    group.add_argument(
        "--devices", metavar="N", type=positive_integer, help="several of that device; every size is for one of them"
    )
    group.add_argument(
        "--mesh", metavar="AXIS=N[,AXIS=N]", type=mesh_axes, help="how they are arranged (default: data=N)"
    )
    group.add_argument(
        "--sharding",
        choices=("data", "fsdp"),
        help="zoo: divide the batch among them, or the model and optimizer too (default: data)",
    )


def add_compiler_options(parser: argparse.ArgumentParser, *, gemm: tuple[str, ...] = ("triton", "cublas")) -> None:
    """What only a compile needs. ``gemm`` are the choices of that option."""
    group = parser.add_argument_group("the compiler")
    group.add_argument(
        "--compiler-option",
        metavar="KEY=VALUE",
        dest="compiler_options",
        type=key_value,
        action="append",
        default=[],
        help="handed to XLA (repeatable)",
    )
    group.add_argument(
        "--gemm",
        choices=gemm,
        help="GPU: whose matrix products"
        + ("; both: also the range of required bytes, by a second compile" if "both" in gemm else "")
        + " (default: XLA's choice)",
    )
    group.add_argument(
        "--autotune-results",
        metavar="FILE",
        type=Path,
        help="GPU: what XLA measured on the card, written there with xla_gpu_dump_autotune_results_to; used for the "
        "operations in it, whose card, cuDNN and jaxlib are the same; without the card nothing can be measured anew",
    )
    add_cache_option(group, "compile even if this program was compiled before")


def add_cache_option(parser: argparse._ActionsContainer, help: str) -> None:
    """Work done before is done again."""
    parser.add_argument("--no-cache", action="store_true", help=help)


def add_usable_options(parser: argparse._ActionsContainer) -> None:
    """How much of the device the program may take."""
    parser.add_argument(
        "--memory-fraction",
        metavar="F",
        type=fraction,
        help="GPU: what JAX's allocator takes of the card, XLA_PYTHON_CLIENT_MEM_FRACTION (default: 0.75)",
    )
    parser.add_argument(
        "--resident", metavar="SIZE", type=size, default=0, help="what else lives on the device (default: 0)"
    )


def add_format_option(parser: argparse._ActionsContainer) -> None:
    """The form of the answer."""
    by_name = ", ".join(f"{form} where FILE ends in {suffix}" for suffix, form in SUFFIXES.items())
    parser.add_argument("--format", choices=FORMATS, help=f"form of the answer (default: text, or {by_name})")


def add_catalogue_format_option(parser: argparse._ActionsContainer) -> None:
    """The form of a catalogue."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help="form of the list (default: text)")


def add_output_options(parser: argparse.ArgumentParser, *, file_help: str) -> argparse._ArgumentGroup:
    """Where the answer goes and how much is said."""
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", metavar="FILE", type=Path, help=file_help)
    group.add_argument("--force", action="store_true", help="replace an existing file")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing on the way")
    return group


def positive_integer(text: str) -> int:
    """``"32"`` → 32; anything below 1 is refused."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1; the smallest is 1")
    return value


def positive_integers(text: str) -> tuple[int, ...]:
    """``"8,32"`` → both, each once."""
    return tuple(dict.fromkeys(positive_integer(part) for part in text.split(",")))


def positive_number(text: str) -> float:
    """``"90"`` or ``"1.5"``; what is not above 0 is refused."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time to wait; write a number above 0")
    return value


def fraction(text: str) -> float:
    """``"0.9"`` → 0.9; above 0 and at most 1."""
    from jaxmem.devices import refuse_bad_fraction

    value = _number(text)
    with _refused_as_value():
        refuse_bad_fraction(value)
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def key_value(text: str) -> tuple[str, str]:
    """``"key=value"`` → ``("key", "value")``; the value may hold further equals signs."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key.strip(), value


def mesh_axes(text: str) -> tuple[tuple[str, int], ...]:
    """``"data=4,model=2"`` → ``(("data", 4), ("model", 2))``."""
    axes = tuple(key_value(part) for part in text.split(","))
    if len({axis for axis, _ in axes}) < len(axes):
        raise argparse.ArgumentTypeError(f"{text!r} has an axis twice")
    return tuple((axis, positive_integer(size)) for axis, size in axes)


def names(text: str) -> tuple[str, ...]:
    """``"cpu,h100-sxm"`` → both, each once."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} names nothing between two commas, or nothing at all")
    return found


def tolerance(text: str) -> "Tolerance":
    """``"64MiB"`` or ``"1%"`` → how much a program may grow."""
    from jaxmem.difference import parse_tolerance

    with _refused_as_value():
        return parse_tolerance(text)


def size(text: str) -> int:
    """``"2GiB"`` → bytes."""
    from jaxmem.units import parse_bytes

    with _refused_as_value():
        return parse_bytes(text)


@contextmanager
def _refused_as_value() -> Iterator[None]:
    """What a reader refuses is the value of an option, and its message names the option."""
    from jaxmem.errors import UsageError

    try:
        yield
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
