"""What XLA's own CPU runtime allocates for a convolution or product that no library fusion took.

Both run on Eigen's tensor contraction, which copies what it multiplies into blocks first (``allocateSlices`` in
`TensorContractionThreadPool.h`): all rows and columns of up to two slices of the depth. A slice is as deep as the whole, or,
where that is more than 320, the depth divided evenly (``k_cache`` in `GeneralBlockPanelKernel.h`). What it fills blocks up
with, and one more block for each thread, depend on the processor's caches and are left out: measured, 6 to 17 %.

A convolution with several output channels in a group has so many rows that each thread packs into blocks of its own
(``parallelize_by_sharding_dim_only``). The room for all rows is asked for all the same, but nothing is written there, and it
takes no memory: of 232 MB for a convolution with 64 channels, 9 MB became resident, threads included.

A convolution whose axes lie in another order than Eigen's runs as plain nested loops
(`PotentiallyImplementedAsEigenConvolution` in `xla/backends/cpu/codegen/ir_emission_utils.cc`). XLA brings those of the entry
computation in that order, not those in the bodies of loops (`ConvCanonicalization`): of the gradient of a depthwise
convolution, 331 MB of patches, and nothing in a loop.
"""

from math import prod

from jaxmem.xla.hlo import ConvolutionDimensions, Instruction, Module

_LARGEST_MATRIX_BYTES = 8 << 30
_DEEPEST_SLICE = 320
_SLICES = 2


def runtime_bytes(module: Module, instruction: Instruction) -> int:
    """Bytes that the runtime holds for itself while it runs an instruction; 0 for what it does not allocate for."""
    if instruction.opcode == "dot" and instruction.attributes.dot and len(instruction.operand_ids) == 2:
        return _dot_bytes(module, instruction)
    dimensions = instruction.attributes.convolution
    if instruction.opcode == "convolution" and dimensions and len(instruction.operand_ids) == 2:
        if not _is_in_order(dimensions):
            return 0
        return transposed_bytes(module, instruction) or _patches_bytes(module, instruction)
    return 0


def _is_in_order(dimensions: ConvolutionDimensions) -> bool:
    """Batch first and features last, as Eigen has them: ``b01f_01io->b01f``."""
    space = len(dimensions.input_spatial)
    return (
        dimensions.input_batch == dimensions.output_batch == 0
        and dimensions.input_feature == dimensions.output_feature == dimensions.kernel_output_feature == space + 1
        and dimensions.kernel_input_feature == space
    )


def transposed_bytes(module: Module, instruction: Instruction) -> int:
    """The matrix that is allocated for a transposed convolution, as backward passes of strided ones are.

    `EigenTransposedConv2D` (`xla/backends/cpu/runtime/convolution_internal.h`) multiplies the input, one row for each of
    its pixels, with the kernel, one column for each kernel pixel and output feature, and only then adds up what falls on
    the same output pixel. The product has batch × input pixels × kernel pixels × output features elements. It takes
    two-dimensional convolutions whose input is dilated, with one feature group, no stride and no dilated kernel, up to a
    matrix of 8 GiB; 0 for everything else.
    """
    dimensions = instruction.attributes.convolution
    if dimensions is None or len(instruction.attributes.window) != 2:
        return 0
    plain = all(each.stride == 1 and each.window_dilation == 1 for each in instruction.attributes.window)
    if not plain or all(each.base_dilation == 1 for each in instruction.attributes.window):
        return 0
    lhs, rhs = (module.instructions[operand].shape for operand in instruction.operand_ids[:2])
    if lhs.dimensions[dimensions.input_feature] != rhs.dimensions[dimensions.kernel_input_feature]:
        return 0  # several feature groups
    elements = lhs.dimensions[dimensions.input_batch] * rhs.dimensions[dimensions.kernel_output_feature]
    for axis, window in zip(dimensions.input_spatial, instruction.attributes.window, strict=True):
        elements *= lhs.dimensions[axis] * window.size
    matrix_bytes = elements * (lhs.logical_bytes // lhs.elements if lhs.elements else 0)
    return matrix_bytes if matrix_bytes <= _LARGEST_MATRIX_BYTES else 0


def _patches_bytes(module: Module, instruction: Instruction) -> int:
    """The patches of the input that `EigenGenericConv2D` gathers for depthwise convolutions: a row for each output pixel.

    All feature groups are started at once, each with patches of its own and its kernel. 0 where a group has several output
    channels.
    """
    dimensions = instruction.attributes.convolution
    assert dimensions is not None
    lhs, rhs = (module.instructions[operand].shape for operand in instruction.operand_ids)
    group_channels = rhs.dimensions[dimensions.kernel_input_feature]
    groups = max(lhs.dimensions[dimensions.input_feature] // max(group_channels, 1), 1)
    if rhs.dimensions[dimensions.kernel_output_feature] != groups:
        return 0
    rows = prod(instruction.shape.dimensions[number] for number in dimensions.output_spatial)
    rows *= instruction.shape.dimensions[dimensions.output_batch]
    item_bytes = lhs.logical_bytes // max(lhs.elements, 1)
    depth = prod(each.size for each in instruction.attributes.window) * group_channels
    return groups * _packed_elements(rows, 1, depth) * item_bytes


def _dot_bytes(module: Module, instruction: Instruction) -> int:
    """Both sides of a product; none for a product with a vector."""
    dimensions = instruction.attributes.dot
    assert dimensions is not None
    lhs, rhs = (module.instructions[operand].shape for operand in instruction.operand_ids)
    depth = prod(lhs.dimensions[number] for number in dimensions.lhs_contracting)
    batch = prod(lhs.dimensions[number] for number in dimensions.lhs_batch)
    rows, columns = (side.elements // max(depth * batch, 1) for side in (lhs, rhs))
    if rows <= 1 or columns <= 1:
        return 0
    return batch * _packed_elements(rows, columns, depth) * (lhs.logical_bytes // max(lhs.elements, 1))


def _packed_elements(rows: int, columns: int, depth: int) -> int:
    slices = max(-(-depth // _DEEPEST_SLICE), 1)
    return (rows + columns) * min(depth, _SLICES * -(-depth // slices))
