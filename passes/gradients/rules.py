"""The table: for every operator, by which rule the gradient of each of its inputs is found.

A rule stands at the place of its input; inputs behind, such as shapes and axes, have no gradient to give. In a rule of
one line s is the step: x is the first input, y the output, g the gradient with respect to y.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pi, sqrt

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
    "Conv": (convolution.conv_input, convolution.conv_weight, normalization.channel_shift),
    "ConvTranspose": (
        convolution.conv_transpose_input,
        convolution.conv_transpose_weight,
        normalization.channel_shift,
    ),
    "Einsum": (products.einsum, products.einsum, products.einsum),
    "Gemm": (products.gemm_left, products.gemm_right, products.gemm_bias),
    "MatMul": (products.matmul_left, products.matmul_right),
    # arithmetic of two operands, which may broadcast
    "Add": (elementwise.addend, elementwise.addend),
    "Sub": (elementwise.addend, lambda s: s.to_asked(s("Neg", s.g))),
    "Mul": (lambda s: s.to_asked(s("Mul", s.g, s.input(1))), lambda s: s.to_asked(s("Mul", s.g, s.x))),
    "Div": (
        lambda s: s.to_asked(s("Div", s.g, s.input(1))),
        lambda s: s.to_asked(s("Mul", s.g, s("Neg", s("Div", s.y, s.input(1))))),
    ),
    "Pow": (elementwise.power_base, elementwise.power_exponent),
    "Where": (
        None,
        lambda s: s.to_asked(s("Where", s.x, s.g, 0.0)),
        lambda s: s.to_asked(s("Where", s.x, 0.0, s.g)),
    ),
    # functions of one value
    "Abs": (lambda s: s("Mul", s.g, s("Sign", s.x)),),
    "Cast": (elementwise.cast,),
    "Dropout": (elementwise.dropout,),
    "Erf": (lambda s: s("Mul", s.g, s("Mul", s("Exp", s("Neg", s("Mul", s.x, s.x))), 2 / sqrt(pi))),),
    "Exp": (lambda s: s("Mul", s.g, s.y),),
    "Identity": (lambda s: s.g,),
    "Log": (lambda s: s("Div", s.g, s.x),),
    "Neg": (lambda s: s("Neg", s.g),),
    "Reciprocal": (lambda s: s("Neg", s("Mul", s.g, s("Mul", s.y, s.y))),),
    "Round": (lambda s: s.g,),  # straight through, as in QuantizeLinear
    "Sqrt": (lambda s: s("Div", s("Mul", s.g, 0.5), s.y),),
    # activations
    "Clip": (elementwise.clip, elementwise.clip_bound, elementwise.clip_bound),
    "Elu": (elementwise.elu,),
    "Gelu": (elementwise.gelu,),
    "HardSigmoid": (elementwise.hard_sigmoid,),
    "HardSwish": (elementwise.hard_swish,),
    "LeakyRelu": (lambda s: elementwise.with_slope(s, s.attribute("alpha", 0.01)),),
    "PRelu": (
        lambda s: elementwise.with_slope(s, s.input(1)),
        lambda s: s.to_asked(s("Mul", s.g, s("Min", s.x, 0.0))),
    ),
    "Relu": (elementwise.relu,),
    "Sigmoid": (lambda s: s("Mul", s.g, s("Mul", s.y, s("Sub", 1.0, s.y))),),
    "Softplus": (lambda s: s("Mul", s.g, s("Sigmoid", s.x)),),
    "Tanh": (lambda s: s("Mul", s.g, s("Sub", 1.0, s("Mul", s.y, s.y))),),
    # normalization
    "BatchNormalization": (
        normalization.batch_norm,
        normalization.batch_norm_scale,
        normalization.channel_shift,
        normalization.batch_norm_mean,
        normalization.batch_norm_variance,
    ),
    "InstanceNormalization": (
        normalization.instance_norm,
        normalization.instance_norm_scale,
        normalization.channel_shift,
    ),
    "LayerNormalization": (
        normalization.layer_norm,
        normalization.layer_norm_scale,
        elementwise.addend,
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
    "Expand": (elementwise.addend,),
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
    "Sum": elementwise.addend,
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
