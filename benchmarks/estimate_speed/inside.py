"""What runs in a process of its own, and measures itself once all is imported."""

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

from benchmarks.overhead import Spent, spent_here


def compile_here(arguments: tuple[str, ...]) -> Spent:
    """Trace, lower and compile by JAX alone what ``jaxmem estimate`` is told by these arguments; what it takes when all is
    imported.
    """
    import jax

    from jaxmem_models.programs import build

    network, *options = arguments
    given = dict(zip(options[::2], options[1::2], strict=True))
    settings: dict[str, Any] = {"scan": True} if given.get("--set") == "scan=True" else {}
    jax.devices()
    _import_network(network)
    begun = spent_here()
    spec = build(
        network,
        mode=given["--mode"],
        batch_size=int(given.get("-b", {"train": 32, "infer": 1}[given["--mode"]])),
        dtype=given.get("--dtype", "float32"),
        remat=given.get("--remat"),
        **settings,
    )
    spec.function.lower(*spec.arguments).compile()
    return spent_here() - begun


def estimate_here(arguments: tuple[str, ...]) -> Spent:
    """What ``jaxmem estimate`` takes when all is imported, up to its printed answer; nothing comes from the cache."""
    from jaxmem.cli import main
    from jaxmem.quiet import start_jax

    start_jax()
    import jaxmem.analysis.estimating
    import jaxmem.assemble.estimate
    import jaxmem.formula
    import jaxmem.report.terminal
    import jaxmem.tracing  # noqa: F401

    _import_network(arguments[0])
    begun = spent_here()
    with redirect_stdout(StringIO()):
        main(["estimate", *arguments, "-q", "--no-cache"])
    return spent_here() - begun


def _import_network(name: str) -> None:
    import jaxmem_models.programs  # noqa: F401
    from jaxmem_models.registry import constructor_of, find

    import_module(constructor_of(find(name))[0])


def depth_here(depth: int) -> tuple[int, Spent]:
    """Operations of the layer table, and what an estimate takes once everything is imported."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import jaxmem
    from jaxmem.tracing import trace
    from jaxmem.tracing.layers import layer_table
    from jaxmem_models.programs import abstract_model
    from jaxmem_models.steps import language_step

    def program(blocks: int) -> jaxmem.Program:
        model = abstract_model("gpt2", depth=blocks)
        model.train()
        optimizer = nnx.eval_shape(lambda model: nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param), model)
        tokens = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
        return jaxmem.Program(nnx.jit(language_step, donate_argnums=(0, 1)), model, optimizer, tokens)

    jaxmem.estimate(program(1))  # what is imported and cached on first use
    whole = program(depth)
    begun = spent_here()
    jaxmem.estimate(whole)
    spent = spent_here() - begun
    traced = trace(whole, platforms=("cpu",))
    return len(layer_table(traced.closed_jaxpr, traced.arguments).operations), spent
