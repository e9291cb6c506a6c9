"""The table: for every operator, by which rule the gradient of each of its inputs is found.

A rule stands at the place of its input; inputs behind, such as shapes and axes, have no gradient to give.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.passes.gradients import (
    convolution,
    elementwise,
    normalization,
    pooling,
    products,
    quantization,
    shape,
)
from onnxmpq.passes.gradients.resize import resize
from onnxmpq.passes.gradients.step import Rule
from onnxmpq.passes.matching import holds_integers, is_standard

RULES: Mapping[str, tuple[Rule | None, ...]] = {
    # products
    "Conv": (convolution.conv_input, convolution.conv_weight, convolution.conv_bias),
    "ConvTranspose": (
        convolution.conv_transpose_input,
        convolution.conv_transpose_weight,
        convolution.conv_bias,
    ),
    "Einsum": (products.einsum, products.einsum, products.einsum),
    "Gemm": (products.gemm_left, products.gemm_right, products.gemm_bias),
    "MatMul": (products.matmul_left, products.matmul_right),
    # arithmetic
    "Add": (elementwise.add, elementwise.add),
    "Sub": (elementwise.add, elementwise.subtrahend),
    "Mul": (elementwise.mul, elementwise.mul),
    "Div": (elementwise.numerator, elementwise.denominator),
    "Pow": (elementwise.power_base, elementwise.power_exponent),
    "Where": (None, elementwise.where, elementwise.where),
    # functions of one value
    "Abs": (elementwise.absolute,),
    "Cast": (elementwise.cast,),
    "Dropout": (elementwise.dropout,),
    "Erf": (elementwise.erf,),
    "Exp": (elementwise.exp,),
    "Identity": (elementwise.pass_on,),
    "Log": (elementwise.log,),
    "Neg": (elementwise.neg,),
    "Reciprocal": (elementwise.reciprocal,),
    "Round": (elementwise.pass_on,),  # straight through, as in QuantizeLinear
    "Sqrt": (elementwise.sqrt,),
    # activations
    "Clip": (elementwise.clip, elementwise.clip_bound, elementwise.clip_bound),
    "Elu": (elementwise.elu,),
    "Gelu": (elementwise.gelu,),
    "HardSigmoid": (elementwise.hard_sigmoid,),
    "HardSwish": (elementwise.hard_swish,),
    "LeakyRelu": (elementwise.leaky_relu,),
    "PRelu": (elementwise.prelu, elementwise.prelu_slope),
    "Relu": (elementwise.relu,),
    "Sigmoid": (elementwise.sigmoid,),
    "Softplus": (elementwise.softplus,),
    "Tanh": (elementwise.tanh,),
    # normalization
    "BatchNormalization": (
        normalization.batch_norm,
        normalization.batch_norm_scale,
        normalization.batch_norm_shift,
        normalization.batch_norm_mean,
        normalization.batch_norm_variance,
    ),
    "InstanceNormalization": (
        normalization.instance_norm,
        normalization.instance_norm_scale,
        normalization.instance_norm_shift,
    ),
    "LayerNormalization": (
        normalization.layer_norm,
        normalization.layer_norm_scale,
        normalization.layer_norm_shift,
    ),
    "LogSoftmax": (normalization.log_softmax,),
    "Softmax": (normalization.softmax,),
    # pools and reductions
    "AveragePool": (pooling.average_pool,),
    "GlobalAveragePool": (pooling.global_average_pool,),
    "GlobalMaxPool": (pooling.global_max_pool,),
    "MaxPool": (pooling.max_pool,),
    "ReduceMean": (pooling.reduce_mean,),
    "ReduceSum": (pooling.reduce_sum,),
    # moves
    "DepthToSpace": (shape.depth_to_space,),
    "Expand": (shape.expand,),
    "Flatten": (shape.reshape,),
    "Pad": (shape.pad, None, shape.pad_value),
    "Reshape": (shape.reshape,),
    "Resize": (resize,),
    "Slice": (shape.slice_,),
    "SpaceToDepth": (shape.space_to_depth,),
    "Split": (shape.split,),
    "Squeeze": (shape.reshape,),
    "Transpose": (shape.transpose,),
    "Unsqueeze": (shape.reshape,),
    # quantization
    "DequantizeLinear": (quantization.dequantize_codes, quantization.dequantize_scale),
    "QuantizeLinear": (quantization.quantize_input, quantization.quantize_scale),
}

# Operators that take any number of inputs, all of a kind.
VARIADIC_RULES: Mapping[str, Rule] = {
    "Concat": shape.concat,
    "Max": elementwise.extreme,
    "Min": elementwise.extreme,
    "Sum": elementwise.add,
}

# Inputs that only say how: whatever they were computed from, no gradient reaches it by them.
_PARAMETERS: Mapping[str, frozenset[int]] = {
    "DequantizeLinear": frozenset({2}),
    "Dropout": frozenset({1, 2}),
    "Expand": frozenset({1}),
    "OneHot": frozenset({0, 1}),
    "Pad": frozenset({1, 3}),
    "QuantizeLinear": frozenset({2}),
    "Range": frozenset({1}),
    "ReduceMean": frozenset({1}),
    "ReduceSum": frozenset({1}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    "Where": frozenset({0}),
}


# Operators whose output stays the same under small changes of any input.
_STEPS = frozenset({
    "And", "ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf",
    "IsNaN", "Less", "LessOrEqual", "NonZero", "Not", "Or", "Shape", "Sign", "Size", "Xor",
})  # fmt: skip
_FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def is_parameter(node: gs.Node, index: int) -> bool:
    """True for an input that a gradient never reaches."""
    if not is_standard(node):
        return False
    return node.op in _STEPS or _makes_integers(node) or index in _PARAMETERS.get(node.op, frozenset())


def _makes_integers(node: gs.Node) -> bool:
    """True for a Cast of floats to anything else, which is a step, too."""
    return node.op == "Cast" and node.attrs["to"] not in _FLOAT_TYPES and not holds_integers(node.inputs[0])


def find_rule(node: gs.Node, index: int) -> Rule | None:
    """The rule for one input of a node, None where there is none."""
    if not is_standard(node):
        return None
    if node.op in VARIADIC_RULES:
        return VARIADIC_RULES[node.op]
    rules = RULES.get(node.op, ())
    return rules[index] if index < len(rules) else None
