"""Google's TPUs, as libtpu knows them."""

from dataclasses import dataclass
from itertools import chain, cycle, islice

from jaxmem.devices.data import Device, TpuTarget
from jaxmem.errors import UsageError

_MEMORY = "libtpu's account of the device in its out-of-memory message, what it reserves included (libtpu 0.0.42.1)"
_LIMIT = (
    "libtpu's own limit, for buffers and program code together: from its out-of-memory messages at the border between "
    "programs that compile and programs that do not (libtpu 0.0.42.1)"
)
_TARGET = "libtpu's name of the chip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A generation of TPUs.

    Attributes:
        name, kind: as in `Device`.
        generation, dimensions, devices_per_chip, options: as in `TpuTarget`.
        memory_bytes: of a device as JAX sees it.
        limit_bytes: the most that a program may take of it, its code included. (For a v5p, Google's ``tpu-info`` has
            512 bytes more as the total: 102,803,439,616.)
    """

    name: str
    kind: str
    generation: str
    dimensions: int
    devices_per_chip: int
    memory_bytes: int
    limit_bytes: int
    options: tuple[tuple[str, str], ...] = ()


_GIB = 1 << 30

# fmt: off
CHIPS = (
    Chip(name="tpu-v2", kind="TPU v2, one core", generation="v2", dimensions=2, devices_per_chip=2,
         memory_bytes=8 * _GIB, limit_bytes=8_034_187_776),
    Chip(name="tpu-v3", kind="TPU v3, one core", generation="v3", dimensions=2, devices_per_chip=2,
         memory_bytes=16 * _GIB, limit_bytes=16_624_122_368),
    # The two cores of a v4 chip work as one, "megacore", on Google Cloud.
    Chip(name="tpu-v4", kind="TPU v4", generation="v4", dimensions=3, devices_per_chip=1,
         memory_bytes=32 * _GIB, limit_bytes=33_014_414_848, options=(("chip_config_name", "megacore"),)),
    Chip(name="tpu-v5e", kind="TPU v5e", generation="v5e", dimensions=2, devices_per_chip=1,
         memory_bytes=16 * _GIB, limit_bytes=16_909_336_064),
    Chip(name="tpu-v5p", kind="TPU v5p", generation="v5p", dimensions=3, devices_per_chip=1,
         memory_bytes=96 * _GIB, limit_bytes=102_803_439_104),
    Chip(name="tpu-v6e", kind="TPU v6e (Trillium)", generation="v6e", dimensions=2, devices_per_chip=1,
         memory_bytes=63 * _GIB // 2, limit_bytes=33_550_237_184),
    Chip(name="tpu7x", kind="TPU7x (Ironwood), one core", generation="tpu7x", dimensions=3, devices_per_chip=2,
         memory_bytes=95 * _GIB, limit_bytes=101_732_842_496),
)
# fmt: on


def tpu_chips() -> tuple[Device, ...]:
    """Every TPU of the catalogue."""
    return tuple(
        Device(
            name=chip.name,
            platform="tpu",
            kind=chip.kind,
            memory_bytes=chip.memory_bytes,
            memory_source=_MEMORY,
            usable_bytes=chip.limit_bytes,
            usable_source=_LIMIT,
            target=TpuTarget(
                generation=chip.generation,
                dimensions=chip.dimensions,
                devices_per_chip=chip.devices_per_chip,
                options=chip.options,
            ),
            target_source=_TARGET,
        )
        for chip in CHIPS
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Chips and how they are joined: ``name`` is libtpu's (``v5e:4x4``), ``options`` those of the `TpuTarget`."""

    name: str
    chips_per_host: tuple[int, int, int]
    options: tuple[tuple[str, str], ...]


def topology_of(target: TpuTarget, device_count: int) -> Topology:
    """The most compact network of as many chips as hold the devices.

    A generation whose chips hold two devices each is described by whole chips, one device of which may stay unused.

    Raises:
        UsageError: chips come in powers of two, and this is none.
    """
    chips = -(-device_count // target.devices_per_chip)
    if chips & (chips - 1):
        raise UsageError(
            f"TPU {target.generation} is joined in powers of two; {device_count} devices would need {chips} chips. "
            "Use a number of devices that is a power of two."
        )
    # Which side doubles: 1x2, 2x2, 2x4, 4x4, ... and 1x2x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, ...
    order = cycle((1, 0)) if target.dimensions == 2 else chain((1, 0, 2), cycle((2, 1, 0)))
    sides = [1] * target.dimensions
    for side in islice(order, chips.bit_length() - 1):
        sides[side] *= 2
    hosts = (min(sides[0], 2), min(sides[1], 2), 1)
    return Topology(
        name=f"{target.generation}:{'x'.join(map(str, sides))}", chips_per_host=hosts, options=target.options
    )
