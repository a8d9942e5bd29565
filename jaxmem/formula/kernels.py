"""The formula's own program as data: arrays, and the kernels that read and write them."""

from dataclasses import dataclass

from jaxmem.layer_table import Operation, Value
from jaxmem.roles import Phase, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What the backend makes for its own sake.

    Attributes:
        role, layer, phase: as in a leaf of the formula.
        name: what a person calls it.
        why: the backend's habit, in a sentence.
        elements, itemsize_bits: its size.
    """

    role: Role
    layer: str
    phase: Phase
    name: str
    why: str
    elements: int
    itemsize_bits: int


def like(value: Value, operation: Operation, *, role: Role, name: str, why: str) -> Addition:
    """An addition of the size of a value, in the layer and the pass of an operation."""
    return Addition(
        role=role,
        layer=operation.layer,
        phase=operation.phase,
        name=name,
        why=why,
        elements=value.elements,
        itemsize_bits=value.itemsize_bits,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """What a kernel writes.

    Attributes:
        size_bytes: what it takes; 0 for a result of the program.
        result_bytes: of a result of the program, what it takes beside the temporaries.
        value: the value of the layer table that it is; None for what the backend adds.
        addition: what the backend adds; None for a value.
        stays: nothing frees it.
        takes_over: it may be written over an operand of its size that ends there.
        lends: it may be written over. One of several results never is: in XLA's simulated heap only who reads an instruction
            itself may write over what it makes, not who reads one element of a tuple, and nobody writes over what shares its
            memory with an operand anyway, as a scatter does (`HeapSimulator::RunComputation`).
        of_library: a library writes it, and hands it out in a table, with its workspace.
        over: the array that a library adds to, and writes over if nothing else reads it.
        is_number: it has one element.
        copy_of: the donated argument that it is a copy of, as a value; see `jaxmem.formula.backends.cuda.arguments_read_late`.
        same_as: the array whose memory it is, under another name and perhaps in another shape; -1 where that is an argument's.
            Schedulers count it as an array nevertheless.
    """

    size_bytes: int
    result_bytes: int = 0
    value: int | None = None
    addition: Addition | None = None
    stays: bool = False
    takes_over: bool = False
    lends: bool = True
    of_library: bool = False
    over: int | None = None
    is_number: bool = False
    copy_of: int | None = None
    same_as: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What the device runs at once.

    Attributes:
        operation: index of the operation of the layer table that it is named after.
        reads, writes: indices of arrays.
        arguments: values that it reads and that are arguments of the program.
    """

    operation: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Memory that the program has anyway and that stands idle for a while: arrays are put into it.

    Attributes:
        size_bytes: how much.
        after: kernels by index; it is idle behind all of them.
        before: a kernel by index; it is idle until that runs; None for the end of the program.
    """

    size_bytes: int
    after: tuple[int, ...] = ()
    before: int | None = None
