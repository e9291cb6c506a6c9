"""The profile tells of every node that runs, by whatever name. Nothing here looks at a clock."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.testing import model_of, random_feeds
from onnxmpq.timing.kernel_times import kernel_times

RUNTIME = Runtime("cpu", threads=1)


def residual() -> onnx.ModelProto:
    text = """g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, wa)  r = Relu (a)  b = Conv <pads = [1, 1, 1, 1]> (r, wb)
        c = Conv <pads = [1, 1, 1, 1]> (x, wc)  s = Add (b, c)  y = Relu (s) }"""
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    model = model_of(text, wa=weight, wb=weight, wc=weight)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def test_the_runtime_tells_of_every_node_it_runs() -> None:
    model = residual()
    times = kernel_times(RUNTIME, model, random_feeds(model), 3)
    assert sum(time.op == "Conv" or time.op.endswith("FusedConv") for time in times) == 3
    assert all(time.seconds >= 0 for time in times)
    assert times[-1].outputs == ("y",)


def test_it_tells_of_nodes_without_names_too() -> None:
    """It inlines functions, of nodes without any."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, 8, 8] x) => (float[N, 8, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)  m = Mish (a)  h = HardSwish (m)  y = Conv (h, v) }"""
    model = model_of(text, w=np.ones((8, 3, 3, 3), np.float32), v=np.ones((8, 8, 1, 1), np.float32))
    for node in model.graph.node:
        node.name = node.output[0]
    times = kernel_times(RUNTIME, model, random_feeds(model), 2)
    names = [time.name for time in times]
    assert len(set(names)) == len(names)
    assert {"Softplus", "Tanh", "HardSigmoid"} <= {time.op for time in times}
    assert times[-1].outputs == ("y",)


def test_what_runs_inside_control_flow_counts_for_that_alone() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4] x, bool c) => (float[N, 4] y) {
        a = Mul (x, w)
        b = If (c) < then_branch = t () => (float[M, 4] u) { m = HardSwish (a) u = Mul (m, m) },
                     else_branch = e () => (float[M, 4] v) { v = Identity (a) } >
        y = HardSwish (b) }"""
    model = model_of(text, w=np.ones(4, np.float32))
    for node in model.graph.node:
        node.name = node.output[0]
    feeds = {"x": np.ones((2, 4), np.float32), "c": np.array(True)}
    times = kernel_times(RUNTIME, model, feeds, 2)
    numbers = [
        int(time.name.rpartition("_")[2]) for time in times if time.name.rpartition("_")[2].isdecimal()
    ]
    assert [time.op for time in times].count("Mul") == 2
    assert len(numbers) == 2  # HardSigmoid and Mul of the last node, one behind the other
    assert numbers[1] == numbers[0] + 1


def test_a_node_that_it_does_not_tell_of_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, profile = residual(), tmp_path / "times.json"
    profile.write_text("[]", encoding="utf-8")
    monkeypatch.setattr(Session, "end_profile", lambda _: profile)
    with pytest.raises(onnxmpq.OnnxmpqError, match="profile lacks"):
        kernel_times(RUNTIME, model, random_feeds(model), 1)
