"""Run a model once and see the type and shape of every tensor: no shape inference to trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxmpq.engine import Array, Runtime


@dataclass(frozen=True, slots=True)
class Traced:
    """What a tensor was in one run: its onnx element type and its shape."""

    elem_type: int
    shape: tuple[int, ...]


def trace(runtime: Runtime, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Traced]:
    """Element type and shape of every tensor of the main graph in a run on `feeds`.

    Sequences and optionals are left out. Raises EngineError where the runtime cannot run the model.
    """
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    outputs = runtime.session(tapped, optimize=False).run(feeds)
    values = {**feeds, **outputs}
    return {
        name: Traced(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    }


def common_shapes(runs: Sequence[Mapping[str, Traced]]) -> dict[str, tuple[int | None, ...]]:
    """The shape of every tensor that all runs have with one rank; None for a size in which they differ."""
    first, *others = runs
    shapes = {name: traced.shape for name, traced in first.items()}
    names = [n for n, s in shapes.items() if all(n in o and len(o[n].shape) == len(s) for o in others)]
    return {
        name: tuple(
            size if all(o[name].shape[axis] == size for o in others) else None
            for axis, size in enumerate(shapes[name])
        )
        for name in names
    }
