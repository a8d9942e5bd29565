"""The device in this machine: what JAX sees, asked in a process of its own.

Asking starts a backend, and on a GPU that takes memory; in another process it is given back at once, and the caller's
JAX is not touched.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

from jaxmem.devices.data import Device, TpuTarget
from jaxmem.devices.host import cpu_device
from jaxmem.devices.nvidia import cuda_device
from jaxmem.devices.tpu import tpu_chips
from jaxmem.errors import EnvironmentFailure

_TIMEOUT_SECONDS = 120


@cache
def attached_device() -> Device:
    """The first device that JAX sees in this machine.

    An NVIDIA card comes with its own exact target description; a TPU is found in the catalogue by its kind; where there
    is neither, it is the processor.

    Raises:
        EnvironmentFailure: JAX could not start, or the device is of a kind that jaxmem does not know.
    """
    return device_from(_ask())


def device_from(facts: dict[str, str | int]) -> Device:
    """The device that `jaxmem.compilers.attached` found. Raises as in `attached_device`."""
    platform, kind = facts["platform"], str(facts["kind"])
    if platform == "cpu":
        return cpu_device()
    if platform == "gpu" and facts.get("target_description"):
        return cuda_device(
            name="attached",
            kind=kind,
            memory_bytes=int(facts["memory_bytes"]),
            memory_source="the card in this machine, as XLA describes it",
            description=str(facts["target_description"]),
            target_source="XLA's description of the card in this machine",
            attached=True,
        )
    for device in tpu_chips():
        if platform == "tpu" and isinstance(device.target, TpuTarget) and kind in _TPU_KINDS.get(device.name, ()):
            return replace(device, attached=True)
    raise EnvironmentFailure(
        f"JAX sees {kind} ({platform}) in this machine, which jaxmem does not know. Name a device: jaxmem devices."
    )


_TPU_KINDS = {
    "tpu-v2": ("TPU v2",),
    "tpu-v3": ("TPU v3",),
    "tpu-v4": ("TPU v4",),
    "tpu-v5e": ("TPU v5 lite", "TPU v5e"),
    "tpu-v5p": ("TPU v5", "TPU v5p"),
    "tpu-v6e": ("TPU v6 lite", "TPU v6e"),
    "tpu7x": ("TPU7x",),
}
"""How JAX names the kind of a TPU (``jax.Device.device_kind``)."""


def _ask() -> dict[str, str | int]:
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "jaxmem.compilers.attached"]
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _failure(f"it did not answer within {_TIMEOUT_SECONDS} seconds") from None
    except OSError as error:
        raise _failure(str(error.strerror or error)) from error
    try:
        return json.loads(answer.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        words = answer.stderr.strip().splitlines()
        said = words[-1] if words else f"it ended with status {answer.returncode} and said nothing"
        raise _failure(said) from None


def _failure(problem: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"JAX could not say what device is in this machine: {problem}. A TPU serves one process at a time: end the one "
        "that holds it, or name the device instead of `attached`."
    )
