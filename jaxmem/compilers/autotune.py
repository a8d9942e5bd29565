"""Recorded autotune results: what XLA measured on a card, handed to a compile that has no card.

On a card XLA times several implementations of each matrix product and convolution, and keeps the fastest, whose
workspace is memory. Without one it takes a default, except for the operations that a file of results names. XLA takes
an entry of the file only where three things are equal to the letter: its description of the card with the version of
cuDNN, the operation, and its own version of the entries. It does not tell which it took, so its log is asked.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxmem.devices import CudaTarget
from jaxmem.errors import InputError
from jaxmem.files import read_bounded
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION

LOG = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "autotuner_pass=1"}
"""Variables under which XLA logs how many operations it found in the results (``autotuner_pass.cc``)."""

_LIMIT_BYTES = 256 * 2**20
_CARD = re.compile(rb"CUDA: (?:(?!CUDA: )[ -~]){0,300}?, DNN version: (\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_FOUND = re.compile(r"Autotuner cache stats: hits=(\d+), misses=(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A file of results, as far as jaxmem looks into it.

    Attributes:
        file: where it is, absolute.
        cards: each card it speaks of, in XLA's words, with its version of cuDNN; the most frequent first.
        cudnn: that version of the first card; None where the file names no card.
    """

    file: Path
    cards: tuple[str, ...]
    cudnn: tuple[int, int, int] | None

    def on(self, target: CudaTarget) -> CudaTarget:
        """The card described with the cuDNN of the recording, of which a card that is not there has none."""
        if self.cudnn is None or "dnn_version_info" in target.description:
            return target
        major, minor, patch = self.cudnn
        version = f"dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}"
        return CudaTarget(description=f"{target.description.rstrip()}\n{version}\n")


def read_recorded(compiler_options: Iterable[tuple[str, str]]) -> Recorded | None:
    """The file that the options name; None where they name none.

    Raises:
        InputError: it cannot be read.
    """
    name = dict(compiler_options).get(AUTOTUNE_RESULTS_OPTION)
    if name is None:
        return None
    content = read_bounded(name, limit_bytes=_LIMIT_BYTES, what="The autotune results")
    cards = Counter(match[0] for match in _CARD.finditer(content)).most_common()
    first = _CARD.fullmatch(cards[0][0]) if cards else None
    return Recorded(
        file=Path(name).absolute(),
        cards=tuple(card.decode() for card, _ in cards),
        cudnn=(int(first[1]), int(first[2]), int(first[3])) if first else None,
    )


def found_in(log: str) -> tuple[int, int]:
    """Of how many operations XLA found results, and of how many it looked for them."""
    counts = [(int(match[1]), int(match[2])) for match in _FOUND.finditer(log)]
    hits = sum(hit for hit, _ in counts)
    return hits, hits + sum(miss for _, miss in counts)


def not_read(recorded: Recorded, failure: str) -> InputError:
    """The error for a file that XLA refuses."""
    return InputError(
        f"XLA does not read the autotune results {recorded.file}: {failure}\n"
        "They are written on a machine with the card, by the same version of jaxlib, with the compiler option "
        "xla_gpu_dump_autotune_results_to; XLA takes a file for text where its name ends in .txt or .textproto, else for "
        "binary."
    )


def none_found(recorded: Recorded, device: str, wanted: int) -> InputError:
    """The error for a file that has nothing on this program."""
    cards = "; ".join(recorded.cards) or "none"
    return InputError(
        f"XLA found none of the {wanted} operations that it looked for in the autotune results {recorded.file}. An entry "
        f"is taken for the same operation on a card of the same description alone. Cards in the file: {cards}. Compiled "
        f"for: {device}. Record this very program on that card, with the same version of jaxlib."
    )
