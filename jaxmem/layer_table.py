"""LayerTable: the traced program as plain data, before any compiler has seen it.

Every array of the program is a `Value`, every equation an `Operation`. Nested calls (jit, custom derivatives, remat) are
inlined; the operations of a loop's body carry ``repeat``. Data only, without JAX.
"""

from dataclasses import dataclass
from math import prod

from jaxmem.roles import Phase

EXCHANGING = frozenset(
    """all_gather all_gather_invariant all_gather_reduced all_to_all ppermute psum psum_invariant pmax pmin reduce_scatter
    unreduced_psum unreduced_reduce_scatter""".split()
)
"""JAX's primitives with which a program for one device (``shard_map``) exchanges data with the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One array of the traced program.

    Attributes:
        shape, dtype, itemsize_bits: as traced: the whole array, on however many devices it lies.
        continues: for what a loop returns, the value that it carries from turn to turn and whose last version this is, in the
            same place; None for anything else.
        divided_over: devices among which its elements are divided in equal parts; 1 where each device has the whole.
        operation: index of the operation that makes it; None for an argument or a captured constant.
        argument: index of the program argument it is; None otherwise.
    """

    shape: tuple[int, ...]
    dtype: str
    itemsize_bits: int
    operation: int | None = None
    argument: int | None = None
    divided_over: int = 1
    continues: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements on one device, 1 for a scalar."""
        return prod(self.shape) // self.divided_over

    @property
    def logical_bytes(self) -> int:
        """Bytes on one device, without padding."""
        return (self.elements * self.itemsize_bits + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One equation of the traced program.

    Attributes:
        primitive: JAX's name, e.g. ``conv_general_dilated``.
        scope: the name stack as JAX hands it to XLA, e.g. ``jvp(conv1_1)``; ``scope + "/" + primitive`` ends the operation's
            ``op_name`` in the compiled module.
        layer: the layer path it belongs to; empty where none was found.
        phase: forward, backward or update.
        operands, results: indices of values; a literal operand is left out.
        repeat: how often it runs in one step (the trip count of the loops around it); None where that is not known.
        source: ``file:line`` of the user's code, empty where unknown.
        sizes: the parameters of the equation that are whole numbers, by JAX's name (``window_strides``, ``padding``, ``axes``),
            nested ones flattened; of dimension numbers, each part under its own name (``lhs_contracting``, ``out_spec``).
        same: digest of the primitive, its parameters and its literal operands: two operations with this and their operands in
            common compute the same. Empty where the parameters do not say.
        hands_on: for what a loop or a branch receives or returns, how many of the first operands may become the result, as they
            are, a slice of them, or stacked: one, or one from each branch; 0 for any other operation.
    """

    primitive: str
    scope: str
    layer: str
    phase: Phase
    operands: tuple[int, ...]
    results: tuple[int, ...]
    repeat: int | None = 1
    source: str = ""
    sizes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    same: str = ""
    hands_on: int = 0

    @property
    def in_loop(self) -> bool:
        """Whether it stands in the body of a loop or a branch, which is a computation of its own."""
        return "/body" in self.scope

    def size(self, name: str) -> tuple[int, ...]:
        """A parameter of whole numbers; empty where the equation has none of that name."""
        return next((numbers for known, numbers in self.sizes if known == name), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """The traced program.

    Attributes:
        values, operations: in the order of the trace.
        arguments: value index of every flat argument, in the order of the lowering's arguments.
        outputs: value index of every flat result; None where the result is a literal.
    """

    values: tuple[Value, ...]
    operations: tuple[Operation, ...]
    arguments: tuple[int, ...]
    outputs: tuple[int | None, ...]
