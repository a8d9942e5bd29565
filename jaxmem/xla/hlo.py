"""A compiled module as data: shapes, instructions, computations, schedule, aliasing, source positions.

Plain values without behaviour beyond looking things up. What they mean for memory is decided elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import NamedTuple

from jaxmem.errors import InputError
from jaxmem.xla.schema import PRIMITIVE_TYPES

ShapeIndex = tuple[int, ...]
"""The way into a nested tuple shape: ``()`` is the whole, ``(1, 0)`` the first element of the second element."""

_STORED_BITS = dict(PRIMITIVE_TYPES.values())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of an instruction's result. Instructions share them, and what is asked of one is found once.

    Attributes:
        element_type: lower-case XLA name: ``f32``, ``bf16``, ``s32``, ``pred``, ``tuple``, ``token``, ``opaque``, ...
        dimensions: of an array; for a dynamic dimension its upper bound.
        tuple_shapes: of a tuple.
        minor_to_major: dimension numbers, fastest varying first.
        tiles: the layout's tiles, e.g. ``((8, 128),)`` on TPU.
        memory_space: the layout's memory space, 0 for the device's main memory.
        element_size_in_bits: set where a layout packs elements narrower than a byte, else 0.
    """

    element_type: str
    dimensions: tuple[int, ...] = ()
    tuple_shapes: tuple["Shape", ...] = ()
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    memory_space: int = 0
    element_size_in_bits: int = 0

    @cached_property
    def is_tuple(self) -> bool:
        """Whether this is a tuple of shapes."""
        return self.element_type == "tuple"

    @cached_property
    def elements(self) -> int:
        """Number of elements of an array (1 for a scalar); 0 for anything that is no array."""
        return prod(self.dimensions) if _STORED_BITS.get(self.element_type) else 0

    @cached_property
    def logical_bytes(self) -> int:
        """Bytes of the elements alone, without padding; 0 for tuple, token and opaque.

        The pointer table of a tuple is storage, not content, and is not counted.
        """
        return (self.elements * (self.element_size_in_bits or _STORED_BITS.get(self.element_type, 0)) + 7) // 8

    @cached_property
    def bits(self) -> int:
        """Bits of one element as stored; 0 for anything that is no array."""
        return 8 * self.logical_bytes // self.elements if self.elements else 0

    @cached_property
    def leaves(self) -> tuple[tuple[ShapeIndex, "Shape"], ...]:
        """Every non-tuple shape inside, with its index, in order."""
        if not self.is_tuple:
            return (((), self),)
        return tuple(
            ((position, *index), leaf)
            for position, element in enumerate(self.tuple_shapes)
            for index, leaf in element.leaves
        )

    @cached_property
    def indices(self) -> tuple[ShapeIndex, ...]:
        """The index of every non-tuple shape inside, in order."""
        return tuple(index for index, _ in self.leaves)

    @cached_property
    def places(self) -> Mapping[ShapeIndex, int]:
        """Index of every non-tuple shape inside → its place in their order."""
        return {index: place for place, index in enumerate(self.indices)}

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Of a tuple, where in `leaves` each of its elements begins, and where the last one ends."""
        return tuple(accumulate((len(element.leaves) for element in self.tuple_shapes), initial=0))

    def subshape(self, index: ShapeIndex) -> "Shape":
        """The shape at ``index``.

        Raises:
            InputError: no such element.
        """
        shape = self
        for step in index:
            if not 0 <= step < len(shape.tuple_shapes):
                raise InputError(f"Shape {self.text()} has no element {index}: the dump does not fit together.")
            shape = shape.tuple_shapes[step]
        return shape

    def text(self) -> str:
        """As HLO text writes it: ``f32[32,224,224,64]{3,2,1,0}``, with tiles and memory space where there are any."""
        if self.is_tuple:
            return f"({', '.join(element.text() for element in self.tuple_shapes)})"
        dimensions = f"{self.element_type}[{_comma(self.dimensions)}]"
        notes = "".join(f"({_comma(tile)})" for tile in self.tiles)
        notes = f"T{notes}" if notes else ""
        notes += f"E({self.element_size_in_bits})" if self.element_size_in_bits else ""
        notes += f"S({self.memory_space})" if self.memory_space else ""
        if not self.minor_to_major and not notes:
            return dimensions
        return f"{dimensions}{{{_comma(self.minor_to_major)}{':' if notes else ''}{notes}}}"


def _comma(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOperandAliasing:
    """A custom call or fusion that writes part of its result into an operand's memory."""

    output_index: ShapeIndex
    operand_index: int
    operand_shape_index: ShapeIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowDimension:
    """One dimension of the window of a convolution or reduce-window. Padding is negative where it crops."""

    size: int
    stride: int
    padding_low: int
    padding_high: int
    window_dilation: int
    base_dilation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionDimensions:
    """Which dimension is what in a convolution's operands and result (`ConvolutionDimensionNumbers`)."""

    input_batch: int
    input_feature: int
    input_spatial: tuple[int, ...]
    kernel_input_feature: int
    kernel_output_feature: int
    output_batch: int
    output_feature: int
    output_spatial: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DotDimensions:
    """Which dimensions a dot contracts, and which it runs over (`DotDimensionNumbers`)."""

    lhs_contracting: tuple[int, ...]
    rhs_contracting: tuple[int, ...]
    lhs_batch: tuple[int, ...]
    rhs_batch: tuple[int, ...]


class Metadata(NamedTuple):
    """Where an instruction comes from, as the framework said.

    Attributes:
        op_name: the name stack that the framework gave, empty for most instructions the compiler made.
        stack_frame_id: key for `Module.source`; 0 where there is none.
        source_file, source_line: what older compilers write in place of a stack frame.
    """

    op_name: str = ""
    stack_frame_id: int = 0
    source_file: str = ""
    source_line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What an instruction computes besides its opcode, operands and shape. Instructions that compute the same share them.

    Attributes:
        parameter_number: of a ``parameter``, else None.
        tuple_index: of a ``get-tuple-element``, else None.
        fusion_kind: ``kLoop``, ``kCustom``, ...; empty where it is no fusion.
        dimensions: of broadcast, reduce, transpose, concatenate, iota, ...
        slice_starts: of a slice, one a dimension; empty otherwise.
        window: of a convolution or reduce-window, one entry a window dimension; empty otherwise.
        convolution: of a convolution, else None.
        dot: of a dot, else None.
    """

    parameter_number: int | None = None
    tuple_index: int | None = None
    fusion_kind: str = ""
    custom_call_target: str = ""
    dimensions: tuple[int, ...] = ()
    slice_starts: tuple[int, ...] = ()
    window: tuple[WindowDimension, ...] = ()
    convolution: ConvolutionDimensions | None = None
    dot: DotDimensions | None = None
    output_operand_aliasing: tuple[OutputOperandAliasing, ...] = ()


_NO_METADATA, _NO_ATTRIBUTES = Metadata(), Attributes()


class Instruction(NamedTuple):
    """One HLO instruction. There are many: a named tuple is made in a quarter of the time of a frozen dataclass.

    Attributes:
        id: unique in the module.
        name, opcode: e.g. ``fusion.3`` and ``fusion``.
        operand_ids, control_predecessor_ids: instructions of the same computation.
        called_computation_ids: fusion body, while condition and body, ...
        op_name: of its metadata.
        backend_config: as the backend wrote it, uninterpreted.
        fingerprint: the same number for two instructions of a module that compute the same from their operands: opcode, shape
            without layout, literal, window, dimension numbers, comparison direction, slice bounds, and every other field of
            the proto that is no name, id, metadata, sharding or (custom calls apart, where it says what to compute) backend
            configuration. Operands and called computations are not in it: combine it with theirs.
    """

    id: int
    name: str
    opcode: str
    shape: Shape
    computation_id: int
    operand_ids: tuple[int, ...] = ()
    control_predecessor_ids: tuple[int, ...] = ()
    called_computation_ids: tuple[int, ...] = ()
    op_name: str = ""
    metadata: Metadata = _NO_METADATA
    attributes: Attributes = _NO_ATTRIBUTES
    backend_config: bytes = b""
    fingerprint: int = 0

    @property
    def parameter_number(self) -> int | None:
        """Of a ``parameter``, else None."""
        return self.attributes.parameter_number

    @property
    def tuple_index(self) -> int | None:
        """Of a ``get-tuple-element``, else None."""
        return self.attributes.tuple_index


class Computation(NamedTuple):
    """One HLO computation; ``instruction_ids`` in the order of the proto, operands before their users. There are many."""

    id: int
    name: str
    instruction_ids: tuple[int, ...]
    root_id: int
    is_fusion: bool = False
    execution_thread: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOutputAlias:
    """An output that lives in a parameter's memory. ``kind`` is ``may`` or ``must`` (or ``undefined``)."""

    output_shape_index: ShapeIndex
    parameter_number: int
    parameter_shape_index: ShapeIndex
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferDonor:
    """A parameter whose memory any output may take, without saying which."""

    parameter_number: int
    parameter_shape_index: ShapeIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One position in the user's source."""

    file: str
    function: str
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFrame:
    """A frame and the frame that called it (1-based position in `Module.stack_frames`, 0 for none)."""

    frame: Frame
    parent_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A compiled module.

    Attributes:
        computations, instructions: by id.
        schedule: computation id to its instruction ids in the order they run; empty if the module is not scheduled.
        stack_frames: frame ``n`` of the proto at position ``n - 1``.
    """

    name: str
    entry_computation_id: int
    computations: Mapping[int, Computation] = field(repr=False)
    instructions: Mapping[int, Instruction] = field(repr=False)
    schedule: Mapping[int, tuple[int, ...]] = field(repr=False)
    input_output_alias: tuple[InputOutputAlias, ...] = ()
    buffer_donors: tuple[BufferDonor, ...] = ()
    stack_frames: tuple[StackFrame, ...] = field(default=(), repr=False)

    @property
    def entry(self) -> Computation:
        """The entry computation."""
        return self.computations[self.entry_computation_id]

    @property
    def parameters(self) -> tuple[Instruction, ...]:
        """The entry computation's parameters by number."""
        found = (self.instructions[i] for i in self.entry.instruction_ids)
        numbered = [(p.parameter_number, p) for p in found if p.parameter_number is not None]
        return tuple(parameter for _, parameter in sorted(numbered, key=lambda pair: pair[0]))

    def source(self, instruction: Instruction) -> tuple[Frame, ...]:
        """Where the instruction comes from, leaf frame first; empty where the compiler does not say."""
        frames = []
        frame_id = instruction.metadata.stack_frame_id
        while frame_id:
            entry = self.stack_frames[frame_id - 1]
            frames.append(entry.frame)
            frame_id = entry.parent_id
        if not frames and instruction.metadata.source_file:
            file, line = instruction.metadata.source_file, instruction.metadata.source_line
            frames.append(Frame(file=file, function="", line=line, column=0))
        return tuple(frames)
