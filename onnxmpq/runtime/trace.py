"""Run a model once and see the type and shape of every tensor: no shape inference to trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxmpq.onnx_io.subgraph import exposing
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.runtime.session import Runtime, read_type
from onnxmpq.values.arrays import Array


def trace(runtime: Runtime, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Traced]:
    """Element type and shape of every value of the main graph in a run on `feeds`.

    Strings and maps are left out. Raises EngineError where the runtime cannot run the model.
    """
    names = [name for node in model.graph.node for name in node.output if name]
    session = runtime.session(exposing(model, names), optimize=False)
    seen = {
        name: _seen(value, session.types.get(name, ""))
        for name, value in {**feeds, **session.run(feeds)}.items()
    }
    return {name: traced for name, traced in seen.items() if traced is not None}


def _seen(value: Any, runtime_type: str) -> Traced | None:
    containers, dtype = read_type(runtime_type)
    if containers and dtype.kind in "fiub" and set(containers) <= {"seq", "optional"}:
        return Traced(helper.np_dtype_to_tensor_dtype(dtype), (), containers)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and not containers:
        return Traced(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    return None


def common_shapes(runs: Sequence[Mapping[str, Traced]]) -> dict[str, tuple[int | None, ...]]:
    """The shape of every tensor that all runs have with one rank; None for a size in which they differ."""
    seen = {name: [run[name].shape for run in runs if name in run] for name in runs[0]}
    return {
        name: tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
        for name, shapes in seen.items()
        if len(shapes) == len(runs) and len(set(map(len, shapes))) == 1
    }
