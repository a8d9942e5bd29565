"""What is measured, and how it is kept."""

from dataclasses import dataclass

from benchmarks.overhead import Spent, middle
from benchmarks.records import RESULTS, Setting

FILE = RESULTS / "estimate_speed.json"
COMPILE_LIMIT = 600.0
"""Seconds by the clock after which a compile is given up. What it has taken by then is written down."""
BEYOND_LIMIT, SHARE_LIMIT = 1.0, 0.1
"""What is asked for: seconds beyond the import of JAX (VGG-16), and the share of the compile."""

PROGRAMS: tuple[tuple[str, ...], ...] = (
    ("vgg16", "--mode", "train"),
    ("vgg16", "--mode", "train", "-d", "h100-sxm"),
    ("llama3_8b", "--mode", "infer", "--dtype", "bfloat16"),
    ("llama3_8b", "--mode", "train", "-b", "1", "--dtype", "mixed", "--remat", "blocks"),
    ("llama3_8b", "--mode", "train", "-b", "1", "--dtype", "mixed", "--remat", "blocks", "--set", "scan=True"),
    ("gpt2_xl", "--mode", "train", "-b", "1"),
)
"""Arguments of ``jaxmem estimate``."""

BLOCKS = 12
DEPTHS = tuple(BLOCKS * times for times in (1, 2, 4, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRow:
    """One program; what has one item for each round is a tuple.

    Attributes:
        import_jax, estimate, cached: whole processes; the estimate is derived, or found in the cache.
        inside: the estimate without what it imports.
        compiled: the whole process of the one compile by JAX alone; None where it was given up, has not been tried, or is for
            a device that JAX alone does not compile for here.
        compiled_inside: the same without what it imports.
        reported: the whole process of one ``jaxmem report`` without its cache.
        gave_up: what a compile by JAX alone had taken when it was given up, after COMPILE_LIMIT.
    """

    arguments: tuple[str, ...]
    import_jax: tuple[Spent, ...] = ()
    estimate: tuple[Spent, ...] = ()
    cached: tuple[Spent, ...] = ()
    inside: tuple[Spent, ...] = ()
    compiled: Spent | None = None
    compiled_inside: Spent | None = None
    reported: Spent | None = None
    gave_up: Spent | None = None

    @property
    def is_for_cpu(self) -> bool:
        """Whether JAX alone can compile it here."""
        return "-d" not in self.arguments

    @property
    def is_known(self) -> bool:
        """Whether the compile that the estimate saves has been measured, or given up."""
        return self.gave_up is not None or self.reported is not None

    @property
    def ratio(self) -> Spent:
        """Of the estimate to the import."""
        return middle(ours.over(theirs) for ours, theirs in zip(self.estimate, self.import_jax, strict=True))

    @property
    def beyond(self) -> Spent:
        """Seconds of the estimate beyond the import."""
        return middle(ours - theirs for ours, theirs in zip(self.estimate, self.import_jax, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRow:
    """GPT-2 with so many blocks; one item of ``estimate`` for each round."""

    depth: int
    operations: int = 0
    estimate: tuple[Spent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows. ``load`` is the highest load average of the system as the command began: what else the machine did."""

    setting: Setting
    date: str
    load: float
    programs: tuple[ProgramRow, ...] = tuple(ProgramRow(arguments=arguments) for arguments in PROGRAMS)
    depths: tuple[DepthRow, ...] = tuple(DepthRow(depth=depth) for depth in DEPTHS)
