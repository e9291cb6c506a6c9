"""An operator is one value: with a line in the table, every stage knows it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import onnxmpq
from onnxmpq.operators import OPERATORS, Operator, Shapes
from onnxmpq.testing import model_of
from onnxmpq.values.layer import Layout

TEXT = """g (int64[N, 6, 1] tokens) => (float[N, 6, 5] y) {
    vectors = GatherND (table, tokens)  hidden = Relu (vectors)  y = MatMul (hidden, w)
}"""


def layout(_node: gs.Node, _place: int) -> Layout:
    return Layout(0, (0,), (1,), blind="tables that are looked up")


def macs(node: gs.Node, _place: int, shapes: Shapes) -> int:
    return math.prod(shapes.get(node.outputs[0].name, ()))


GATHER_ND = Operator(
    name="GatherND", weights=(0,), layout=layout, macs=macs
)  # GatherND (11, 12, 13), of rows


def test_it_is_compiled_like_all_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(OPERATORS, "GatherND", GATHER_ND)
    rng = np.random.default_rng(0)
    table, w = rng.standard_normal((30, 8)), rng.standard_normal((8, 5))
    model = model_of(TEXT, table=table.astype(np.float32), w=w.astype(np.float32))
    source, target = tmp_path / "words.onnx", tmp_path / "small.onnx"
    source.write_bytes(model.SerializeToString())
    samples = {"tokens": rng.integers(0, 30, (64, 6, 1))}
    report = onnxmpq.compile_model(source, ["5bit-avg"], samples, output=target)
    assert {(la.op, la.params, la.reason is None) for la in report.layers} >= {("GatherND", 240, False)}
    assert any("tables that are looked up" in note for note in report.run.notes)
    assert all(layer.weight_bits <= 8 for layer in report.layers)
    assert (report.quality.metrics["compiled"].sqnr or 0) > 15
