"""What an instruction says beside its opcode, shape and operands."""

from typing import Any

from jaxmem.xla.hlo import (
    Attributes,
    ConvolutionDimensions,
    DotDimensions,
    OutputOperandAliasing,
    WindowDimension,
)


def decode_attributes(proto: Any, opcode: str) -> Attributes:
    """Read them from a parsed `Instruction` message."""
    return Attributes(
        parameter_number=proto.parameter_number if opcode == "parameter" else None,
        tuple_index=proto.tuple_index if opcode == "get-tuple-element" else None,
        fusion_kind=text(proto.fusion_kind),
        custom_call_target=text(proto.custom_call_target),
        dimensions=tuple(proto.dimensions),
        slice_starts=tuple(dimension.start for dimension in proto.slice_dimensions),
        window=_window(proto.window),
        convolution=_convolution(proto.convolution_dimension_numbers) if opcode == "convolution" else None,
        dot=_dot(proto.dot_dimension_numbers) if opcode == "dot" else None,
        output_operand_aliasing=tuple(
            OutputOperandAliasing(
                output_index=tuple(alias.output_shape_index),
                operand_index=alias.operand_index,
                operand_shape_index=tuple(alias.operand_shape_index),
            )
            for alias in proto.output_operand_aliasing
        ),
    )


def text(value: bytes) -> str:
    """Text of a proto field; a byte that is no UTF-8 becomes a replacement character."""
    return value.decode("utf-8", errors="replace")


def _window(window: Any) -> tuple[WindowDimension, ...]:
    return tuple(
        WindowDimension(
            size=dimension.size,
            stride=dimension.stride,
            padding_low=dimension.padding_low,
            padding_high=dimension.padding_high,
            window_dilation=dimension.window_dilation,
            base_dilation=dimension.base_dilation,
        )
        for dimension in window.dimensions
    )


def _convolution(numbers: Any) -> ConvolutionDimensions:
    return ConvolutionDimensions(
        input_batch=numbers.input_batch_dimension,
        input_feature=numbers.input_feature_dimension,
        input_spatial=tuple(numbers.input_spatial_dimensions),
        kernel_input_feature=numbers.kernel_input_feature_dimension,
        kernel_output_feature=numbers.kernel_output_feature_dimension,
        output_batch=numbers.output_batch_dimension,
        output_feature=numbers.output_feature_dimension,
        output_spatial=tuple(numbers.output_spatial_dimensions),
    )


def _dot(numbers: Any) -> DotDimensions:
    return DotDimensions(
        lhs_contracting=tuple(numbers.lhs_contracting_dimensions),
        rhs_contracting=tuple(numbers.rhs_contracting_dimensions),
        lhs_batch=tuple(numbers.lhs_batch_dimensions),
        rhs_batch=tuple(numbers.rhs_batch_dimensions),
    )
