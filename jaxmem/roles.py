"""The vocabulary: what a byte is for (role), when it is made (phase), and what it belongs to (layer path)."""

from enum import StrEnum


class Role(StrEnum):
    """What a byte is for. The roles partition the account: every required byte has exactly one."""

    PARAMETERS = "parameters"
    MODEL_STATE = "model_state"
    OPTIMIZER_FIRST_MOMENT = "optimizer_first_moment"
    OPTIMIZER_SECOND_MOMENT = "optimizer_second_moment"
    OPTIMIZER_OTHER = "optimizer_other"
    OTHER_STATE = "other_state"
    INPUTS = "inputs"
    GRADIENTS = "gradients"
    SAVED_ACTIVATIONS = "saved_activations"
    TRANSIENT = "transient"
    WORKSPACE = "workspace"
    CONSTANTS = "constants"
    OUTPUTS = "outputs"
    PROGRAM_CODE = "program_code"
    COLLECTIVES = "collectives"
    PADDING = "padding"
    FRAGMENTATION = "fragmentation"
    HIDDEN = "hidden"
    UNATTRIBUTED = "unattributed"


OPTIMIZER_ROLES = frozenset({Role.OPTIMIZER_FIRST_MOMENT, Role.OPTIMIZER_SECOND_MOMENT, Role.OPTIMIZER_OTHER})
STATE_ROLES = frozenset({Role.PARAMETERS, Role.MODEL_STATE, Role.OTHER_STATE}) | OPTIMIZER_ROLES
"""Roles of what a training step carries from one call to the next."""


class Phase(StrEnum):
    """When in a step a value is made. Inference is all forward."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"
    UNKNOWN = "unknown"
