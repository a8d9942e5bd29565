"""The replayed live peak against XProf's memory viewer, an implementation that shares no code with ours.

XProf runs in a process of its own: it brings its own XLA. Where it lives in another environment, JAXMEM_XPROF_PYTHON
names that environment's interpreter.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmem.xla import BufferAssignment, find_dump, live_peak_bytes, read_hlo_proto

INTERPRETER = os.environ.get("JAXMEM_XPROF_PYTHON", sys.executable)
KERNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")

VIEWER = """
import json, sys
from xprof.convert import raw_to_tool_data
folder, name = sys.argv[1:]
options = {"module_name": name, "memory_space": "0"}
answer, _ = raw_to_tool_data.xspace_to_tool_data([folder + "/host.xplane.pb"], "memory_viewer", options)
print("ANSWER" + json.dumps(json.loads(answer)))
"""


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


PROGRAMS = {
    "vgg11_infer": lambda: (jax.jit(vgg11), (vgg11_parameters(), of_shape(2, 32, 32, 3))),
    "vgg11_train": lambda: training(vgg11, vgg11_parameters(), of_shape(2, 32, 32, 3)),
    "mlp_train": lambda: training(mlp, [of_shape(96, 200), of_shape(200, 57)], of_shape(33, 96)),
    "scan_train": lambda: training(scanned, of_shape(6, 64, 64), of_shape(48, 64)),
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


def memory_viewer(data: bytes, name: str, folder: Path) -> dict:
    """What XProf's memory viewer says of a dump, for the main memory space."""
    run = folder / "plugins" / "profile" / "run"
    run.mkdir(parents=True)
    (run / f"{name}.hlo_proto.pb").write_bytes(data)
    (run / "host.xplane.pb").write_bytes(b"")
    answer = subprocess.run(
        [INTERPRETER, "-c", VIEWER, str(run), name], capture_output=True, text=True, check=False, timeout=300
    )
    lines = [line for line in answer.stdout.splitlines() if line.startswith("ANSWER")]
    assert lines, answer.stderr
    return json.loads(lines[0].removeprefix("ANSWER"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_replayed_peak_is_xprofs(name, tmp_path):
    function, arguments = PROGRAMS[name]()
    options = {"xla_dump_to": str(tmp_path / "dump"), "xla_dump_hlo_as_proto": True}
    function.lower(*arguments).compile(compiler_options=options)
    data = find_dump(tmp_path / "dump").read_bytes()
    _, assignment = read_hlo_proto(data, origin=name)
    assert isinstance(assignment, BufferAssignment)

    viewed = memory_viewer(data, name, tmp_path)
    # A count of bytes in MiB has at most 20 binary digits after the point: the float is exact.
    assert viewed["peakHeapMib"] * 2**20 == live_peak_bytes(assignment, (0,))
    assert live_peak_bytes(assignment, (0,)) > 0
