"""The formula as rows: beside a compile, or alone."""

from collections import defaultdict
from collections.abc import Iterable

from jaxmem.formula import Formula, Leaf
from jaxmem.lowering import ProgramFacts
from jaxmem.result import (
    DeviceFacts,
    Estimate,
    EstimateLayer,
    EstimateReport,
    EstimateRow,
    error_percent,
)
from jaxmem.roles import OPTIMIZER_ROLES, Role
from jaxmem.unknown import Unknown

NO_TABLE = Unknown("the program was handed over already lowered, so its operations are not known")

ACTIVATIONS = frozenset({Role.SAVED_ACTIVATIONS, Role.TRANSIENT})


def estimates(formula: Formula | None, required_bytes: int) -> tuple[Estimate, ...]:
    """jaxmem's formula and those of textbooks beside what a compile requires."""
    if formula is None:
        return (Estimate(name="jaxmem", formula="", bytes=NO_TABLE, error_percent=NO_TABLE),)
    own = Estimate(
        name="jaxmem",
        formula=written_out(formula),
        bytes=formula.bytes,
        error_percent=error_percent(formula.bytes, required_bytes),
    )
    return (
        own,
        *(
            Estimate(
                name=textbook.name,
                formula=textbook.formula,
                bytes=textbook.bytes,
                error_percent=error_percent(textbook.bytes, required_bytes),
            )
            for textbook in formula.textbook
        ),
    )


def written_out(formula: Formula) -> str:
    """The sum with the numbers put in, ``3w 1,660,290,528 + B·input 602,112 + ...``; terms of one symbol together."""
    sums: dict[str, list[int]] = {}
    for role in Role:
        size_bytes = sum(leaf.bytes for leaf in formula.leaves if leaf.counted and leaf.role is role)
        if size_bytes:
            sums.setdefault(formula.symbol(role) or role.value.replace("_", " "), []).append(size_bytes)
    return " + ".join(
        f"{len(sizes) if len(sizes) > 1 else ''}{symbol} {sum(sizes):,}" for symbol, sizes in sums.items()
    )


def estimate_report(formula: Formula, program: ProgramFacts, device: DeviceFacts) -> EstimateReport:
    """The formula alone, as a report."""
    rows: dict[tuple[Role, str], int] = {}
    for leaf in formula.leaves:
        if leaf.counted:
            rows[(leaf.role, leaf.layer)] = rows.get((leaf.role, leaf.layer), 0) + leaf.bytes
    order = {role: place for place, role in enumerate(Role)}
    no_compile = Unknown("nothing was compiled")
    counted = [leaf for leaf in formula.leaves if leaf.counted]
    layers = list(dict.fromkeys(leaf.layer for leaf in counted if leaf.layer))
    leaves: dict[tuple[Role, str], list[Leaf]] = defaultdict(list)
    for leaf in counted:
        leaves[leaf.role, leaf.layer].append(leaf)

    def layer_bytes(layer: str, roles: Iterable[Role]) -> int:
        return sum(rows.get((role, layer), 0) for role in roles)

    return EstimateReport(
        program=program,
        device=device,
        rows=tuple(
            EstimateRow(
                term=role.value.replace("_", " "),
                symbol=formula.symbol(role),
                layer=layer,
                formula=_written_leaf_by_leaf(leaves[role, layer]),
                bytes=rows[(role, layer)],
            )
            for role, layer in sorted(rows, key=lambda key: order[key[0]])
        ),
        total_bytes=formula.bytes,
        layers=tuple(
            EstimateLayer(
                layer=layer,
                parameter_bytes=layer_bytes(layer, [Role.PARAMETERS]),
                gradient_bytes=layer_bytes(layer, [Role.GRADIENTS]),
                optimizer_bytes=layer_bytes(layer, OPTIMIZER_ROLES),
                activation_bytes=layer_bytes(layer, ACTIVATIONS),
            )
            for layer in layers
        ),
        estimates=(
            Estimate(name="jaxmem", formula=written_out(formula), bytes=formula.bytes, error_percent=no_compile),
            *(
                Estimate(name=t.name, formula=t.formula, bytes=t.bytes, error_percent=no_compile)
                for t in formula.textbook
            ),
        ),
        notes=(f"The formula's peak is in the {formula.peak}.",),
    )


def _written_leaf_by_leaf(leaves: Iterable[Leaf], most: int = 6) -> str:
    """What a row adds up."""
    named = [f"{leaf.name} {leaf.bytes:,}" for leaf in sorted(leaves, key=lambda leaf: -leaf.bytes)]
    more = [f"{len(named) - most} more"] if len(named) > most else []
    return " + ".join(named[:most] + more)
