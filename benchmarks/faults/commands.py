"""Whole commands in a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.faults.writing import ROOT

PROGRAMS = """
import jax, jax.numpy as jnp
import jaxmem

def layers(batch_size=4):
    return jaxmem.Program(lambda w, x: jnp.tanh(x @ w) @ w.T, jax.ShapeDtypeStruct((64, 32), jnp.float32),
                          jax.ShapeDtypeStruct((batch_size, 64), jnp.float32), name="layers", batch_size=batch_size)
"""

COMPARE = ("compare", "programs.py:layers", "-b", "2,3,4", "--jobs", "1")


def command(folder: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """``jaxmem`` in a folder that has its cache, its temporary files and ``programs.py``."""
    (folder / "programs.py").write_text(PROGRAMS)
    settings = {"JAXMEM_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder), "JAX_PLATFORMS": "cpu"} | variables
    path = os.pathsep.join(filter(None, (str(ROOT), variables.get("PYTHONPATH"))))
    return subprocess.Popen(
        (sys.executable, "-m", "jaxmem", *arguments),
        cwd=folder,
        env=os.environ | settings | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its status and what it said."""
    out, err = process.communicate()
    return process.returncode, out, err
