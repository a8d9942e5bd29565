"""Program → Lowering: the program as StableHLO, with a role, a layer and a path for every argument and result.

    traced = trace(program)      # the jaxpr and the tables; no lowering yet
    lowering = traced.lowering   # StableHLO; the same as lower(program)

Everything is abstract: nothing is executed, and nothing is allocated on a device.
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax

from jaxmem.errors import InvariantError
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument, Lowering, Output, ProgramFacts
from jaxmem.program import Program
from jaxmem.roles import STATE_ROLES, Role
from jaxmem.tracing.carried import carried_over
from jaxmem.tracing.dataflow import UNKNOWN_FLOW, read_flow
from jaxmem.tracing.distinct_paths import distinct_paths
from jaxmem.tracing.layers import layer_table
from jaxmem.tracing.roles import Decision, decide, layer_of
from jaxmem.tracing.stablehlo import bytecode, device_count, module_name, parameter_numbers, received_by_device
from jaxmem.tracing.stages import Staged, stage
from jaxmem.tracing.trees import Place, walk

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_use_shardy_partitioner",
)
"""JAX settings that change what a program is lowered to."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A traced program.

    Attributes:
        facts: what the program is called.
        arguments: flat; ``parameter_number`` is set only in ``lowering``, for it takes one to know what is dropped.
        outputs: flat.
        closed_jaxpr: the traced program, one input variable for each argument; None where the program was handed over
            already lowered, and ``without_jaxpr`` then says so.
        without_jaxpr: why there is no jaxpr; empty where there is one.
        platforms: what it is lowered for.
    """

    facts: ProgramFacts
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    closed_jaxpr: Any
    without_jaxpr: str
    platforms: tuple[str, ...]
    compiler_options: tuple[tuple[str, str], ...]
    staged: Staged

    @cached_property
    def device_count(self) -> int:
        """Devices over which the arguments and results are spread."""
        leaves = [place.leaf for place in (*_places(self.staged.arguments), *_places(self.staged.results))]
        return max((leaf.sharding.num_devices for leaf in leaves if leaf.sharding is not None), default=1)

    @cached_property
    def layer_table(self) -> LayerTable | None:
        """The traced program as plain data, made on first use; None where there is no jaxpr."""
        return None if self.closed_jaxpr is None else layer_table(self.closed_jaxpr, self.arguments)

    @cached_property
    def lowering(self) -> Lowering:
        """The program lowered to StableHLO, made on first use."""
        with warnings.catch_warnings():
            if self.staged.quiet:
                warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            lowered = self.staged.lowered or self.staged.traced.lower(lowering_platforms=self.platforms)
        leaves = [place.leaf for place in _places(self.staged.arguments)]
        numbers = parameter_numbers(lowered, leaves)
        return Lowering(
            program=self.facts,
            stablehlo=bytecode(lowered),
            arguments=tuple(
                replace(argument, parameter_number=number)
                for argument, number in zip(self.arguments, numbers, strict=True)
            ),
            outputs=self.outputs,
            compiler_options=self.compiler_options,
            configuration=tuple(
                (name, str(value))
                for name in sorted(_SETTINGS)
                if (value := getattr(jax.config, name, None)) is not None
            ),
            device_count=device_count(lowered),
            platforms=self.platforms,
        )


def lower(program: Program, *, platforms: tuple[str, ...] = ("cpu",)) -> Lowering:
    """The program as StableHLO with its tables: ``trace(program).lowering``."""
    return trace(program, platforms=platforms).lowering


def trace(program: Program, *, platforms: tuple[str, ...] = ("cpu",)) -> Traced:
    """Trace a program and say what each of its arguments and results is.

    Raises:
        InputError: the arguments do not fit the function, or it raised; with the user's own traceback.
        UsageError: donation or static arguments were given for a function that has its own.
    """
    staged = stage(program)
    jaxpr = None if staged.traced is None else staged.traced.jaxpr
    places, results = _places(staged.arguments), _places(staged.results)
    if jaxpr is not None and len(jaxpr.jaxpr.invars) != len(places):
        raise InvariantError(
            f"the traced program takes {len(jaxpr.jaxpr.invars)} arrays, its arguments have {len(places)}."
        )
    flow = UNKNOWN_FLOW if jaxpr is None else read_flow(jaxpr)
    carried = carried_over(places, results, flow)
    decisions = distinct_paths(
        places,
        decide(places, given=program.roles, carried=carried.values(), differentiates=flow.differentiates),
    )
    arguments = tuple(_argument(place, decision) for place, decision in zip(places, decisions, strict=True))
    parameter_count = sum(
        math.prod(place.leaf.shape)
        for place, argument in zip(places, arguments, strict=True)
        if argument.role is Role.PARAMETERS
    )
    return Traced(
        facts=_facts(
            program,
            arguments,
            name=module_name(staged.lowered) if staged.lowered else program.name,
            parameter_count=parameter_count,
        ),
        arguments=arguments,
        outputs=tuple(_output(place, carried.get(place.leaf.index), arguments) for place in results),
        closed_jaxpr=jaxpr,
        without_jaxpr="" if jaxpr is not None else "the program was handed over already lowered, without its jaxpr",
        platforms=platforms,
        compiler_options=program.compiler_options,
        staged=staged,
    )


def _places(trees: tuple[tuple[str, Any], ...]) -> tuple[Place, ...]:
    """All leaves of several trees in flat order. A leaf that no tree holds any more (a wrapper dropped it) has no
    path.
    """
    places = {place.leaf.index: place for name, tree in trees for place in reversed(list(walk(name, tree)))}
    return tuple(places[index] for index in sorted(places))


def _argument(place: Place, decision: Decision) -> Argument:
    shape, dtype, bits = received_by_device(place.leaf)
    return Argument(
        path=place.path,
        shape=shape,
        dtype=dtype,
        itemsize_bits=bits,
        role=decision.role,
        role_rule=decision.rule,
        layer=layer_of(decision),
        parameter_path="/".join(decision.parameter_path),
        donated=place.leaf.donated,
    )


def _output(place: Place, replaced: int | None, arguments: tuple[Argument, ...]) -> Output:
    shape, dtype, bits = received_by_device(place.leaf)
    argument = None if replaced is None or arguments[replaced].role not in STATE_ROLES else arguments[replaced]
    if argument is not None and place.leaf.sharding is None:
        shape = argument.shape  # nobody chose: XLA gives new state the sharding of the old, so that it can replace it
    return Output(
        path=place.path,
        shape=shape,
        dtype=dtype,
        itemsize_bits=bits,
        role=argument.role if argument else Role.OUTPUTS,
        layer=argument.layer if argument else "",
        parameter_path=argument.parameter_path if argument else "",
        argument_index=replaced if argument else None,
    )


def _facts(program: Program, arguments: tuple[Argument, ...], *, name: str, parameter_count: int) -> ProgramFacts:
    return ProgramFacts(
        name=name,
        mode=program.mode,
        batch_size=program.batch_size,
        optimizer=program.optimizer,
        dtype=program.dtype,
        parameter_count=parameter_count,
        donated=any(argument.donated for argument in arguments),
        source=_source(program.fn),
    )


def _source(fn: Any) -> str | None:
    """``file:line`` of the function behind partials, methods and jit."""
    for _ in range(16):
        code = getattr(fn, "__code__", None)
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
        fn = getattr(fn, "__wrapped__", None) or getattr(fn, "__func__", None) or getattr(fn, "func", None)
    return None


__all__ = ["Traced", "lower", "trace"]
