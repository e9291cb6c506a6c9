"""Emitted gradients held against central differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmpq.passes.expose.emit_gradients import EmitGradients, gradient_name
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.testing import check_pass, random_feeds, run
from onnxmpq.values.arrays import Array

RUNTIME = Runtime("cpu", threads=1)


def check_gradients(
    model: onnx.ModelProto,
    wanted: Sequence[str],
    feeds: Mapping[str, Array] | None = None,
    *,
    step: float = 2**-7,
    tolerance: float = 1e-3,
    static: bool = True,
) -> onnx.ModelProto:
    """Hold the gradients of a random combination of the outputs against central differences.

    `wanted` are inputs or constants. `step` is the step of the differences: large for what is linear in each of
    them, where no rounding is seen then. `static` hands the shapes over; without them the pass does what it can.
    """
    feeds = dict(random_feeds(model) if feeds is None else feeds)
    model = with_loss(model, feeds)
    shapes = {name: t.shape for name, t in trace(RUNTIME, model, feeds).items()} if static else {}
    emitted = check_pass(EmitGradients("loss", tuple(wanted), shapes), model, feeds, kind="exposing")
    found = run(emitted, feeds)
    for name in wanted:
        gradient, expected = found[gradient_name(name)], differences(model, feeds, name, step)
        assert gradient.dtype == values_of(model, feeds, name).dtype
        assert gradient.shape == expected.shape
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(gradient, expected, atol=tolerance * scale, err_msg=name)
    return emitted


def with_loss(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with `loss`, a fixed random combination of all values of its outputs."""
    rng = np.random.default_rng(1)
    outputs = run(model, feeds)
    own = onnx.ModelProto()
    own.CopyFrom(model)
    graph = own.graph
    for name, values in outputs.items():
        factors = rng.uniform(0.5, 1.5, values.shape) * rng.choice([-1, 1], values.shape)
        graph.initializer.append(
            numpy_helper.from_array(np.asarray(factors, values.dtype), f"{name}_factors")
        )
        graph.node.append(helper.make_node("Mul", [name, f"{name}_factors"], [f"{name}_weighted"]))
        graph.node.append(helper.make_node("ReduceSum", [f"{name}_weighted"], [f"{name}_sum"], keepdims=0))
    graph.node.append(helper.make_node("Sum", [f"{name}_sum" for name in outputs], ["loss"]))
    elem_type = helper.np_dtype_to_tensor_dtype(next(iter(outputs.values())).dtype)
    graph.output.append(helper.make_tensor_value_info("loss", elem_type, ()))
    return own


def values_of(model: onnx.ModelProto, feeds: Mapping[str, Array], name: str) -> Array:
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return feeds[name] if name in feeds else constants[name]


def differences(model: onnx.ModelProto, feeds: Mapping[str, Array], name: str, step: float) -> Array:
    """(loss(v + step) - loss(v - step)) / 2 step for every value v of one input or constant, float64."""
    values = values_of(model, feeds, name)
    session = RUNTIME.session(_with_input(model, name, values), optimize=False)
    result = np.zeros(values.shape)
    for index in np.ndindex(values.shape):
        losses = []
        for side in (step, -step):
            moved: Any = values.copy()
            moved[index] += side
            losses.append((float(session.run({**feeds, name: moved}, ["loss"])["loss"]), float(moved[index])))
        (above, high), (below, low) = losses
        result[index] = (above - below) / (high - low)
    return result


def _with_input(model: onnx.ModelProto, name: str, values: Array) -> onnx.ModelProto:
    """The model with a constant as an input."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    kept = [i for i in own.graph.initializer if i.name != name]
    if len(kept) < len(own.graph.initializer):
        del own.graph.initializer[:]
        own.graph.initializer.extend(kept)
        elem_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        own.graph.input.append(helper.make_tensor_value_info(name, elem_type, values.shape))
    return own
