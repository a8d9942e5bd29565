"""A convolution inside a fused computation, as YNNPACK runs it: its product, its packed kernel, the input of a task."""

from dataclasses import dataclass
from math import prod

from jaxmem.hidden.kernels import Product, divide
from jaxmem.xla.hlo import Instruction, Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """One convolution.

    Attributes:
        instruction, left: itself and its input.
        product: how the library divides its work.
        groups: of channels; 1 for most.
        group_channels: input channels of one group.
        item_bytes: of one element.
        padded: whether its input is padded.
        packed_bytes: its packed kernel; 0 where it is read where it stands.
    """

    instruction: Instruction
    left: Instruction
    product: Product
    groups: int
    group_channels: int
    item_bytes: int
    padded: bool
    packed_bytes: int

    @property
    def is_one_task(self) -> bool:
        """Whether all its work is one task, which then takes part in the loops of its reader."""
        return self.groups == 1 and self.product.row_tasks * self.product.column_tasks == 1

    @property
    def windows(self) -> int:
        """Elements of its window."""
        return prod(each.size for each in self.instruction.attributes.window)

    @property
    def results(self) -> list[int]:
        """Its spatial dimensions."""
        assert self.instruction.attributes.convolution is not None
        return [
            self.instruction.shape.dimensions[number]
            for number in self.instruction.attributes.convolution.output_spatial
        ]

    def tasks(self) -> list[tuple[int, int]]:
        """The ranges of the last spatial dimension that the tasks make, one for each block of columns."""
        step = self.product.row_split
        ranges = [
            (start, min(start + step, self.product.rows)) for start in range(0, min(self.product.rows, 64 * step), step)
        ]
        return ranges * min(self.product.column_tasks, 64)

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """The range of the input's last spatial dimension, without padding, that the results of a range read."""
        assert self.instruction.attributes.convolution is not None
        last = self.instruction.attributes.window[-1]
        size = self.left.shape.dimensions[self.instruction.attributes.convolution.input_spatial[-1]]
        first = start * last.stride - last.padding_low
        end = (stop - 1) * last.stride - last.padding_low + (last.size - 1) * last.window_dilation + 1
        return max(first, 0), min(end, size)

    def input_bytes(self, columns: int, *, gathers: bool, rows: int | None = None) -> int:
        """A task's own copy of what ``columns`` results of the last spatial dimension read, in all other dimensions.

        Args:
            gathers: window by window, where it is not padded.
            rows: how many results of the first spatial dimension it makes; None for all.
        """
        dimensions, window = self.instruction.attributes.convolution, self.instruction.attributes.window
        assert dimensions is not None
        outer = [
            size for number, size in enumerate(self.left.shape.dimensions) if number not in dimensions.input_spatial
        ]
        if gathers and not self.padded:
            results = self.results[:-1]
            if results and rows is not None:
                results[0] = min(results[0], rows)
            return prod(outer) * prod(results) * columns * self.windows * self.item_bytes
        spatial = self._padded()
        if spatial and rows is not None:
            first = window[0]
            spatial[0] = min(spatial[0], (rows - 1) * first.stride + (first.size - 1) * first.window_dilation + 1)
        if spatial:
            last = window[-1]
            spatial[-1] = min(spatial[-1], (columns - 1) * last.stride + (last.size - 1) * last.window_dilation + 1)
        return prod(outer) * prod(max(size, 0) for size in spatial) * self.item_bytes

    def result_bytes(self, columns: int) -> int:
        """Bytes of its results in a range of the last spatial dimension."""
        width = max(self.results[-1], 1) if self.results else 1
        return self.instruction.shape.logical_bytes // width * min(columns, width)

    def grouped_bytes(self) -> int:
        """What each task of a convolution in several groups holds: the padded input, and all of it gathered beside.

        Where every channel is a group of its own (depthwise), the windows are read where they stand.
        """
        assert self.instruction.attributes.convolution is not None
        images = self.instruction.shape.dimensions[self.instruction.attributes.convolution.output_batch]
        channels = self.groups * self.group_channels
        gathered = images * prod(self.results) * self.windows * channels if self.group_channels > 1 else 0
        spatial = prod(max(size, 0) for size in self._padded())
        padded = images * spatial * channels if self.padded else 0
        return (gathered + padded) * self.item_bytes

    def _padded(self) -> list[int]:
        dimensions = self.instruction.attributes.convolution
        assert dimensions is not None
        return [
            self.left.shape.dimensions[number] + each.padding_low + each.padding_high
            for number, each in zip(dimensions.input_spatial, self.instruction.attributes.window, strict=True)
        ]


def read_convolution(module: Module, instruction: Instruction, features: frozenset[str]) -> Convolution | None:
    """The convolution that an instruction is, on a processor with these extensions; None for anything else.

    Raises:
        UnknownKernel: the library's kernels are not known.
    """
    dimensions = instruction.attributes.convolution
    if instruction.opcode != "convolution" or dimensions is None or len(instruction.operand_ids) != 2:
        return None
    left, kernel = (module.instructions[operand] for operand in instruction.operand_ids)
    item_bytes = left.shape.logical_bytes // max(left.shape.elements, 1)
    group_channels = kernel.shape.dimensions[dimensions.kernel_input_feature]
    groups = max(left.shape.dimensions[dimensions.input_feature] // max(group_channels, 1), 1)
    results = [instruction.shape.dimensions[number] for number in dimensions.output_spatial]
    in_groups = groups > 1
    product = divide(
        rows=1 if in_groups or not results else results[-1],
        columns=kernel.shape.dimensions[dimensions.kernel_output_feature] // groups,
        depth=group_channels,
        windows=prod(each.size for each in instruction.attributes.window),
        repeats=instruction.shape.dimensions[dimensions.output_batch] * prod(results if in_groups else results[:-1]),
        element_type=left.shape.element_type,
        item_bytes=item_bytes,
        features=features,
    )
    return Convolution(
        instruction=instruction,
        left=left,
        product=product,
        groups=groups,
        group_channels=group_channels,
        item_bytes=item_bytes,
        padded=any(each.padding_low or each.padding_high for each in instruction.attributes.window),
        packed_bytes=groups * product.depth * product.packed_columns * item_bytes,
    )
