"""What stands between integer convolutions runs as ONNX Runtime optimises it, whatever layout it takes."""

import numpy as np
import onnx
import pytest

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.layout import loses_layout
from onnxmpq.passes.lower.pin_layout import pin_layout
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_pass, model_of, run
from onnxmpq.values.arrays import Array

CPU = Runtime("cpu", threads=1)
RNG = np.random.default_rng(0)
BETWEEN = """<ir_version: 9, opset_import: ["" : 19]> g (float[n, 3, h, w] x) => (float[n, a, b, c] y) {{
  p = QuantizeLinear (x, s, z) d = DequantizeLinear (p, s, z)
  v = DequantizeLinear (k, s) c1 = Conv <pads = [1, 1, 1, 1]> (d, v)
  q1 = QuantizeLinear (c1, s, z) d1 = DequantizeLinear (q1, s, z)
  m = {op}
  q2 = QuantizeLinear (m, s, z) d2 = DequantizeLinear (q2, s, z)
  u = DequantizeLinear (l, s) c2 = Conv <pads = [1, 1, 1, 1]> (d2, u)
  q3 = QuantizeLinear (c2, s, z) y = DequantizeLinear (q3, s, z)
}}"""
CONSTANTS = {
    "s": np.float32(0.05), "z": np.uint8(128), "half": np.array([1, 1, 0.5, 0.5], np.float32), "halves": np.array([0.5, 0.5], np.float32),
    "sizes": np.array([6, 5]), "pads": np.array([1, 0, 2, 1]), "axes": np.array([2, -1]),
}  # fmt: skip
LOSE = {
    "a cubic Resize that shrinks": 'Resize <mode = "cubic"> (d1, , half)',
    "one without borders": 'Resize <mode = "cubic", exclude_outside = 1> (d1, , half)',
    "axes and scales": 'Resize <mode = "linear", axes = [2, 3]> (d1, , halves)',
    "axes and sizes": 'Resize <mode = "nearest", axes = [2, 3]> (d1, , , sizes)',
    "a ratio kept": 'Resize <mode = "linear", axes = [3, 2], keep_aspect_ratio_policy = "not_larger"> (d1, , , sizes)',
    "a Pad of named axes": "Pad (d1, pads, , axes)",
    "a crop": "CenterCropPad <axes = [2, 3]> (d1, sizes)",
    "a reflection": 'Pad <mode = "reflect"> (d1, pads, , axes)',
}
KEEP = {
    "a cubic Resize that grows": 'Resize <mode = "cubic"> (d1, , doubled)',
    "a linear one": 'Resize <mode = "linear"> (d1, , half)',
    "a Pad of all axes": "Pad (d1, everywhere)",
}


def between(op: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    constants = {name: np.asarray(value) for name, value in CONSTANTS.items() if name in f"sz {op}"}
    constants |= {
        name: RNG.integers(-60, 60, (4, c, 3, 3)).astype(np.int8) for name, c in (("k", 3), ("l", 4))
    }
    model = model_of(
        BETWEEN.format(op=op),
        **constants,
        doubled=np.array([1, 1, 2, 2], np.float32),
        everywhere=np.ones(8, np.int64),
    )
    return model, {"x": RNG.standard_normal((2, 3, 10, 12)).astype(np.float32)}


@pytest.mark.parametrize("case", LOSE)
def test_what_would_lose_its_meaning_runs_optimised(case: str) -> None:
    model, feeds = between(LOSE[case])
    pinned = check_pass(pin_layout, model, feeds)
    wanted = run(model, feeds)["y"]
    for size in (slice(0, 1), slice(0, 2)):
        found = CPU.session(pinned).run({"x": feeds["x"][size]})["y"]
        assert found.shape == wanted[size].shape
        assert np.abs(found - wanted[size]).mean() < 0.05  # one code


@pytest.mark.parametrize("case", KEEP)
def test_what_keeps_its_meaning_is_left_alone(case: str) -> None:
    model, _ = between(KEEP[case])
    graph = import_graph(model)
    assert not any(map(loses_layout, graph.nodes))
    assert not pin_layout(graph)


def test_sizes_that_are_computed_may_shrink() -> None:
    model, _ = between('Resize <mode = "cubic"> (d1, , , wanted) wanted = Shape (p)')
    graph = import_graph(model)
    assert pin_layout(graph)
    assert "Reshape" in [node.op_type for node in export_model(graph, model).graph.node]
