"""What is known of a device: its memory, and what its compiler wants to be told."""

from dataclasses import dataclass

from jaxmem.unknown import Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaTarget:
    """What the CUDA compiler is told of the card it compiles for.

    Attributes:
        description: a ``GpuTargetConfigProto`` (``xla/stream_executor/device_description.proto``) in protobuf's text
            form. Memory depends on it: fusions, split matrix products and the scheduler's budget do.
    """

    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TpuTarget:
    """What the TPU compiler is told of the chips it compiles for.

    Attributes:
        generation: libtpu's own name of the chip (``v5e``).
        dimensions: of the network that joins the chips, 2 or 3.
        devices_per_chip: how many devices JAX sees on a chip.
        options: further options of the topology.
    """

    generation: str
    dimensions: int
    devices_per_chip: int
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that XLA can compile for.

    Attributes:
        name: as in ``-d``.
        platform: ``cpu``, ``cuda`` or ``tpu``.
        kind: what a person calls it.
        memory_bytes: the memory that XLA is told the device has; ``memory_source`` says who says so.
        usable_bytes: what a program may take of it; ``usable_source`` likewise.
        target: what its compiler is told; None for the processor, which the compiler looks at itself.
        target_source: who says what the target says.
        derived: the target was put together from the vendor's tables, because XLA has no description of the device.
        attached: the device is in this machine.
    """

    name: str
    platform: str
    kind: str
    memory_bytes: int | Unknown
    memory_source: str
    usable_bytes: int | Unknown
    usable_source: str
    target: CudaTarget | TpuTarget | None = None
    target_source: str = ""
    derived: bool = False
    attached: bool = False
