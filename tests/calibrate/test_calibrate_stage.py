"""Layers that no sample reaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

import onnxmpq
from onnxmpq.calibrate.stage import widened, without
from onnxmpq.context.setting import Loaded
from onnxmpq.errors import DataError
from onnxmpq.normalize.discover import readers_of
from onnxmpq.normalize.stage import prepare_model
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.clamps import clamped
from onnxmpq.place.stage import place
from onnxmpq.request import parse_keeps
from onnxmpq.testing import model_of
from onnxmpq.values.activation_range import range_of

ROI = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y, float[m, 4, 6, 6] found, float[m, 3] classes) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w0)
  r = Relu (a)
  mean = ReduceMean <keepdims = 0> (r, axes)
  chosen = Greater (mean, large)
  some = Compress <axis = 0> (r, chosen)
  b = Conv <pads = [1, 1, 1, 1]> (some, w1)
  found = Relu (b)
  p = GlobalAveragePool (found)
  f = Flatten (p)
  classes = Gemm <transB = 1> (f, w3)
  y = Conv <pads = [1, 1, 1, 1]> (r, w2)
}"""


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("method", ["measured", "size"])
def test_a_detector_that_finds_nothing(tmp_path: Path, activations: str, method: str) -> None:
    model, rng = parse_model(ROI), np.random.default_rng(0)
    shapes = {"w0": (4, 4, 3, 3), "w1": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "w3": (3, 4)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"axes": np.array([1, 2, 3]), "large": np.array(1e3, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.save(model, tmp_path / "roi.onnx")
    data = {"x": rng.standard_normal((40, 4, 6, 6)).astype(np.float32)}
    report = onnxmpq.compile_model(
        tmp_path / "roi.onnx", ["5bit-avg"], data, activations=activations, method=method
    )
    acts = {layer.name: layer.activation_bits for layer in report.layers}
    reached = 8 if activations == "int8" else None
    assert acts == {"a": reached, "y": reached, "b": None, "classes": None}
    said = any(note.startswith("no calibration sample reaches b, classes") for note in report.run.notes)
    assert said == (activations == "int8")
    assert report.quality.metrics["compiled"].sqnr is not None


def test_a_tensor_that_only_a_layer_in_float_reads_is_spared_by_its_maker(
    load_classifier: Callable[..., Loaded],
) -> None:
    loaded = load_classifier(activations="int8", keeps=parse_keeps(["y=fp32"]))
    found = place(loaded, prepare_model(loaded))
    assert "y" not in found.placement.integer_layers
    assert readers_of(import_graph(found.prepared.model), found.prepared.layers, {"h"}) == {"y"}
    assert "h" not in without(found, {"h"}, loaded).placement.tensors
    with pytest.raises(DataError, match="tensor 'h' is empty in all calibration samples"):
        without(without(found, {"h"}, loaded), {"h"}, loaded)


def test_layers_around_a_sum_that_no_sample_reaches_compute_in_float(tmp_path: Path) -> None:
    """The empty tensor lies between layers, and no layer reads it: `some` is chosen of `r` by its values."""
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for name in ("w0", "w1")}
    model = model_of(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 4, 6, 6] x) => (float[m, 4, 6, 6] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, w0)
          r = Relu (a)
          mean = ReduceMean <keepdims = 0> (r, axes)
          chosen = Greater (mean, large)
          some = Compress <axis = 0> (r, chosen)
          t = Transpose <perm = [0, 1, 3, 2]> (some)
          c = Concat <axis = 0> (t, r)
          y = Conv <pads = [1, 1, 1, 1]> (c, w1)
        }""",
        **constants, axes=np.array([1, 2, 3]), large=np.array(1e3, np.float32),
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    data = {"x": rng.standard_normal((40, 4, 6, 6)).astype(np.float32)}
    report = onnxmpq.compile_model(tmp_path / "m.onnx", ["5bit-avg"], data, activations="int8")
    assert any(note.startswith("no calibration sample reaches") for note in report.run.notes)


def test_ranges_of_noise_are_wider_but_where_a_clamp_bounds_them() -> None:
    """A kernel that takes in a Clip saturates by its range."""
    found = widened({"free": range_of(-1.0, 1.0), "relu6": range_of(0.0, 6.0)}, {"relu6"})
    assert found["free"].scale == pytest.approx(2 * range_of(-1.0, 1.0).scale)
    assert found["free"].zero_point == range_of(-1.0, 1.0).zero_point
    assert found["relu6"] == range_of(0.0, 6.0)


def test_what_is_clamped_is_known() -> None:
    model = model_of(
        "g (float[1, 4] x) => (float[1, 4] y) { a = Relu (x) b = Clip (a, zero, six) c = Add (b, x) y = Relu (c) }",
        zero=np.array(0, np.float32), six=np.array(6, np.float32),
    )  # fmt: skip
    assert clamped(import_graph(model)) == {"b"}
