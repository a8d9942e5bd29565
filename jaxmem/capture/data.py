"""What a capture holds. Data only, without JAX."""

from dataclasses import dataclass, field

from jaxmem.devices import Device
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument, Output, ProgramFacts
from jaxmem.unknown import Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStatistics:
    """What JAX's ``memory_analysis()`` reports of the executable, untouched; `Unknown` where it reports nothing.

    ``reported_peak_bytes`` is XLA's ``peak_memory``: on the CPU backend it leaves the temporaries out. The ``host_``
    fields count memory on the host side of an accelerator.
    """

    argument_bytes: int | Unknown
    output_bytes: int | Unknown
    alias_bytes: int | Unknown
    temp_bytes: int | Unknown
    generated_code_bytes: int | Unknown
    reported_peak_bytes: int | Unknown
    host_argument_bytes: int | Unknown
    host_output_bytes: int | Unknown
    host_alias_bytes: int | Unknown
    host_temp_bytes: int | Unknown
    host_generated_code_bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """XLA's cost analysis of the compiled module, for one step."""

    flops: int | Unknown
    transcendentals: int | Unknown
    accessed_bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What decides the code of the CPU backend besides the program.

    Attributes:
        machine: architecture, e.g. ``x86_64``.
        cpu_model: as the operating system names it, empty where it does not.
        cpu_features: instruction set extensions, sorted; empty where the operating system does not list them.
        threads: of the pool that XLA's CPU backend divides its work among: what PJRT_NPROC or NPROC says, else the
            processors this process may run on.
        xla_flags: ``XLA_FLAGS`` of the environment, which every compile obeys.
    """

    machine: str
    cpu_model: str
    cpu_features: tuple[str, ...]
    threads: int
    xla_flags: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Everything one compile left behind.

    Attributes:
        program, arguments, outputs, compiler_options, configuration, device_count: as in the `Lowering` compiled.
        layer_table: the traced program; None where only a compiled or lowered program was handed over.
        device: the device compiled for, as it was described then.
        versions: (name, version) of what made the capture: jaxmem, jax, jaxlib and the compiler's plugin.
        host: the machine that compiled.
        statistics: JAX's memory statistics of the executable.
        cost: XLA's cost analysis.
        hlo_proto: the compiled module with its buffer assignment (``xla.HloProto``), byte for byte as XLA dumped it.
        stablehlo: the module that was compiled, MLIR bytecode.
        compile_seconds: inside the compiler alone.
        worker_start_seconds: from the request to a worker process that is ready to compile, importing JAX included.
        created: when, ISO 8601 in UTC.
        failure: the compiler's own words where it refused the program, but left a complete module (a program too large
            for a TPU); None where it compiled.
    """

    program: ProgramFacts
    arguments: tuple[Argument, ...] = field(repr=False)
    outputs: tuple[Output, ...] = field(repr=False)
    layer_table: LayerTable | None = field(repr=False)
    device: Device
    device_count: int
    versions: tuple[tuple[str, str], ...]
    compiler_options: tuple[tuple[str, str], ...]
    configuration: tuple[tuple[str, str], ...]
    host: Host = field(repr=False)
    statistics: MemoryStatistics
    cost: Cost
    hlo_proto: bytes = field(repr=False)
    stablehlo: bytes = field(repr=False)
    compile_seconds: float
    worker_start_seconds: float
    created: str
    failure: str | None
