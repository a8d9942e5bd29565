"""The worker process, ``python -m jaxmem.compilers.worker FOLDER``: compiles one module and leaves what is known.

It runs no user code. What depends on the version of JAX is in this file alone, each piece in a function of its own.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxmem.capture.data import Cost, MemoryStatistics
from jaxmem.codec import decode, encode
from jaxmem.compilers.job import ANSWER, DUMP, MODULE, NUMERIC_OPTIONS, REQUEST, Answer, Request, Step
from jaxmem.devices import CudaTarget, Topology
from jaxmem.unknown import Unknown


def main(folder: Path) -> None:
    """Do the job in ``folder`` in this process, which is there for nothing else."""
    _say(Step.START)
    _be_the_first_to_go()
    threading.Thread(target=_end_with_the_caller, args=(folder,), daemon=True).start()
    do_job(folder, _say)


def do_job(folder: Path, on_step: Callable[[Step], None]) -> None:
    """Do the job in ``folder`` (`jaxmem.compilers.job`); ``on_step`` is told of every step that begins."""
    request = decode(Request, json.loads((folder / REQUEST).read_bytes()))
    devices = _devices(request)
    module = _parse((folder / MODULE).read_bytes())
    options = _compile_options(devices, module, request, folder / DUMP)
    on_step(Step.COMPILE)
    started = time.perf_counter()
    executable, failure = None, None
    try:
        executable = _compile(devices, module, options)
    except _compiler_error() as error:
        failure = str(error)
    compile_seconds = time.perf_counter() - started
    on_step(Step.COLLECT)
    answer = Answer(
        statistics=_statistics(executable),
        cost=_cost(executable),
        dump=_find_dump(folder / DUMP),
        compile_seconds=compile_seconds,
        failure=failure,
    )
    (folder / ANSWER).write_text(json.dumps(encode(answer)[0]))


def _say(step: Step) -> None:
    print(step.value, flush=True)


def _be_the_first_to_go() -> None:
    """Where the machine runs out of memory, the kernel ends the compile, and not the caller: who then says what happened."""
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_the_caller(folder: Path) -> None:
    """Wait until standard input closes: the caller is gone, even if it was killed and could clean up nothing."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _devices(request: Request) -> list[Any]:
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


def _parse(bytecode: bytes) -> Any:
    """MLIR bytecode, in a context that knows JAX's dialects."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        return ir.Module.parse(bytecode)


def _compile_options(devices: list[Any], module: Any, request: Request, dump: Path) -> Any:
    """The options that ``jax.stages.Lowered.compile`` would use, and the dump."""
    import numpy
    from jax._src import compiler

    chosen = {name: NUMERIC_OPTIONS.get(name, str)(value) for name, value in request.compiler_options}
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


def _compile(devices: list[Any], module: Any, options: Any) -> Any:
    from jax._src import compiler
    from jaxlib import xla_client

    wanted = xla_client.DeviceList(tuple(devices))
    return compiler.backend_compile_and_load(devices[0].client, module, wanted, options, [])


def _compiler_error() -> type[Exception]:
    import jax

    return jax.errors.JaxRuntimeError


def _statistics(executable: Any) -> MemoryStatistics:
    """What the executable reports of its memory."""
    try:
        reported = None if executable is None else executable.get_compiled_memory_stats()
    except _compiler_error():
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


def _cost(executable: Any) -> Cost:
    """XLA's cost analysis of the executable."""
    try:
        analysis = {} if executable is None else executable.cost_analysis()
    except _compiler_error():  # not every backend implements it
        analysis = {}
    missing = "the program did not compile" if executable is None else "not reported by this backend"

    def count(name: str) -> int | Unknown:
        value = analysis.get(name)
        # XLA writes -1 where an instruction in it has an unknown cost.
        return round(value) if value is not None and value >= 0 else Unknown(missing)

    return Cost(flops=count("flops"), transcendentals=count("transcendentals"), accessed_bytes=count("bytes accessed"))


def _find_dump(folder: Path) -> str | None:
    """The dumped module that has a buffer assignment, field 3 of its HloProto; the largest if there are several."""
    found = [file for file in folder.glob("*after_optimizations.hlo.pb") if _has_buffer_assignment(file.read_bytes())]
    return max(found, key=lambda file: file.stat().st_size).name if found else None


def _has_buffer_assignment(proto: bytes) -> bool:
    """Walk the top level of an HloProto: a tag, a length, and so many bytes each time."""
    position = 0
    while position < len(proto):
        tag, position = _varint(proto, position)
        if tag & 7 != 2:
            return False  # HloProto has messages alone at its top level
        length, position = _varint(proto, position)
        if tag >> 3 == 3:
            return 0 < length <= len(proto) - position  # less where the disk was full
        position += length
    return False


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    return value, position


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(
        0
    )  # the answer is written whole; taking JAX and XLA down in good order would cost more than a small compile
