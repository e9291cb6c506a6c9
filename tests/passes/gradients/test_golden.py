"""Whole networks against PyTorch, by way of small arrays that `make_golden.py` has written."""

from __future__ import annotations

import numpy as np
import pytest
from golden_networks import GOLDEN, GoldenNetwork, golden_networks

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients, gradient_name
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, target_name
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace


@pytest.mark.parametrize("network", golden_networks(), ids=lambda n: n.name)
@pytest.mark.parametrize("optimize", [True, False])
def test_gradients_are_those_of_pytorch(network: GoldenNetwork, optimize: bool) -> None:
    runtime, model = Runtime("cpu", threads=1), network.model
    with np.load(GOLDEN) as arrays:
        names = [key.partition("/")[2] for key in arrays.files if key.startswith(f"{network.name}/")]
        expected = {name: arrays[f"{network.name}/{name}"] for name in names}
    shapes = {name: t.shape for name, t in trace(runtime, model, {"x": network.x}).items()}
    graph = import_graph(model)
    EmitLoss(network.loss, {"y": network.kind})(graph)
    EmitGradients(LOSS, tuple(names), shapes)(graph)
    session = runtime.session(export_model(graph, model), optimize=optimize)
    found = session.run({"x": network.x, target_name("y"): network.target})
    assert {"x", "w1"} <= set(names)
    for name in names:
        scale = max(1.0, float(np.abs(expected[name]).max()))  # a shift before InstanceNorm has none at all
        np.testing.assert_allclose(
            found[gradient_name(name)], expected[name], atol=1e-4 * scale, err_msg=name
        )
