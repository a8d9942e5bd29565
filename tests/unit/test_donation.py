"""Which result is written over which donated argument, by JAX's rule."""

from jaxmem.formula.donation import slots
from jaxmem.lowering import Argument, Output
from jaxmem.roles import Role


def argument(*shape, donated=True, dtype="float32"):
    bits = 32 if dtype == "float32" else 16
    return Argument(
        path=f"a{shape}",
        shape=shape,
        dtype=dtype,
        itemsize_bits=bits,
        role=Role.INPUTS,
        role_rule="by hand",
        donated=donated,
    )


def output(*shape, dtype="float32"):
    bits = 32 if dtype == "float32" else 16
    return Output(path=f"r{shape}", shape=shape, dtype=dtype, itemsize_bits=bits, role=Role.OUTPUTS)


def test_a_result_takes_the_first_donated_argument_of_its_kind_whatever_that_means():
    """Of a state (μ, ν) that is donated without its parameters, the new parameters take the slot of μ, and ν finds none."""
    given = (argument(4, 6, donated=False), argument(4, 6), argument(4, 6))
    assert slots(given, (output(4, 6), output(4, 6), output(4, 6)), {0, 1, 2}) == {0: 1, 1: 2}


def test_another_number_format_is_another_kind():
    assert slots((argument(8),), (output(8, dtype="bfloat16"),), {0}) == {}


def test_an_argument_that_the_program_does_not_receive_lends_nothing():
    assert slots((argument(8),), (output(8),), set()) == {}


def test_what_is_left_is_matched_by_its_number_of_elements_after_the_rest():
    """A transposed result takes the donated input, unless another result has the input's own shape."""
    assert slots((argument(2, 32),), (output(2, 8, 4),), {0}) == {0: 0}
    assert slots((argument(2, 32),), (output(2, 8, 4), output(2, 32)), {0}) == {1: 0}
