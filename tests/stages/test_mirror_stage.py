"""Mirror images are calibrated on where the network sees the same in them, and only there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.budget import Budget
from onnxmpq.effort import EFFORTS
from onnxmpq.engine import Array
from onnxmpq.observer import Observer, Stages
from onnxmpq.pipeline import compiled, rounded
from onnxmpq.request import Request, Sources
from onnxmpq.stages.load import Loaded, load
from onnxmpq.stages.lowering import Lowering

NETWORK = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[n, 3, 6, 8] x) => (float[n, 5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)
    r = Relu (a)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, wb, bb)
}
"""
SHAPES = {"wa": (16, 3, 3, 3), "ba": (16,), "wb": (5, 16), "bb": (5,)}
MAX = EFFORTS["max"]


def network(*, symmetric: bool) -> onnx.ModelProto:
    """A classifier that sees the same in mirror images (its kernels are their own mirror images), or does not."""
    model, rng = onnx.parser.parse_model(NETWORK), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values: Array = rng.standard_normal(shape).astype(np.float32)
        if name == "wa" and symmetric:
            values = values + values[..., ::-1]
        elif name == "wa":
            values[..., :] = np.array([1, 0, -1]) * values[..., :1]
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.fixture
def loads(tmp_path: Path, asked: Callable[..., Request]) -> Callable[..., Loaded]:
    def loaded(*, symmetric: bool = True, **changes: object) -> Loaded:
        path = tmp_path / "net.onnx"
        onnx.save(network(symmetric=symmetric), path)
        rng = np.random.default_rng(1)
        slopes = np.linspace(-1, 1, 8) * rng.standard_normal((64, 3, 6, 1))
        images = (slopes + 0.3 * rng.standard_normal((64, 3, 6, 8))).astype(np.float32)
        sources = Sources(
            model=path, output=tmp_path / "out.onnx", data={"x": images}, evaluation={"x": images[:8]}, training=None,
            preprocess=None, shapes={}, samples=64,
        )  # fmt: skip
        request = asked(**{"rounding": "compensated", "effort": MAX, **changes})
        return load(sources, request, Stages(Observer()))

    return loaded


def lowered(loaded: Loaded) -> Lowering:
    return rounded(loaded)


@pytest.mark.parametrize("symmetric", [True, False])
def test_images_are_mirrored_where_the_network_sees_the_same(
    loads: Callable[..., Loaded], symmetric: bool
) -> None:
    shares = lowered(loads(symmetric=symmetric)).setting.shares
    assert shares.rounding.count == (128 if symmetric else 64)
    assert shares.sensitivity.count == 32  # what is measured and judged is never mirrored
    assert shares.held is not None
    assert shares.held.count == 32


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_other_efforts_leave_them_as_they_are(loads: Callable[..., Loaded], effort: str) -> None:
    assert lowered(loads(effort=EFFORTS[effort])).setting.shares.rounding.count == 64


def test_settling_sees_as_many_samples_with_their_images(loads: Callable[..., Loaded]) -> None:
    effort = replace(MAX, settle=16)
    assert lowered(loads(effort=effort)).setting.settled_samples == 32


def test_one_batch_cannot_tell(loads: Callable[..., Loaded]) -> None:
    """There is no other batch that a mirrored one could be nearer than."""
    loaded = loads()
    few = replace(loaded.evidence, calibration=loaded.evidence.calibration.take(range(16)))
    assert lowered(replace(loaded, evidence=few)).setting.shares.rounding.count == 16


def test_a_compile_with_mirror_images_meets_its_budget(
    tmp_path: Path, asked: Callable[..., Request], loads: Callable[..., Loaded]
) -> None:
    loads()
    images = np.random.default_rng(2).standard_normal((40, 3, 6, 8)).astype(np.float32)
    sources = Sources(
        model=tmp_path / "net.onnx", output=tmp_path / "out.onnx", data={"x": images}, evaluation=None, training=None,
        preprocess=None, shapes={}, samples=40,
    )  # fmt: skip
    request = asked(
        rounding="compensated", effort=MAX, widths=(2, 4, 8), budgets=(Budget.parse("4bit-avg"),), verify=True,
        activations="int8",
    )  # fmt: skip
    notes: list[str] = []

    class Listening(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    report = compiled(sources, request, Stages(Listening()))
    assert report.average_weight_bits <= 4
    assert any("mirror images" in note for note in notes)
