"""From a module to an executable, and what the executable says of itself: what depends on the version of JAX is here.

Each piece is in a function of its own. Imported by processes that jaxmem starts (`worker`, `jaxmem.measure.step`), never by
the user's.
"""

from pathlib import Path
from typing import Any

from jaxmem.capture.data import Cost, MemoryStatistics
from jaxmem.compilers.job import NUMERIC_OPTIONS, Request
from jaxmem.devices import CudaTarget, Topology
from jaxmem.unknown import Unknown


def target_devices(request: Request) -> list[Any]:
    """What to compile for: this machine's processor, or devices that are described and need not be there.

    Importing all of JAX registers the custom calls of its linear algebra.
    """
    from jax._src import xla_bridge
    from jax.experimental import topologies

    count = request.device_count
    if isinstance(request.target, CudaTarget):
        # Partitions, hosts, cards of a host: eight cards share a host, as in the machines that are sold.
        hosts, cards = (count // 8, 8) if count % 8 == 0 else (1, count)
        topology = topologies.get_topology_desc(
            platform="cuda", topology=f"1x{hosts}x{cards}", target_config=request.target.description
        )
        return list(topology.devices[:count])
    if isinstance(request.target, Topology):
        topology = topologies.get_topology_desc(
            request.target.name,
            "tpu",
            chips_per_host_bounds=request.target.chips_per_host,
            **dict(request.target.options),
        )
        return list(topology.devices[:count])
    return xla_bridge.get_backend(request.platform).devices()[:count]


def parse(bytecode: bytes) -> Any:
    """MLIR bytecode, in a context that knows JAX's dialects."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        return ir.Module.parse(bytecode)


def compile_options(devices: list[Any], module: Any, request: Request, dump: Path | None) -> Any:
    """The options that ``jax.stages.Lowered.compile`` would use, and where XLA dumps; None for nowhere."""
    import numpy
    from jax._src import compiler

    chosen = {name: NUMERIC_OPTIONS.get(name, str)(value) for name, value in request.compiler_options}
    if dump is not None:
        chosen |= {"xla_dump_to": str(dump), "xla_dump_hlo_as_proto": True}
    options = compiler.get_compile_options(
        num_replicas=1,
        num_partitions=request.device_count,
        device_assignment=numpy.array(devices).reshape(1, request.device_count),
        env_options_overrides=chosen,
        detailed_logging=compiler.use_detailed_logging(module),
        backend=devices[0].client,
    )
    build = options.executable_build_options
    arguments_free, results_free = _without_sharding(module)
    build.allow_spmd_sharding_propagation_to_parameters = arguments_free
    build.allow_spmd_sharding_propagation_to_output = results_free
    return options


def _without_sharding(module: Any) -> tuple[list[bool], list[bool]]:
    """Which arguments and results of the main function carry no sharding, so that XLA may choose one, as in JAX."""
    from jaxlib.mlir import ir

    functions = {ir.StringAttr(one.attributes["sym_name"]).value: one for one in module.body.operations}
    main = functions["main"]

    def free(attributes: str, count: int) -> list[bool]:
        if attributes not in main.attributes:
            return [True] * count
        return ["mhlo.sharding" not in entry and "sdy.sharding" not in entry for entry in main.attributes[attributes]]

    kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
    return free("arg_attrs", len(kind.inputs)), free("res_attrs", len(kind.results))


def compile_module(devices: list[Any], module: Any, options: Any) -> Any:
    from jax._src import compiler
    from jaxlib import xla_client

    wanted = xla_client.DeviceList(tuple(devices))
    return compiler.backend_compile_and_load(devices[0].client, module, wanted, options, [])


def compiler_error() -> type[Exception]:
    import jax

    return jax.errors.JaxRuntimeError


def memory_statistics(executable: Any) -> MemoryStatistics:
    """What the executable reports of its memory."""
    try:
        reported = None if executable is None else executable.get_compiled_memory_stats()
    except compiler_error():
        reported = None
    missing = "the program did not compile" if executable is None else "not reported by this backend"

    def size(name: str) -> int | Unknown:
        value = getattr(reported, name, None)
        return Unknown(missing) if value is None else int(value)

    return MemoryStatistics(
        argument_bytes=size("argument_size_in_bytes"),
        output_bytes=size("output_size_in_bytes"),
        alias_bytes=size("alias_size_in_bytes"),
        temp_bytes=size("temp_size_in_bytes"),
        generated_code_bytes=size("generated_code_size_in_bytes"),
        reported_peak_bytes=size("peak_memory_in_bytes"),
        host_argument_bytes=size("host_argument_size_in_bytes"),
        host_output_bytes=size("host_output_size_in_bytes"),
        host_alias_bytes=size("host_alias_size_in_bytes"),
        host_temp_bytes=size("host_temp_size_in_bytes"),
        host_generated_code_bytes=size("host_generated_code_size_in_bytes"),
    )


def cost_analysis(executable: Any) -> Cost:
    """XLA's cost analysis of the executable."""
    try:
        analysis = {} if executable is None else executable.cost_analysis()
    except compiler_error():  # not every backend implements it
        analysis = {}
    missing = "the program did not compile" if executable is None else "not reported by this backend"

    def count(name: str) -> int | Unknown:
        value = analysis.get(name)
        # XLA writes -1 where an instruction in it has an unknown cost.
        return round(value) if value is not None and value >= 0 else Unknown(missing)

    return Cost(flops=count("flops"), transcendentals=count("transcendentals"), accessed_bytes=count("bytes accessed"))


def load_executable(devices: list[Any], serialized: bytes, options: Any) -> Any:
    """What another process compiled for the same devices and wrote down, as JAX's own compilation cache does."""
    from jaxlib import xla_client

    return devices[0].client.deserialize_executable(serialized, xla_client.DeviceList(tuple(devices)), options)


def execute(executable: Any, arguments: list[Any]) -> list[Any]:
    """Run on one device and wait for the end; the results."""
    results = executable.execute_sharded(arguments, with_tokens=True)
    arrays = [shards[0] for shards in results.disassemble_into_single_device_arrays()]
    results.consume_token().block_until_ready()
    for array in arrays:
        array.block_until_ready()
    return arrays
