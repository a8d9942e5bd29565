"""What surrounds the numbers of a report: device, versions, the compiler's own words, the verdict."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxmem.errors import InvariantError
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

NO_LIBTPU = Unknown("libtpu takes no part on this platform")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """The device that the program was compiled for.

    Attributes:
        name: as in ``-d``, e.g. ``cpu`` or ``h100-sxm``.
        platform: ``cpu``, ``cuda`` or ``tpu``.
        memory_bytes: what XLA is told the device has.
        usable_bytes: what a program may take of it.
        device_count: devices the program is spread over; every size is for one of them.
        attached: the device is in this machine, not a description of one.
    """

    name: str
    platform: str
    memory_bytes: int | Unknown
    usable_bytes: int | Unknown
    device_count: int = 1
    attached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What the numbers depend on besides the program. ``compiler_options`` are (name, value) pairs, sorted by name."""

    jaxmem: str
    jax: str | Unknown
    jaxlib: str | Unknown
    libtpu: str | Unknown = NO_LIBTPU
    compiler_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class XlaNumbers:
    """What JAX's ``memory_analysis()`` reports of the compiled program, untouched."""

    argument_bytes: int | Unknown
    output_bytes: int | Unknown
    alias_bytes: int | Unknown
    temp_bytes: int | Unknown
    generated_code_bytes: int | Unknown
    reported_peak_bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenFusion:
    """One fusion that the compiler hands to a library, which allocates unseen. ``bytes`` is its need while it runs."""

    instruction: str
    layer: str
    bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """Memory that the compiler cannot see.

    Attributes:
        bytes: the largest need at any moment; None where it is not known.
        reason: where it comes from, or why it is not known.
        fusions: every opaque fusion of the program, in the order of the schedule.
    """

    bytes: int | None
    reason: str
    fusions: tuple[HiddenFusion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherMemory:
    """A memory beside the main one: an account of its own, never added to it.

    Attributes:
        name: what people call it; ``color`` is XLA's number of the memory space.
        reserved_bytes: what the program's allocations there take.
        live_peak_bytes: the most that is live there at any moment.
    """

    name: str
    color: int
    reserved_bytes: int
    live_peak_bytes: int


@dataclass(frozen=True, slots=True, init=False, eq=False)
class RoleBytes(Mapping[Role, int]):
    """Bytes by role, in the order of `Role`; every role is there, zero where it has nothing.

    ``RoleBytes({Role.PARAMETERS: 12})["parameters"] == 12``.
    """

    sizes: tuple[int, ...]

    def __init__(self, sizes: Mapping[Role, int] | Mapping[str, int]) -> None:
        strangers = [str(key) for key in sizes if key not in _ROLE_POSITION]
        if strangers:
            raise ValueError(f"not a role: {', '.join(strangers)}")
        object.__setattr__(self, "sizes", tuple(sizes.get(role, 0) for role in Role))

    def __getitem__(self, role: str) -> int:
        return self.sizes[_ROLE_POSITION[role]]

    def __iter__(self) -> Iterator[Role]:
        return iter(Role)

    def __len__(self) -> int:
        return len(self.sizes)

    def __hash__(self) -> int:
        return hash(self.sizes)


_ROLE_POSITION: dict[str, int] = {role: position for position, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Does it fit?

    Attributes:
        fits: unknown where the device's memory is.
        judged_bytes: what was held against ``usable_bytes``.
        headroom_bytes: usable minus judged and resident, negative where it does not fit.
        rule: whose check it is, in a sentence.
        assumptions: what was taken for granted, one sentence each.
        limit_bytes: the budget asked for with ``--limit``; None where none was.
        resident_bytes: what else is said to live on the device, with ``--resident``.
    """

    fits: bool | Unknown
    judged_bytes: int
    usable_bytes: int | Unknown
    headroom_bytes: int | Unknown
    rule: str
    assumptions: tuple[str, ...] = ()
    limit_bytes: int | None = None
    resident_bytes: int = 0

    def __post_init__(self) -> None:
        expected = (
            self.usable_bytes
            if isinstance(self.usable_bytes, Unknown)
            else self.usable_bytes - self.judged_bytes - self.resident_bytes
        )
        if isinstance(expected, int) and expected != self.headroom_bytes:
            raise InvariantError(
                f"the headroom is {self.headroom_bytes} B, but usable minus judged and resident is {expected} B."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmVariant:
    """The program compiled with one backend of matrix products, ``triton`` or ``cublas``; unknown where it cannot be."""

    backend: str
    required_bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmRange:
    """What the program needs by the backend of its matrix products, among which XLA would choose on the card.

    Attributes:
        least_bytes, most_bytes: of the variants that are known.
        least, most: the backends of these.
    """

    least_bytes: int
    least: str
    most_bytes: int
    most: str
    variants: tuple[GemmVariant, ...]

    def __post_init__(self) -> None:
        known = {one.backend: one.required_bytes for one in self.variants if isinstance(one.required_bytes, int)}
        ends = (known.get(self.least), known.get(self.most))
        if ends != (self.least_bytes, self.most_bytes) or ends != (min(known.values()), max(known.values())):
            raise InvariantError(f"the range of {self.least_bytes} to {self.most_bytes} B is not that of {known}.")


def gemm_range(variants: tuple[GemmVariant, ...]) -> GemmRange:
    """The range of some variants, at least one of which is known."""
    known = [(one.required_bytes, one.backend) for one in variants if isinstance(one.required_bytes, int)]
    least_bytes, least = min(known, key=lambda one: one[0])
    most_bytes, most = max(known, key=lambda one: one[0])
    return GemmRange(least_bytes=least_bytes, least=least, most_bytes=most_bytes, most=most, variants=variants)


NO_DRIVER = Unknown("the driver was not asked")
NO_POOL = Unknown("no run in JAX's pool was asked for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A real run.

    Attributes:
        bytes: what the program took, arguments included; unknown where the device ran out of memory.
        what: which counter was read.
        error_percent: of ``required_bytes`` against it, positive where the report says more.
        driver_bytes: what the driver says the process held, its own context included.
        runs_in_pool: on a GPU, whether it also ran in the pool that JAX takes at the start.
    """

    bytes: int | Unknown
    what: str
    error_percent: float | Unknown
    driver_bytes: int | Unknown = NO_DRIVER
    runs_in_pool: bool | Unknown = NO_POOL
