"""Our replay of heap traces against XProf's memory viewer, an implementation that shares no code with it.

For every memory space of a program, on all three platforms: the whole curve of live bytes, event by event, where its
peak is and who is live there, and what is allocated. XProf runs in a process of its own: it brings its own XLA. Where
it lives in another environment, JAXMEM_XPROF_PYTHON names that environment's interpreter.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxmem.capture import Capture
from jaxmem.compilers import compile_lowering
from jaxmem.devices import find_device
from jaxmem.program import Program
from jaxmem.tracing import trace
from jaxmem.xla import BufferAssignment, live_peak_bytes, read_hlo_proto, replays, static_bytes

INTERPRETER = os.environ.get("JAXMEM_XPROF_PYTHON", sys.executable)
KERNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")

VIEWER = """
import json, sys
from xprof.convert import raw_to_tool_data
folder, name, *spaces = sys.argv[1:]
for space in spaces:
    options = {"module_name": name, "memory_space": space}
    answer, _ = raw_to_tool_data.xspace_to_tool_data([folder + "/host.xplane.pb"], "memory_viewer", options)
    print("ANSWER" + json.dumps(answer if answer is None else json.loads(answer)))
"""
SMALL_BYTES = 16 * 1024
"""Of smaller buffers XProf shows the sum alone."""


def vgg11(parameters, images):
    kernels = iter(parameters["convolutions"])
    for width in KERNELS:
        if width == "pool":
            images = jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        else:
            dimensions = ("NHWC", "HWIO", "NHWC")
            images = jax.nn.relu(
                jax.lax.conv_general_dilated(images, next(kernels), (1, 1), "SAME", dimension_numbers=dimensions)
            )
    images = images.reshape(images.shape[0], -1)
    for kernel in parameters["dense"]:
        images = images @ kernel
    return images


def of_shape(*dimensions):
    return jax.ShapeDtypeStruct(dimensions, jnp.float32)


def vgg11_parameters():
    widths = [3, *(width for width in KERNELS if width != "pool")]
    return {
        "convolutions": [of_shape(3, 3, *pair) for pair in itertools.pairwise(widths)],
        "dense": [of_shape(512, 256), of_shape(256, 10)],
    }


def training(model: Callable, parameters, inputs):
    """A donated Adam step."""
    optimizer = optax.adam(1e-3)

    def step(parameters, state, inputs, labels):
        def loss(parameters):
            logits = model(parameters, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    labels = jax.ShapeDtypeStruct(inputs.shape[:1], jnp.int32)
    return jax.jit(step, donate_argnums=(0, 1)), (
        parameters,
        jax.eval_shape(optimizer.init, parameters),
        inputs,
        labels,
    )


def mlp(parameters, inputs):
    for kernel in parameters:
        inputs = jax.nn.gelu(inputs @ kernel)
    return inputs


def scanned(parameters, inputs):
    def layer(inputs, kernel):
        return jnp.tanh(inputs @ kernel), None

    return jax.lax.scan(jax.checkpoint(layer), inputs, parameters)[0]


def sharded_mlp_train():
    """Four devices share the weights, their state and the batch."""
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    kernels = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows) for shape in ((512, 1024), (1024, 512))]
    return training(mlp, kernels, jax.ShapeDtypeStruct((64, 512), jnp.float32, sharding=rows))


def offloaded():
    """The result lives in the host's memory."""
    return jax.jit(lambda x, y: jax.device_put(x @ y, jax.memory.Space.Host)), (of_shape(512, 512), of_shape(512, 512))


def too_large():
    """Intermediate results of 8 GiB each."""

    def f(x, y):
        return jnp.sort(jnp.tanh(x[:, None] + y[None, :]) @ jnp.ones((32_768, 32_768)), axis=0)

    return jax.jit(f), (of_shape(65_536), of_shape(32_768))


PROGRAMS = {
    "vgg11_infer": lambda: (jax.jit(vgg11), (vgg11_parameters(), of_shape(2, 32, 32, 3))),
    "vgg11_train": lambda: training(vgg11, vgg11_parameters(), of_shape(2, 32, 32, 3)),
    "mlp_train": lambda: training(mlp, [of_shape(96, 200), of_shape(200, 57)], of_shape(33, 96)),
    "scan_train": lambda: training(scanned, of_shape(6, 64, 64), of_shape(48, 64)),
    "wide_scan_train": lambda: training(scanned, of_shape(6, 1024, 1024), of_shape(8192, 1024)),
    "sharded_mlp_train": sharded_mlp_train,
    "offloaded": offloaded,
    "too_large": too_large,
}


@pytest.fixture(scope="module", autouse=True)
def xprof() -> None:
    """Skips, or fails where JAXMEM_REQUIRE says so, without XProf."""
    found = subprocess.run([INTERPRETER, "-c", "import xprof"], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return
    reason = f"the wheel xprof is missing: {INTERPRETER} cannot import it (pip install xprof)"
    if "xprof" in os.environ.get("JAXMEM_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


def compile_program(name: str, device: str, options: Mapping[str, str]) -> Capture:
    function, arguments = PROGRAMS[name]()
    target = find_device(device)
    traced = trace(Program(function, *arguments, compiler_options=dict(options)), platforms=(target.platform,))
    return compile_lowering(traced.lowering, None, target)


def assignment_of(capture: Capture) -> BufferAssignment:
    _, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    return assignment


def memory_viewer(data: bytes, folder: Path, spaces: Iterable[int]) -> dict[int, dict[str, Any] | None]:
    """What XProf's memory viewer says of each memory space of a dump; None where it gives no answer.

    XProf leaves fields that are 0 or empty out of its answer.
    """
    run = folder / "plugins" / "profile" / "run"
    run.mkdir(parents=True)
    (run / "module.hlo_proto.pb").write_bytes(data)
    (run / "host.xplane.pb").write_bytes(b"")
    spaces = tuple(spaces)
    answer = subprocess.run(
        [INTERPRETER, "-c", VIEWER, str(run), "module", *map(str, spaces)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    answers = [line.removeprefix("ANSWER") for line in answer.stdout.splitlines() if line.startswith("ANSWER")]
    assert len(answers) == len(spaces), answer.stderr
    return {space: json.loads(text) for space, text in zip(spaces, answers, strict=True)}


def in_bytes(mebibytes: float) -> float:
    """XProf's floats are exact: a count of bytes in MiB has at most 20 binary digits after the point."""
    return mebibytes * 2**20


def spaces_of(assignment: BufferAssignment) -> tuple[int, ...]:
    return tuple(sorted({allocation.color for allocation in assignment.allocations}))


def assert_viewed_alike(viewed: dict[str, Any], assignment: BufferAssignment, space: int) -> None:
    """XProf's account of a memory space with at most one trace is ours, to the byte and event by event."""
    static = static_bytes(assignment, (space,))
    replayed = [replay for _, replay in replays(assignment, (space,))]
    assert in_bytes(viewed.get("peakHeapMib", 0)) == live_peak_bytes(assignment, (space,))
    assert in_bytes(viewed.get("totalBufferAllocationMib", 0)) == sum(
        allocation.size
        for allocation in assignment.allocations
        if allocation.color == space and not allocation.is_thread_local
    )
    if not replayed:
        assert "heapSizes" not in viewed
        return
    (replay,) = replayed
    assert list(map(in_bytes, viewed["heapSizes"])) == [static, *(static + live for live in replay.live_bytes)]
    assert viewed.get("peakHeapSizePosition", 0) == replay.peak_event
    temporaries = (
        entry["logicalBufferId"] for entry in viewed.get("maxHeap", ()) if entry.get("groupName") == "Temporary"
    )
    assert sorted(temporaries) == sorted(
        live.canonical_id for live in replay.live_at_peak if assignment.buffers[live.canonical_id].size >= SMALL_BYTES
    )


SEPARATE_COLLECTIVES = {"xla_gpu_enable_nccl_user_buffers": "True"}

CASES = [
    # Device, program, options, and the memory spaces that must have a trace. 0 is main memory everywhere.
    *(
        ("cpu", name, {}, {0})
        for name in ("vgg11_infer", "vgg11_train", "mlp_train", "scan_train", "sharded_mlp_train")
    ),
    *(("h100-sxm", name, {}, {0}) for name in ("vgg11_infer", "vgg11_train", "mlp_train", "scan_train")),
    ("h100-sxm", "sharded_mlp_train", {}, {0}),
    ("h100-sxm", "sharded_mlp_train", SEPARATE_COLLECTIVES, {0, 1}),  # 1: buffers of NCCL
    ("h100-sxm", "offloaded", {}, {0}),
    # 1 is the vector memory, 2 the scalar memory, 4 and 6 are flags of a few bytes.
    ("tpu-v5e", "vgg11_train", {}, {1, 2, 6}),
    ("tpu-v5e", "mlp_train", {}, {1, 2, 6}),
    ("tpu-v5e", "scan_train", {}, {0, 1, 2, 6}),
    ("tpu-v5e", "wide_scan_train", {}, {0, 1, 2, 6}),  # activations in HBM
    ("tpu-v5e", "sharded_mlp_train", {}, {1, 2, 4, 6}),
    ("tpu-v5e", "offloaded", {}, {0, 1, 2}),
    ("tpu-v5e", "too_large", {}, {0}),  # refused by the compiler, which leaves its plan
    ("tpu-v6e", "scan_train", {}, {0, 1, 2, 6}),
    ("tpu-v4", "scan_train", {}, {0, 2, 3, 6}),  # 3: the memory that the cores of a chip share
]


@pytest.mark.parametrize(
    ("device", "name", "options", "with_trace"),
    [pytest.param(*case, id="-".join((case[0], case[1], *case[2]))) for case in CASES],
)
def test_every_memory_space_is_xprofs(device, name, options, with_trace, tmp_path, need):
    need(find_device(device).platform)
    capture = compile_program(name, device, options)
    assert (capture.failure is not None) == (name == "too_large")
    assignment = assignment_of(capture)
    viewed = memory_viewer(capture.hlo_proto, tmp_path, spaces_of(assignment))
    for space, answer in viewed.items():
        assert answer is not None
        assert_viewed_alike(answer, assignment, space)
    assert with_trace <= {space for space in viewed if replays(assignment, (space,))}
    assert live_peak_bytes(assignment, (0,)) > 0


def test_a_heap_that_is_divided_has_no_view(tmp_path, need):
    """XLA can divide the temporaries into several allocations: each then comes with a trace of all of them.

    XProf refuses such a dump, so nothing is left to compare with but the same program undivided, whose peak it
    confirms above: dividing places the buffers differently and changes neither their sizes nor their order.
    """
    need("cuda")
    whole = assignment_of(compile_program("mlp_train", "h100-sxm", {}))
    capture = compile_program("mlp_train", "h100-sxm", {"xla_multiheap_size_constraint_per_heap": "65536"})
    divided = assignment_of(capture)
    assert memory_viewer(capture.hlo_proto, tmp_path, (0,)) == {0: None}
    ((_, replay),) = replays(whole, (0,))
    traces = replays(divided, (0,))
    assert len(traces) > 1
    assert {one.live_bytes for _, one in traces} == {replay.live_bytes}
    assert live_peak_bytes(divided, (0,)) == live_peak_bytes(whole, (0,))


def test_a_heap_of_another_color_is_viewed_twice(tmp_path, need):
    """With a color of its own (2), CUDA's heap of temporaries is an allocation of that color, its buffers still of 0.

    XProf finds the one trace by the buffers' color for space 0 and by the allocation's for space 2, and shows it in
    both. The two are one memory, and there the trace counts once: what jaxmem says of the card is XProf's view of
    space 0, which is also that of the same program without the option.
    """
    need("cuda")
    plain = assignment_of(compile_program("mlp_train", "h100-sxm", {}))
    capture = compile_program("mlp_train", "h100-sxm", {"xla_gpu_temp_buffer_use_separate_color": "True"})
    assignment = assignment_of(capture)
    heap = max(assignment.allocations, key=lambda allocation: allocation.size)
    assert heap.color == 2
    assert {assignment.buffers[entry.buffer_id].color for entry in heap.assigned} == {0}
    viewed = memory_viewer(capture.hlo_proto, tmp_path, (0, 2))
    main, apart = viewed[0], viewed[2]
    assert main is not None
    assert apart is not None
    ((_, replay),) = replays(assignment, (0, 1, 2))
    assert in_bytes(apart["peakHeapMib"]) == replay.peak_bytes
    assert in_bytes(main["peakHeapMib"]) == live_peak_bytes(assignment, (0, 1, 2)) == live_peak_bytes(plain, (0, 1, 2))
