"""Pad with zeros becomes part of the convolution behind it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnxmpq.passes.matching import (
    attribute,
    holds,
    is_standard,
    optional_input,
    pads_by_axis,
    read,
    remove,
    require,
    require_private,
    rewrites,
)


@rewrites({"Pad"})
def fold_pad(graph: gs.Graph, pad: gs.Node) -> None:
    """Fold a Pad of spatial axes with constant zeros into the `pads` of the Conv that alone reads it.

    Pad-11 and later, with constant pads of at least zero. The Conv's auto_pad is NOTSET or VALID; pooling is
    left alone, since it does not count padding as zeros. Preserving: the same sums, so bit-equal or nearly.
    """
    output = pad.outputs[0]
    require_private(graph, output)
    conv = output.outputs[0]
    is_conv = conv.op == "Conv" and is_standard(conv) and holds(graph, conv) and conv.inputs[0] is output
    require(is_conv, f"{output.name} is not the data of a Conv")
    auto_pad = attribute(conv, "auto_pad", "NOTSET")
    require(auto_pad in {"NOTSET", "VALID"}, f"the Conv pads by itself: auto_pad is {auto_pad}")
    require(conv.inputs[1].shape is not None, "the rank of the Conv's weight is not known")
    added = _spatial_pads(pad, len(conv.inputs[1].shape))
    own = attribute(conv, "pads", [0] * len(added)) if auto_pad == "NOTSET" else [0] * len(added)
    conv.attrs["pads"] = [int(a + b) for a, b in zip(own, added, strict=True)]
    conv.attrs.pop("auto_pad", None)
    conv.inputs[0] = pad.inputs[0]
    remove(graph, [pad])


def _spatial_pads(pad: gs.Node, rank: int) -> Sequence[int]:
    """What the node adds, as a Conv's `pads`: the begins of the spatial axes, then their ends."""
    require(attribute(pad, "mode", "constant") == "constant", "it does not pad with a constant")
    value = optional_input(pad, 2)
    require(value is None or not read(value).any(), "it does not pad with zeros")
    added = pads_by_axis(pad, rank)
    require(min(map(min, added), default=0) >= 0, "it cuts")
    require(not any(map(any, added[:2])), "it pads the batch or the channels")
    return [begin for begin, _ in added[2:]] + [end for _, end in added[2:]]
