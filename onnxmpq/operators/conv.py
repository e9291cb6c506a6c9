"""Conv (1, 11, 22): x [N, C, *positions], weight [M, C / group, *kernel], bias [M]."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.operators.operator import BiasSlot, IntegerKernel, Operator
from onnxmpq.operators.windows import TO_THE_END, as_float, channels_first, every, map_macs, reshaped, strided
from onnxmpq.passes.emitter import Emitter
from onnxmpq.passes.matching import attribute, is_constant, optional_input
from onnxmpq.values.layer import Layout


def _layout(node: gs.Node, place: int) -> Layout:
    shape = node.inputs[place].shape
    columns, group = tuple(range(1, len(shape))), attribute(node, "group", 1)
    return Layout(0, (0,), columns, int(group), math.prod(int(size) for size in shape[2:]))


def _result(node: gs.Node) -> tuple[int, int, int]:
    weight = node.inputs[1]
    return len(weight.shape), 1, weight.shape[0]


def _windows(e: Emitter, node: gs.Node, _place: int, step: int) -> list[gs.Tensor]:
    """The unfolded input, tap by tap."""
    kernel = list(node.inputs[1].shape[2:])
    rank = len(kernel)
    strides = [s * step for s in attribute(node, "strides", [1] * rank)]
    dilations = list(attribute(node, "dilations", [1] * rank))
    turned = channels_first(e, _padded(e, node, kernel, dilations), rank)
    return [
        strided(e, turned, index, kernel, strides, dilations)
        for index in itertools.product(*(range(k) for k in kernel))
    ]


def _targets(e: Emitter, node: gs.Node, _place: int, target: gs.Tensor, step: int) -> gs.Variable:
    weight, group = node.inputs[1], int(attribute(node, "group", 1))
    rank = len(weight.shape) - 2
    taken = every(e, channels_first(e, as_float(e, target), rank), step, rank)
    return reshaped(e, taken, group, int(weight.shape[0]) // group, -1)


def _padded(e: Emitter, node: gs.Node, kernel: Sequence[int], dilations: Sequence[int]) -> gs.Tensor:
    """The input with its pads around it."""
    tensor, rank = as_float(e, node.inputs[0]), len(kernel)
    if attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        return e("Pad", tensor, _same_pads(e, node, tensor, windows))
    pads = attribute(node, "pads", [0] * 2 * rank)
    return e.padded(tensor, [0, 0, *pads[:rank]], [0, 0, *pads[rank:]])


def _same_pads(e: Emitter, node: gs.Node, tensor: gs.Tensor, windows: Sequence[int]) -> gs.Variable:
    """Pads, for Pad-13, that depend on the size of the input (Conv-11, SAME_UPPER and SAME_LOWER).

    Along an axis of n: max(0, floor((n - 1) / stride) * stride + window - n), the odd one at the end for UPPER.
    """
    strides = e.ints(attribute(node, "strides", [1] * len(windows)))
    size = e("Slice", e("Shape", tensor), e.ints([2]), e.ints([TO_THE_END]))
    last = e("Mul", e("Div", e("Sub", size, 1), strides), strides)
    total = e("Max", e("Sub", e("Add", last, e.ints(windows)), size), 0)
    less = e("Div", total, 2)
    more = e("Sub", total, less)
    first, second = (less, more) if node.attrs["auto_pad"] == "SAME_UPPER" else (more, less)
    return e("Concat", e.ints([0, 0]), first, e.ints([0, 0]), second, axis=0)


def _patches(e: Emitter, node: gs.Node, dtype: np.dtype[Any]) -> gs.Tensor:
    """What the window of a Conv without groups sees: a Conv of one group a channel, whose kernels each pick one place."""
    inputs, *kernel = node.inputs[1].shape[1:]
    attrs = {name: value for name, value in node.attrs.items() if name != "group"}
    moves = [*attrs.get("strides", []), *(1 + pad for pad in attrs.get("pads", []))]
    if math.prod(kernel) == 1 and all(m == 1 for m in moves) and "auto_pad" not in attrs:
        return node.inputs[0]
    places = np.eye(math.prod(kernel), dtype=dtype).reshape(-1, 1, *kernel)
    picks = e.constant(np.tile(places, (inputs, *[1] * (places.ndim - 1))))
    return e("Conv", node.inputs[0], picks, **attrs, group=inputs)


def _refusal(node: gs.Node) -> str | None:
    bias = optional_input(node, 2)
    is_plain = bias is None or (is_constant(bias) and len(bias.shape) == 1)
    return None if is_plain else "its bias is computed by other nodes"


CONV = Operator(
    name="Conv",
    weights=(1,),
    layout=_layout,
    macs=lambda node, place, shapes: map_macs(node.outputs[0], node.inputs[place], shapes),
    positions=lambda node, shapes: tuple(shapes.get(node.outputs[0].name, ()))[2:],
    result=_result,
    bias=BiasSlot(2),
    windows=_windows,
    targets=_targets,
    patches=_patches,
    integer=IntegerKernel(refusal=_refusal, gives_codes=True),
    profiled=frozenset({"Conv", "ConvInteger", "FusedConv", "NhwcFusedConv", "QLinearConv"}),
)
