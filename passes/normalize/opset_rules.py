"""What changed in the ONNX operators from opset 7 to 25, one small function per change.

`RULES[n]` rewrites nodes from their form in opset n - 1 to that of opset n, by operator; an operator without a
rule means the same in both. The source is the operators' changelog, onnx/docs/Changelog.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.errors import ModelError
from onnxmpq.passes.matching import is_constant, is_used, label, optional_input, read
from onnxmpq.passes.node_builder import NodeBuilder

logger = logging.getLogger(__name__)

Rule = Callable[[NodeBuilder, gs.Node], None]


def _attributes_to_inputs(
    names: Sequence[str], build: NodeBuilder, node: gs.Node, *, dtype: type = np.int64
) -> None:
    """Attributes become the inputs after the last one, in this order; an absent one ends the list."""
    for name in names:
        if name not in node.attrs:
            return
        values: NDArray[Any] = np.atleast_1d(np.asarray(node.attrs.pop(name), dtype))
        node.inputs.append(_constant(build, node, name, values))


def _drop(name: str, build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """An attribute that says nothing about inference is left out."""
    node.attrs.pop(name, None)


def _rename(op: str, build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """The operator has another name, and is the same otherwise."""
    node.op = op


def _broadcast_by_axis(build: NodeBuilder, node: gs.Node) -> None:
    """Opset 7: B broadcasts as in NumPy; before, it lay along A's dimensions from `axis` on."""
    node.attrs.pop("broadcast", None)
    axis = node.attrs.pop("axis", None)
    if axis is None:  # aligned at the end, as in NumPy
        return
    rank_a, rank_b = _rank(node, 0), _rank(node, 1)
    _append_dimensions(build, node, rank_a - axis % rank_a - rank_b)


def _broadcast_slope(build: NodeBuilder, node: gs.Node) -> None:
    """PRelu-7: the slope broadcasts as in NumPy; before, it was one number or one for each channel."""
    shape = node.inputs[1].shape
    if shape is None or list(shape) not in ([], [1]):
        _append_dimensions(build, node, _rank(node, 0) - 1 - _rank(node, 1))


def _append_dimensions(build: NodeBuilder, node: gs.Node, count: int) -> None:
    """Give input 1 `count` more dimensions of size 1 at its end."""
    if count <= 0:
        return
    tensor = node.inputs[1]
    rank = _rank(node, 1)
    if is_constant(tensor):
        values = read(tensor)
        node.inputs[1] = _constant(build, node, "operand", values.reshape(values.shape + (1,) * count))
    else:
        axes = {"axes": list(range(rank, rank + count))}
        node.inputs[1] = build.node("Unsqueeze", [tensor], _stem(node, "operand"), axes)


def _combine_scales(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """Upsample-7: one list of scales, and linear interpolation under one name."""
    height, width = node.attrs.pop("height_scale"), node.attrs.pop("width_scale")
    node.attrs["scales"] = [1.0, 1.0, height, width]
    if node.attrs.get("mode") == "bilinear":
        node.attrs["mode"] = "linear"


def _refuse_old_scan(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    raise ModelError(
        f"Scan {label(node)} is of opset 8, whose batched form later opsets lack; export the model with opset 9 or up"
    )


def _per_channel_normalization(build: NodeBuilder, node: gs.Node) -> None:
    """BatchNormalization-9 is always per channel; of one per element (`spatial` 0) a product and a sum are left.

    One whose statistics are no constants stays as it is and is refused by name.
    """
    if node.attrs.get("spatial") == 1:
        del node.attrs["spatial"]
    if "spatial" in node.attrs and len(node.outputs) == 1 and all(map(is_constant, node.inputs[1:])):
        _normalize_by_element(build, node)


def _normalize_by_element(build: NodeBuilder, node: gs.Node) -> None:
    """Y = x a + (b - mean a) with a = scale / sqrt(var + epsilon), all of [C, D1, ...]."""
    scale, bias, mean, variance = (read(tensor).astype(np.float64) for tensor in node.inputs[1:])
    x, dtype = node.inputs[0], node.inputs[1].dtype
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    factors = _constant(build, node, "scale", factor.astype(dtype))
    shift = _constant(build, node, "shift", (bias - mean * factor).astype(dtype))
    product = build.node("Mul", [x, factors], _stem(node, "product"))
    node.op, node.inputs = "Add", [product, shift]
    node.attrs.clear()


def _axes_of_normalization(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """MeanVarianceNormalization-9 names its axes; the experimental one is always of 4 dimensions."""
    across = node.attrs.pop("across_channels", 0)
    if node.attrs.get("normalize_variance") == 1:
        del node.attrs["normalize_variance"]
    node.attrs["axes"] = [0, 1, 2, 3] if across else [0, 2, 3]


def _limits_to_inputs(build: NodeBuilder, node: gs.Node) -> None:
    """Clip-11: the limits are optional inputs of the data's type."""
    limits = [node.attrs.pop(name, None) for name in ("min", "max")]
    while limits and limits[-1] is None:
        limits.pop()
    for name, value in zip(("min", "max"), limits, strict=False):
        absent = value is None
        node.inputs.append(gs.Variable.empty() if absent else _scalar(build, node, name, value))


def _padding_to_inputs(build: NodeBuilder, node: gs.Node) -> None:
    """Pad-11: the pads, and the value where it is not zero, are inputs."""
    value = node.attrs.pop("value", 0.0)
    _attributes_to_inputs(["pads"], build, node)
    if value != 0.0:
        node.inputs.append(_scalar(build, node, "value", value))


def _asymmetric_resize(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """Resize-11 names what Upsample and Resize-10 did: output index / scale, rounded down in nearest mode.

    Where Resize-10 makes the image smaller, ONNX's own test cases round up.
    """
    x, scales = node.inputs
    node.inputs = [x, gs.Variable.empty(), scales]
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    node.attrs["nearest_mode"] = "ceil" if _shrinks(node, scales) else "floor"


def _shrinks(node: gs.Node, scales: gs.Tensor) -> bool:
    if not is_constant(scales):
        logger.debug("%s %s: computed scales are taken to be at least 1", node.op, label(node))
        return False
    values = read(scales)
    nearest = node.attrs.get("mode", "nearest") == "nearest"
    if nearest and (values < 1).any() and (values > 1).any():
        raise ModelError(
            f"{node.op} {label(node)} makes one dimension smaller and another larger (scales {values.tolist()}), "
            "which no one rounding of opset 11 does; export the model with opset 11 or up"
        )
    return bool((values < 1).any())


def _normalize_last_axis(build: NodeBuilder, node: gs.Node) -> None:
    """Softmax-13 and its kin normalise over one axis; before, over all axes from `axis` on."""
    axis = node.attrs.get("axis", 1)
    x, y = node.inputs[0], node.outputs[0]
    shape = x.shape
    if axis == -1 or (shape is not None and all(d == 1 for d in shape[axis % len(shape) + 1 :])):
        node.attrs["axis"] = axis
        return
    flat = build.node("Flatten", [x], _stem(node, "flat"), {"axis": axis})
    normalized = build.node(node.op, [flat], _stem(node, "normalized"), {"axis": -1})
    node.op, node.attrs = "Reshape", {}
    node.inputs = [normalized, build.node("Shape", [x], _stem(node, "shape"))]
    y.shape = shape


def _half_pixel_nearest(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """Resize-13 has no tf_half_pixel_for_nn: floor((i + 0.5) / s) is (i + 0.5) / s - 0.5 rounded half up."""
    mode = "coordinate_transformation_mode"
    if node.attrs.get(mode) != "tf_half_pixel_for_nn":
        return
    if node.attrs.get("nearest_mode") != "floor":
        raise ModelError(
            f"Resize {label(node)}: {mode} tf_half_pixel_for_nn without nearest_mode floor has no successor in "
            "opset 13; export the model with opset 13 or up"
        )
    node.attrs[mode] = "half_pixel"
    node.attrs["nearest_mode"] = "round_prefer_ceil"


def _training_by_attribute(build: NodeBuilder, node: gs.Node) -> None:
    """BatchNormalization-14 trains where it is told to; before, where it gave five outputs: it normalised by the batch.

    The statistics of the batch itself, the last two of them, it gives no longer.
    """
    if any(is_used(build.graph, output) for output in node.outputs[3:]):
        raise ModelError(
            f"BatchNormalization {label(node)} gives out statistics of training; export the model for inference"
        )
    trains = any(not output.is_empty() for output in node.outputs[1:])
    while len(node.outputs) > (3 if trains else 1):
        node.outputs.pop()
    if trains:
        node.attrs["training_mode"] = 1


def _output_half_pixel(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """RoiAlign-16 shifts by half a pixel unless told not to."""
    node.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


def _count_outputs(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """Split-18: equal parts need their number."""
    if optional_input(node, 1) is None:
        node.inputs = node.inputs[:1]
        node.attrs["num_outputs"] = len(node.outputs)


def _interpolation_names(build: NodeBuilder, node: gs.Node) -> None:  # noqa: ARG001 - a rule's signature
    """GridSample-20: modes are named for any number of dimensions."""
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attrs.get("mode", "bilinear")
    node.attrs["mode"] = renamed.get(mode, mode)


def _transform_axis(build: NodeBuilder, node: gs.Node) -> None:
    """DFT-20: the axis is an input, and another one by default."""
    axis = np.array(node.attrs.pop("axis", 1), np.int64)
    node.inputs = [node.inputs[0], optional_input(node, 1) or gs.Variable.empty()]
    node.inputs.append(_constant(build, node, "axis", axis))


def _scale_per_channel(build: NodeBuilder, node: gs.Node) -> None:
    """GroupNormalization-21: scale and bias are per channel; before, per group."""
    shape = node.inputs[0].shape
    fixed = shape is not None and isinstance(shape[1], int)
    if not fixed or not all(is_constant(tensor) for tensor in node.inputs[1:]):
        raise ModelError(
            f"GroupNormalization {label(node)}: its scale and bias per group can be raised to opset 21 only where "
            "they are constant and the number of channels is known; export the model with opset 21 or up"
        )
    for index, name in ((1, "scale"), (2, "bias")):
        values = read(node.inputs[index])
        per_channel = np.repeat(values, shape[1] // values.size)
        node.inputs[index] = _constant(build, node, name, per_channel)


def _rank(node: gs.Node, index: int) -> int:
    shape = node.inputs[index].shape
    if shape is None:
        raise ModelError(
            f"{node.op} {label(node)} broadcasts by axis (opset 6), which needs the rank of its input "
            f"{node.inputs[index].name}, and it is not known; export the model with opset 7 or up"
        )
    return len(shape)


def _stem(node: gs.Node, role: str) -> str:
    return f"{node.outputs[0].name}_{role}"


def _constant(build: NodeBuilder, node: gs.Node, role: str, values: NDArray[Any]) -> gs.Constant:
    return build.constant(_stem(node, role), values)


def _scalar(build: NodeBuilder, node: gs.Node, role: str, value: float) -> gs.Constant:
    """A constant of the type of the node's data; single precision where inference did not find it."""
    dtype = node.inputs[0].dtype
    return _constant(build, node, role, np.array(value, np.float32 if dtype is None else dtype))


_ARITHMETIC = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
_RECURRENT = ("GRU", "LSTM", "RNN")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSumSquare",
)  # fmt: skip

RULES: Mapping[int, Mapping[str, Rule]] = {
    7: {
        **dict.fromkeys(_ARITHMETIC, _broadcast_by_axis),
        **dict.fromkeys(_RECURRENT, partial(_drop, "output_sequence")),
        "BatchNormalization": partial(_drop, "is_test"),
        "Dropout": partial(_drop, "is_test"),
        "Gemm": partial(_drop, "broadcast"),
        "PRelu": _broadcast_slope,
        "Upsample": _combine_scales,
    },
    9: {
        "BatchNormalization": _per_channel_normalization,
        "MeanVarianceNormalization": _axes_of_normalization,
        "Scan": _refuse_old_scan,
        "Upsample": partial(_attributes_to_inputs, ["scales"], dtype=np.float32),
    },
    10: {
        "DynamicSlice": partial(_rename, "Slice"),
        "Slice": partial(_attributes_to_inputs, ["starts", "ends", "axes"]),
        "TopK": partial(_attributes_to_inputs, ["k"]),
        "Upsample": partial(_rename, "Resize"),
    },
    11: {
        "Clip": _limits_to_inputs,
        "Pad": _padding_to_inputs,
        "Resize": _asymmetric_resize,
        "Scatter": partial(_rename, "ScatterElements"),
    },
    12: {"Dropout": partial(_drop, "ratio")},
    13: {
        **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), _normalize_last_axis),
        "ReduceSum": partial(_attributes_to_inputs, ["axes"]),
        "Resize": _half_pixel_nearest,
        "Split": partial(_attributes_to_inputs, ["split"]),
        "Squeeze": partial(_attributes_to_inputs, ["axes"]),
        "Unsqueeze": partial(_attributes_to_inputs, ["axes"]),
    },
    14: {"BatchNormalization": _training_by_attribute},
    16: {"RoiAlign": _output_half_pixel},
    18: {**dict.fromkeys(_REDUCTIONS, partial(_attributes_to_inputs, ["axes"])), "Split": _count_outputs},
    20: {"DFT": _transform_axis, "GridSample": _interpolation_names},
    21: {"GroupNormalization": _scale_per_channel},
}
