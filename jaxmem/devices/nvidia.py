"""NVIDIA cards: those that XLA describes itself, and common ones that it does not.

`XLA_CARDS` carries XLA's own descriptions over (``xla/backends/gpu/target_config/specs/*.txtpb`` of August 2026).
`DERIVED_CARDS` are put together: what a compute capability decides comes from the table of the CUDA C++ Programming
Guide ("Technical specifications per compute capability"), the rest from what CUDA reports of the card, or its data
sheet.
"""

from dataclasses import dataclass

from jaxmem.devices.data import CudaTarget, Device
from jaxmem.devices.memory_fraction import DEFAULT_MEMORY_FRACTION, fraction_of

_SPECIFICATIONS = "XLA's description of the card, xla/backends/gpu/target_config/specs"
_DERIVED = (
    "derived, because XLA has no description of this card: what its compute capability decides from the CUDA C++ "
    "Programming Guide, the rest from what CUDA reports of it and from NVIDIA's data sheet"
)
_CUDA_REPORTS = "total that CUDA reports of a card in use; it differs by some MiB with the driver"
_NVIDIA_SMI = "total that nvidia-smi shows, of which the driver keeps some hundred MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeCapability:
    """What a compute capability decides, for one streaming multiprocessor.

    Attributes:
        name: ``8.9``; with an ``a`` where the code may use what only this very generation has.
        fpus: units for single precision.
        shared_memory_bytes: of a multiprocessor.
        optin_bytes: the most that one block may take.
        threads: the most that are resident.
    """

    name: str
    fpus: int
    shared_memory_bytes: int
    optin_bytes: int
    threads: int


_KIB, _MIB = 1 << 10, 1 << 20

# fmt: off
CAPABILITIES = (
    ComputeCapability(name="6.0", fpus=64, shared_memory_bytes=64 * _KIB, optin_bytes=48 * _KIB, threads=2048),
    ComputeCapability(name="7.0", fpus=64, shared_memory_bytes=96 * _KIB, optin_bytes=96 * _KIB, threads=2048),
    ComputeCapability(name="7.5", fpus=64, shared_memory_bytes=64 * _KIB, optin_bytes=64 * _KIB, threads=1024),
    ComputeCapability(name="8.0", fpus=64, shared_memory_bytes=164 * _KIB, optin_bytes=163 * _KIB, threads=2048),
    ComputeCapability(name="8.6", fpus=128, shared_memory_bytes=100 * _KIB, optin_bytes=99 * _KIB, threads=1536),
    ComputeCapability(name="8.9", fpus=128, shared_memory_bytes=100 * _KIB, optin_bytes=99 * _KIB, threads=1536),
    ComputeCapability(name="9.0a", fpus=128, shared_memory_bytes=228 * _KIB, optin_bytes=227 * _KIB, threads=2048),
    ComputeCapability(name="10.0a", fpus=128, shared_memory_bytes=228 * _KIB, optin_bytes=227 * _KIB, threads=2048),
    ComputeCapability(name="10.3", fpus=128, shared_memory_bytes=228 * _KIB, optin_bytes=227 * _KIB, threads=2048),
    ComputeCapability(name="10.3a", fpus=128, shared_memory_bytes=228 * _KIB, optin_bytes=227 * _KIB, threads=2048),
    ComputeCapability(name="12.0", fpus=128, shared_memory_bytes=100 * _KIB, optin_bytes=99 * _KIB, threads=1536),
)
# fmt: on
"""The table of the guide. XLA's own descriptions agree with it, but for the shared memory of `rtx6000pro`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What tells one card from another of its compute capability.

    Attributes:
        name: as in ``-d``.
        kind: as CUDA names it.
        capability: name of its `ComputeCapability`.
        multiprocessors: streaming multiprocessors.
        bandwidth: of the memory, bytes a second.
        l2_bytes: second-level cache.
        clock_ghz: of the multiprocessors, boosted.
        memory_bytes: the total, as CUDA sees it; ``memory_source`` says who says so.
        shared_memory_bytes: of a multiprocessor, where a description differs from the guide; None for the guide's.
        source: of the other numbers.
    """

    name: str
    kind: str
    capability: str
    multiprocessors: int
    bandwidth: int
    l2_bytes: int
    clock_ghz: float
    memory_bytes: int
    memory_source: str = _SPECIFICATIONS
    shared_memory_bytes: int | None = None
    source: str = _SPECIFICATIONS


# fmt: off
XLA_CARDS = (
    Card(name="p100", kind="Tesla P100-SXM2-16GB", capability="6.0", multiprocessors=56,
         bandwidth=732_160_000_000, l2_bytes=4_194_304, clock_ghz=1.4805, memory_bytes=17_066_885_120),
    Card(name="v100-16", kind="Tesla V100-SXM2-16GB", capability="7.0", multiprocessors=80,
         bandwidth=898_048_000_000, l2_bytes=6_291_456, clock_ghz=1.53, memory_bytes=16_935_682_048),
    Card(name="a100-sxm-40", kind="NVIDIA A100-SXM4-40GB", capability="8.0", multiprocessors=108,
         bandwidth=1_555_200_000_000, l2_bytes=41_943_040, clock_ghz=1.41, memory_bytes=42_331_013_120),
    Card(name="a100-sxm-80", kind="NVIDIA A100-SXM4-80GB", capability="8.0", multiprocessors=108,
         bandwidth=2_039_040_000_000, l2_bytes=41_943_040, clock_ghz=1.41, memory_bytes=85_100_068_864),
    Card(name="a100-pcie-80", kind="NVIDIA A100 80GB PCIe", capability="8.0", multiprocessors=108,
         bandwidth=2_039_000_000_000, l2_bytes=41_943_040, clock_ghz=1.1105, memory_bytes=79_050_250_240),
    Card(name="a6000", kind="NVIDIA RTX A6000", capability="8.6", multiprocessors=84,
         bandwidth=768_096_000_000, l2_bytes=6_291_456, clock_ghz=1.8, memory_bytes=51_041_271_808),
    Card(name="h100-sxm", kind="NVIDIA H100 80GB HBM3", capability="9.0a", multiprocessors=132,
         bandwidth=3_352_320_000_000, l2_bytes=52_428_800, clock_ghz=1.98, memory_bytes=84_942_979_072),
    Card(name="h100-pcie", kind="NVIDIA H100 PCIe", capability="9.0a", multiprocessors=114,
         bandwidth=2_039_040_000_000, l2_bytes=52_428_800, clock_ghz=1.755, memory_bytes=84_942_979_072),
    Card(name="h200", kind="NVIDIA H200 141GB HBM3e", capability="9.0a", multiprocessors=132,
         bandwidth=4_800_000_000_000, l2_bytes=52_428_800, clock_ghz=1.98, memory_bytes=151_397_597_184),
    Card(name="b200", kind="NVIDIA B200", capability="10.0a", multiprocessors=148,
         bandwidth=7_672_320_000_000, l2_bytes=132_644_864, clock_ghz=1.965, memory_bytes=191_514_411_008),
    Card(name="gb200", kind="NVIDIA GB200", capability="10.0a", multiprocessors=152,
         bandwidth=7_928_064_000_000, l2_bytes=135_528_448, clock_ghz=2.062, memory_bytes=197_897_748_480),
    Card(name="b300", kind="NVIDIA B300", capability="10.3", multiprocessors=158,
         bandwidth=7_936_000_000_000, l2_bytes=135_528_448, clock_ghz=1.965, memory_bytes=297_021_865_984),
    Card(name="gb300", kind="NVIDIA GB300", capability="10.3a", multiprocessors=152,
         bandwidth=7_928_064_000_000, l2_bytes=135_528_448, clock_ghz=2.07, memory_bytes=297_021_079_552),
    Card(name="rtx6000pro", kind="NVIDIA RTX PRO 6000 Blackwell", capability="12.0", multiprocessors=188,
         bandwidth=1_792_000_000_000, l2_bytes=134_217_728, clock_ghz=2.6,
         memory_bytes=103_079_215_104, shared_memory_bytes=128 * _KIB),
)

DERIVED_CARDS = (
    Card(name="t4", kind="Tesla T4", capability="7.5", multiprocessors=40,
         bandwidth=320_064_000_000, l2_bytes=4 * _MIB, clock_ghz=1.59, memory_bytes=15_655_829_504,
         memory_source=_CUDA_REPORTS, source=_DERIVED),
    Card(name="rtx-3090", kind="NVIDIA GeForce RTX 3090", capability="8.6", multiprocessors=82,
         bandwidth=936_096_000_000, l2_bytes=6 * _MIB, clock_ghz=1.695, memory_bytes=24259 * _MIB,
         memory_source=_CUDA_REPORTS, source=_DERIVED),
    Card(name="a10g", kind="NVIDIA A10G", capability="8.6", multiprocessors=80,
         bandwidth=600_096_000_000, l2_bytes=6 * _MIB, clock_ghz=1.71, memory_bytes=22587 * _MIB,
         memory_source=_CUDA_REPORTS, source=_DERIVED),
    Card(name="l4", kind="NVIDIA L4", capability="8.9", multiprocessors=58,
         bandwidth=300_096_000_000, l2_bytes=48 * _MIB, clock_ghz=2.04, memory_bytes=23034 * _MIB,
         memory_source=_NVIDIA_SMI, source=_DERIVED),
    Card(name="l40s", kind="NVIDIA L40S", capability="8.9", multiprocessors=142,
         bandwidth=864_096_000_000, l2_bytes=96 * _MIB, clock_ghz=2.52, memory_bytes=45589 * _MIB,
         memory_source=_CUDA_REPORTS, source=_DERIVED),
    Card(name="rtx-4090", kind="NVIDIA GeForce RTX 4090", capability="8.9", multiprocessors=128,
         bandwidth=1_008_096_000_000, l2_bytes=72 * _MIB, clock_ghz=2.52, memory_bytes=24564 * _MIB,
         memory_source=_NVIDIA_SMI, source=_DERIVED),
    Card(name="rtx-5090", kind="NVIDIA GeForce RTX 5090", capability="12.0", multiprocessors=170,
         bandwidth=1_792_128_000_000, l2_bytes=96 * _MIB, clock_ghz=2.407, memory_bytes=33_677_180_928,
         memory_source=_CUDA_REPORTS, source=_DERIVED),
)
# fmt: on


def cuda_cards() -> tuple[Device, ...]:
    """Every card of the catalogue."""
    return (
        *(card_device(card) for card in XLA_CARDS),
        *(card_device(card, derived=True) for card in DERIVED_CARDS),
    )


def card_device(card: Card, *, derived: bool = False) -> Device:
    """A card as a device."""
    return cuda_device(
        name=card.name,
        kind=card.kind,
        memory_bytes=card.memory_bytes,
        memory_source=card.memory_source,
        description=describe(card),
        target_source=card.source,
        derived=derived,
    )


def cuda_device(
    *,
    name: str,
    kind: str,
    memory_bytes: int,
    memory_source: str,
    description: str,
    target_source: str,
    derived: bool = False,
    attached: bool = False,
) -> Device:
    """A card with its target description as a device; usable is what JAX's allocator takes by default."""
    return Device(
        name=name,
        platform="cuda",
        kind=kind,
        memory_bytes=memory_bytes,
        memory_source=memory_source,
        usable_bytes=fraction_of(memory_bytes, DEFAULT_MEMORY_FRACTION),
        usable_source=f"{DEFAULT_MEMORY_FRACTION:.0%} of the memory: what JAX's allocator takes by default",
        target=CudaTarget(description=description),
        target_source=target_source,
        derived=derived,
        attached=attached,
    )


def find_capability(name: str) -> ComputeCapability | None:
    """The compute capability of that name, ``8.9`` or ``9.0a``; None where the table has none."""
    return next((each for each in CAPABILITIES if each.name == name), None)


def describe(card: Card) -> str:
    """The target description of a card, as text.

    The fields are those that every supported XLA reads. Without the warp and the block dimensions XLA divides by zero,
    without the capability or the shared memory it does not compile, and all others but the registers change the memory
    that a program takes.
    """
    capability = find_capability(card.capability)
    assert capability is not None, card.capability
    major, minor = capability.name.rstrip("a").split(".")
    feature = "    feature_extension: ACCELERATED_FEATURES\n" if capability.name.endswith("a") else ""
    return f"""\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared_memory_bytes or capability.shared_memory_bytes}
  threads_per_core_limit: {capability.threads}
  core_count: {card.multiprocessors}
  fpus_per_core: {capability.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {card.bandwidth}
  l2_cache_size: {card.l2_bytes}
  clock_rate_ghz: {card.clock_ghz}
  device_memory_size: {card.memory_bytes}
  shared_memory_per_block_optin: {capability.optin_bytes}
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
{feature}  }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
device_description_str: "{card.kind}"
"""
