"""What each role looks like, in one place: a hue for the family, lightness and hatching within it.

The hues are those of Okabe and Ito, which people who do not see all colours tell apart; where a role shares a hue, or is
no data of the program, it is hatched. Colours never speak alone: legends, tables and tooltips name the role.
"""

from dataclasses import dataclass

from jaxmem.roles import Phase, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colours on light and on dark ground, and the hatching by Bokeh's name, empty for none."""

    light: str
    dark: str
    hatch: str = ""


ROLES: dict[Role, Look] = {
    Role.PARAMETERS: Look(light="#0072b2", dark="#2b8fd0"),
    Role.MODEL_STATE: Look(light="#0072b2", dark="#2b8fd0", hatch="vertical_line"),
    Role.OPTIMIZER_FIRST_MOMENT: Look(light="#56b4e9", dark="#6fc1f0"),
    Role.OPTIMIZER_SECOND_MOMENT: Look(light="#a3d5f3", dark="#b5e0f8"),
    Role.OPTIMIZER_OTHER: Look(light="#56b4e9", dark="#6fc1f0", hatch="vertical_line"),
    Role.OTHER_STATE: Look(light="#5f7fa8", dark="#8aa6cc", hatch="horizontal_line"),
    Role.INPUTS: Look(light="#4d4d4d", dark="#c9ced6"),
    Role.GRADIENTS: Look(light="#d55e00", dark="#e8702a"),
    Role.SAVED_ACTIVATIONS: Look(light="#e69f00", dark="#eda820"),
    Role.TRANSIENT: Look(light="#f0e442", dark="#efe45c"),
    Role.WORKSPACE: Look(light="#cc79a7", dark="#d78bb5"),
    Role.CONSTANTS: Look(light="#009e73", dark="#18b083"),
    Role.OUTPUTS: Look(light="#7fd3b8", dark="#8fe0c6", hatch="horizontal_line"),
    Role.PROGRAM_CODE: Look(light="#8a8f98", dark="#7e8590", hatch="dot"),
    Role.COLLECTIVES: Look(light="#7a3b74", dark="#b06aa8"),
    Role.PADDING: Look(light="#b5bac2", dark="#5c6470", hatch="right_diagonal_line"),
    Role.FRAGMENTATION: Look(light="#d4d8de", dark="#474e59", hatch="left_diagonal_line"),
    Role.HIDDEN: Look(light="#6b7280", dark="#9aa3b0", hatch="cross"),
    Role.UNATTRIBUTED: Look(light="#c1121f", dark="#ff5964", hatch="diagonal_cross"),
}

PHASES: dict[Phase, Look] = {
    Phase.FORWARD: Look(light="#7c8798", dark="#8d98aa"),
    Phase.BACKWARD: Look(light="#39424f", dark="#d3dae4"),
    Phase.UPDATE: Look(light="#b0793a", dark="#d8a05c"),
}


def css_name(role: Role | Phase) -> str:
    """``saved_activations`` → ``saved-activations``."""
    return role.value.replace("_", "-")


def variables(*, dark: bool) -> str:
    """The colours as CSS variables: ``--role-…`` and ``--phase-…``."""
    named = [(f"--role-{css_name(role)}", look) for role, look in ROLES.items()]
    named += [(f"--phase-{css_name(phase)}", look) for phase, look in PHASES.items()]
    return "".join(f"{name}:{look.dark if dark else look.light};" for name, look in named)


def swatches() -> str:
    """The CSS classes that give an element the look of a role."""
    return "\n".join(
        f".role-{css_name(role)}{{--role:var(--role-{css_name(role)});--hatch:var(--hatch-{look.hatch or 'none'})}}"
        for role, look in ROLES.items()
    )
