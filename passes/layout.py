"""Which operators depend on the layout of their input, where ONNX Runtime takes them not to."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import attribute, is_constant, is_standard, optional_input, read


def loses_layout(node: gs.Node) -> bool:
    """True where ONNX Runtime moves a Transpose through a node that computes something else, or nothing, behind it.

    It leaves names of axes as they are (Pad-18, Resize-18, and CenterCropPad, which it writes out with a Pad), and has no
    kernel for a cubic Resize that shrinks the axes in the middle. Sizes may come to shrink; scales that are constant are known.
    """
    if not is_standard(node):
        return False
    if node.op == "Pad":
        return optional_input(node, 3) is not None
    if node.op == "CenterCropPad":
        return "axes" in node.attrs
    return node.op == "Resize" and ("axes" in node.attrs or _may_shrink_by_cubes(node))


def _may_shrink_by_cubes(resize: gs.Node) -> bool:
    scales = optional_input(resize, 2)
    grows = is_constant(scales) and bool((read(scales) >= 1).all()) and read(scales).size > 0
    return attribute(resize, "mode", "nearest") == "cubic" and not grows
