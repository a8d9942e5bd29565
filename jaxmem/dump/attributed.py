"""What each buffer of a dumped program is for, as far as the compiled module tells without the program.

The rules are those of every program. What they decide by an argument's role, where that is not known, or by the phase, where
the names do not tell it, is taken back here: it is unattributed, for a reason.
"""

from jaxmem.attribution import Attribution, Dataflow, Facts, attribute
from jaxmem.dump.tables import Tables
from jaxmem.layer_paths import name_stack, scope_components, tells_phases
from jaxmem.profile import MemoryProfile
from jaxmem.roles import Phase, Role

OF_AN_ARGUMENT = "an argument of the program; a dump does not say what for"
OVER_AN_ARGUMENT = "written over an argument of the program; a dump does not say what for"
NEEDS_PROGRAM = "without the program a gradient is not told from the work on it"
NEEDS_NAMES = "the names of the operations do not tell the forward pass from the backward pass"

_BY_MODULE = frozenset({Role.CONSTANTS, Role.WORKSPACE, Role.OUTPUTS, Role.SAVED_ACTIVATIONS})
"""Roles that the compiled module decides by itself, with the phases of its operations."""


def attribute_dump(profile: MemoryProfile, tables: Tables) -> tuple[Facts, dict[int, Attribution]]:
    """Facts about every array, and role, layer and phase of every buffer by its id; ``rule`` says why a role is not known."""
    facts = Facts(Dataflow(profile.module), tables.arguments, tables.outputs)
    has_phases = tells_phases(instruction.op_name for instruction in profile.module.instructions.values())
    layers = {buffer.id: _layer(profile.instruction(buffer).op_name) for buffer in profile.buffers}
    answers = {}
    for identifier, attribution in attribute(profile, facts).items():
        answers[identifier] = attribution._replace(
            layer=layers[identifier] or attribution.layer,
            phase=attribution.phase if has_phases else Phase.UNKNOWN,
        )
        if (reason := _doubt(attribution, facts, tables, has_phases)) is not None:
            answers[identifier] = answers[identifier]._replace(role=Role.UNATTRIBUTED, rule=reason)
    return facts, answers


def _doubt(attribution: Attribution, facts: Facts, tables: Tables, has_phases: bool) -> str | None:
    """Why the role that the rules found cannot be relied on; None where it can."""
    argument = facts.argument[attribution.node] if attribution.node is not None else None
    if attribution.role is Role.OUTPUTS and attribution.node is not None:
        position = facts.output_of(attribution.node)
        replaced = None if position is None else tables.outputs[position].argument_index
        return OVER_AN_ARGUMENT if replaced in tables.unknown else None
    if attribution.role is Role.INPUTS and argument is not None:
        return OF_AN_ARGUMENT if argument.parameter_number in tables.unknown else None
    if attribution.role in _BY_MODULE:
        return None
    if not has_phases and attribution.role in (Role.TRANSIENT, Role.UNATTRIBUTED):
        return NEEDS_NAMES
    if not tables.unknown or (attribution.role is Role.TRANSIENT and attribution.phase is Phase.FORWARD):
        return None
    # The rule of an argument's own role: a file gave it.
    return None if argument is not None else NEEDS_PROGRAM


def _layer(op_name: str) -> str:
    return "/".join(scope_components(name_stack(op_name)))
