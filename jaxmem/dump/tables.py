"""The tables of arguments and results that the compiled module itself knows, in place of those of a lowering."""

from dataclasses import dataclass
from math import prod

from jaxmem.dump.roles import RoleTable
from jaxmem.lowering import Argument, Output
from jaxmem.roles import OPTIMIZER_ROLES, Role
from jaxmem.xla import Module, Shape, ShapeIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Arguments and results of a dumped program.

    Attributes:
        arguments: by number. Where the role is not known, `Role.INPUTS` stands in its place.
        outputs: one that is written over an argument has that argument's role, as far as it is known.
        unknown: numbers of the arguments whose role is not known.
    """

    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    unknown: frozenset[int]


def tables(module: Module, roles: RoleTable | None = None) -> Tables:
    """Read the tables out of a module, and the roles out of a file of them.

    Raises:
        InputError: the file speaks of arguments that the program does not have.
    """
    leaves = _parameter_leaves(module)
    names = [name for name, _ in leaves]
    given = {} if roles is None else roles.roles(names)
    numbers = _numbers(module)
    aliases = {
        alias.output_shape_index: numbers[alias.parameter_number, alias.parameter_shape_index]
        for alias in module.input_output_alias
    }
    donated = set(aliases.values()) | {
        numbers[donor.parameter_number, donor.parameter_shape_index] for donor in module.buffer_donors
    }
    arguments = tuple(
        Argument(
            path=name,
            shape=shape.dimensions,
            dtype=shape.element_type,
            itemsize_bits=_bits(shape),
            role=given.get(number, Role.INPUTS),
            role_rule="the file of roles" if number in given else "not known",
            # A program's parameters cannot be told apart by less than their names.
            parameter_path=name if given.get(number) in OPTIMIZER_ROLES | {Role.PARAMETERS} else "",
            donated=number in donated,
            parameter_number=number,
        )
        for number, (name, shape) in enumerate(leaves)
    )
    return Tables(
        arguments=arguments,
        outputs=_outputs(module, arguments, aliases, given),
        unknown=frozenset(range(len(arguments))) - set(given),
    )


def _outputs(
    module: Module, arguments: tuple[Argument, ...], aliases: dict[tuple[int, ...], int], given: dict[int, Role]
) -> tuple[Output, ...]:
    outputs = []
    for index, shape in module.instructions[module.entry.root_id].shape.leaves:
        number = aliases.get(index)
        role = Role.OUTPUTS if number is None else given.get(number, Role.OUTPUTS)
        outputs.append(
            Output(
                path=f"result{''.join(f'[{part}]' for part in index)}",
                shape=shape.dimensions,
                dtype=shape.element_type,
                itemsize_bits=_bits(shape),
                role=role,
                parameter_path="" if number is None else arguments[number].parameter_path,
                argument_index=number,
            )
        )
    return tuple(outputs)


def _parameter_leaves(module: Module) -> list[tuple[str, Shape]]:
    """Name and shape of every argument by number. JAX writes an argument's path; others have XLA's name of it.

    Where the arguments arrive as one tuple, its leaves are the arguments.
    """
    leaves = []
    for parameter in module.parameters:
        name = parameter.op_name if _is_path(parameter.op_name) else parameter.name
        for index, shape in parameter.shape.leaves:
            leaves.append((f"{name}{''.join(f'[{part}]' for part in index)}", shape))
    return leaves


def _is_path(op_name: str) -> bool:
    """TensorFlow calls every parameter ``XLA_Args``."""
    return bool(op_name) and op_name != "XLA_Args"


def _numbers(module: Module) -> dict[tuple[int | None, ShapeIndex], int]:
    """The number of the argument at each place of the entry parameters."""
    places = [(each.parameter_number, index) for each in module.parameters for index, _ in each.shape.leaves]
    return {place: number for number, place in enumerate(places)}


def _bits(shape: Shape) -> int:
    return shape.logical_bytes * 8 // max(prod(shape.dimensions), 1)
