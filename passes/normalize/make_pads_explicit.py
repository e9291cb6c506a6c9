"""Replace the `auto_pad` of convolutions and poolings by explicit pads.

Explicit pads are what other passes read, and what ONNX Runtime wants of a dilated convolution.
"""

from __future__ import annotations

import logging

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import attribute, graphs, is_standard, label

logger = logging.getLogger(__name__)

_OPS = frozenset({"AveragePool", "Conv", "LpPool", "MaxPool"})
_AUTOMATIC = frozenset({"SAME_LOWER", "SAME_UPPER", "VALID"})


def make_pads_explicit(graph: gs.Graph) -> bool:
    """Write `pads` for `auto_pad` where they are the same for every input; preserving.

    That is so for VALID, along an axis of stride 1, and where the variable's shape tells the size of the axis.
    The rest is left alone (Conv-22, MaxPool-22: the pads then depend on the input), and named at DEBUG; so is a
    stride so much wider than the window that ONNX Runtime crops instead of padding.
    """
    nodes = [n for g in graphs(graph) for n in g.nodes if n.op in _OPS and is_standard(n)]
    results = [_make_explicit(n) for n in nodes if n.attrs.get("auto_pad") in _AUTOMATIC]
    return any(results)


def _make_explicit(node: gs.Node) -> bool:
    pads = _pads(node)
    if pads is None:
        logger.debug(
            "%s %s keeps auto_pad=%s: its pads depend on the size of its input, or are negative%s",
            node.op, label(node), node.attrs["auto_pad"],
            "; ONNX Runtime refuses that with dilations" if _is_dilated(node) else "",
        )  # fmt: skip
        return False
    if node.attrs.pop("auto_pad") != "VALID":
        node.attrs.pop("ceil_mode", None)  # SAME rounds up as it is; explicit pads might add an output
    node.attrs["pads"] = pads
    return True


def _pads(node: gs.Node) -> list[int] | None:
    """Pads at the start of every spatial axis, then at the end; None where they are not fixed."""
    kernel = _kernel_shape(node)
    if kernel is None:
        return None
    if node.attrs["auto_pad"] == "VALID":
        return [0] * (2 * len(kernel))
    ones = [1] * len(kernel)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    shape = node.inputs[0].shape
    sizes = [None] * len(kernel) if shape is None else shape[2:]
    axes = zip(sizes, kernel, strides, dilations, strict=True)
    totals = [_total_padding(size, (k - 1) * d + 1, s) for size, k, s, d in axes]
    known = [total for total in totals if total is not None]
    if len(known) < len(totals):
        return None
    less, more = [t // 2 for t in known], [t - t // 2 for t in known]
    return less + more if node.attrs["auto_pad"] == "SAME_UPPER" else more + less  # where an odd one goes


def _kernel_shape(node: gs.Node) -> list[int] | None:
    """Size of the window along the spatial axes, without dilation."""
    if "kernel_shape" in node.attrs:
        return list(node.attrs["kernel_shape"])
    shape = node.inputs[1].shape  # only Conv may leave it to the weight
    known = shape is not None and all(isinstance(d, int) for d in shape[2:])
    return list(shape[2:]) if known else None


def _total_padding(size: object, window: int, stride: int) -> int | None:
    """Padding at both ends together, with which the output has ceil(size / stride) elements.

    It is below zero where strides step over the end of the axis. ONNX Runtime halves that rounding up: by -1 no
    window moves, as with no padding; by less it crops the start, which explicit pads cannot say (None).
    """
    if stride == 1:
        return window - 1
    if not isinstance(size, int):
        return None
    outputs = -(-size // stride)
    total = (outputs - 1) * stride + window - size
    return max(total, 0) if total >= -1 else None


def _is_dilated(node: gs.Node) -> bool:
    return any(d != 1 for d in attribute(node, "dilations", [1]))
