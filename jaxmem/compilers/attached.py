"""``python -m jaxmem.compilers.attached``: prints what JAX sees in this machine as one line of JSON.

    {"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3", "memory_bytes": 84942979072, "target_description": "..."}

Run by `jaxmem.devices.attached`, in a process of its own.
"""

import json
import re
from typing import Any


def main() -> None:
    """Print the facts of the first device."""
    import jax

    device = jax.devices()[0]
    facts: dict[str, str | int] = {"platform": device.platform, "kind": device.device_kind}
    if device.platform == "gpu":
        facts |= _card(device)
    print(json.dumps(facts))


def _card(device: Any) -> dict[str, str | int]:
    """XLA's own description of a card, without the size of the machine around it."""
    from jaxlib import xla_client

    description = str(xla_client.get_topology_for_devices([device]).target_config)
    memory = re.search(r"\bdevice_memory_size:\s*(\d+)", description)
    return {"target_description": description, "memory_bytes": int(memory[1])} if memory else {}


if __name__ == "__main__":
    main()
