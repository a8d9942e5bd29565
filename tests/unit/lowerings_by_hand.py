"""The arguments and results of a program, as its lowering would list them, written by hand."""

from jaxmem.lowering import Argument, Output
from jaxmem.roles import Role


def argument(number, name, shape, role, *, layer="", path=""):
    """Donated, unless it is an input."""
    return Argument(
        path=name,
        shape=shape,
        dtype="float32",
        itemsize_bits=32,
        role=role,
        role_rule="by hand",
        layer=layer,
        parameter_path=path,
        donated=role is not Role.INPUTS,
        parameter_number=number,
    )


def replacing(number, of):
    """The result that replaces an argument."""
    return Output(
        path=f"result[{number}]",
        shape=of.shape,
        dtype="float32",
        itemsize_bits=32,
        role=of.role,
        layer=of.layer,
        parameter_path=of.parameter_path,
        argument_index=number,
    )
