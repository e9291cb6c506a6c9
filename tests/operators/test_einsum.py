"""Which Einsums are matrix products in disguise, and that these are compiled as such."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.testing import model_of, run
from onnxmpq.values.layer import Layer

Shape = tuple[int, ...]


def layer_of(equation: str, x: Shape, w: Shape, *, first: bool = False) -> Layer:
    operands = "w, x" if first else "x, w"
    text = f"""g (float{list(x)} x) => (float y) {{ y = Einsum <equation = "{equation}"> ({operands}) }}"""
    (layer,) = discover(import_graph(model_of(text, w=np.ones(w, np.float32))), {"x": x})
    return layer


@pytest.mark.parametrize(("equation", "x", "w", "rows", "columns"), [
    ("ij,jk->ik", (2, 3), (3, 4), (1,), (0,)),
    ("ij,kj->ik", (2, 3), (4, 3), (0,), (1,)),
    ("ij,jk", (2, 3), (3, 4), (1,), (0,)),
    (" bsd , dhk -> bshk ", (2, 5, 3), (3, 2, 4), (2, 1), (0,)),
    ("bhsk,hkd->bsd", (2, 2, 5, 4), (2, 4, 6), (2,), (0, 1)),
    ("nchw,oc->nohw", (2, 3, 5, 5), (4, 3), (0,), (1,)),
])  # fmt: skip
def test_a_matmul_in_disguise(equation: str, x: Shape, w: Shape, rows: Shape, columns: Shape) -> None:
    layout = layer_of(equation, x, w).layout
    assert (layout.axis, layout.rows, layout.columns, layout.blind) == (rows[0], rows, columns, None)


def test_the_weight_may_be_the_first_operand() -> None:
    layout = layer_of("oc,nchw->nohw", (2, 3, 5, 5), (4, 3), first=True).layout
    assert (layout.axis, layout.columns, layout.blind) == (0, (1,), None)


@pytest.mark.parametrize(("equation", "x", "w"), [
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),  # a stack
    ("ij,ij->ij", (2, 3), (2, 3)),  # element by element
    ("...j,jk->...k", (2, 3), (3, 4)),  # an ellipsis
    ("ij,jk->k", (2, 3), (3, 4)),  # the data are summed alone
    ("ij,kl->ijkl", (2, 3), (3, 4)),  # nothing is summed over
    ("ii,ik->ik", (3, 3), (3, 4)),  # a diagonal
    ("ij,jk->ik", (2, 1), (3, 4)),  # an axis of one that is repeated: of the data
    ("ij,jk->ik", (2, 3), (1, 4)),  # of the weight
])  # fmt: skip
def test_other_forms_are_rounded_without_data(equation: str, x: Shape, w: Shape) -> None:
    layer = layer_of(equation, x, w)
    assert layer.reason is None
    assert layer.layout.blind is not None
    assert 0 <= layer.axis < len(w)


@pytest.mark.parametrize(("equation", "x", "w", "macs"), [
    ("ij,jk->ik", (2, 3), (3, 4), 24),
    ("ij,jk->k", (2, 3), (3, 4), 24),
    ("...ij,...jk->...ik", (2, 6, 3), (2, 3, 4), 144),
    ("bij,...jk->bik", (2, 6, 3), (1, 3, 4), 144),
    ("bij,bjk->bik", (2, 6, 3), (2, 3, 4), 144),
])  # fmt: skip
def test_macs_are_those_of_a_plain_loop(equation: str, x: Shape, w: Shape, macs: int) -> None:
    assert layer_of(equation, x, w).macs == macs


def test_one_that_has_one_operand_is_no_layer(tmp_path: Path) -> None:
    text = """g (float[N, 4, 3] x) => (float[N, 5, 4] y) { t = MatMul (x, w)
        y = Einsum <equation = "bij->bji"> (t) }"""
    model = model_of(text, w=np.ones((3, 5), np.float32))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    report = onnxmpq.compile_model(tmp_path / "m.onnx", ["4bit-avg"], output=tmp_path / "small.onnx")
    assert [layer.op for layer in report.layers] == ["MatMul"]


def test_a_weight_that_is_read_over_different_axes_is_rounded_without_data() -> None:
    text = """g (float[2, 5, 4] x) => (float y, float z) {
        y = Einsum <equation = "bsd,dhk->bshk"> (x, w)
        z = Einsum <equation = "bsh,dhk->bsdk"> (x, w) }"""
    (layer,) = discover(import_graph(model_of(text, w=np.ones((4, 4, 5), np.float32))), {})
    assert layer.reason is None
    assert layer.layout.blind is not None


@pytest.mark.parametrize(
    ("equation", "w"), [("bsd,dk->bsk", (12, 5)), ("...d,dk->...k", (12, 5)), ("bsd,dk->bsk", (1, 5))]
)
def test_it_compiles_to_what_it_computes(tmp_path: Path, equation: str, w: Shape) -> None:
    rng = np.random.default_rng(0)
    text = (
        f"""g (float[N, 6, 12] x) => (float[N, 6, 5] y) {{ y = Einsum <equation = "{equation}"> (x, w) }}"""
    )
    model = model_of(text, w=rng.standard_normal(w).astype(np.float32))
    source, target = tmp_path / "einsum.onnx", tmp_path / "small.onnx"
    source.write_bytes(model.SerializeToString())
    samples = {"x": rng.standard_normal((32, 6, 12)).astype(np.float32)}
    report = onnxmpq.compile_model(source, ["6bit-avg"], samples, output=target, activations="int8")
    (layer,) = report.layers
    assert (layer.op, layer.weight_bits, layer.kernel) == ("Einsum", 6, None)
    score = report.quality.metrics["compiled"]
    assert score.sqnr is not None
    assert score.sqnr > 25
    wanted, got = run(model, samples)["y"], run(onnx.load(target), samples)["y"]
    assert np.linalg.norm(got - wanted) < 0.06 * np.linalg.norm(wanted)


def test_methods_of_gradients_see_a_product_of_three(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = """g (float[N, 6, 12] x) => (float[N, 6, 7] y) { y = Einsum <equation = "bsd,dk,km->bsm"> (x, w, v) }"""
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("w", (12, 5)), ("v", (5, 7)))
    }
    (tmp_path / "m.onnx").write_bytes(model_of(text, **weights).SerializeToString())
    samples = {"x": rng.standard_normal((32, 6, 12)).astype(np.float32)}
    report = onnxmpq.compile_model(
        tmp_path / "m.onnx",
        ["6bit-avg"],
        samples,
        output=tmp_path / "small.onnx",
        method="fisher",
        effort="fast",
    )
    (layer,) = report.layers
    assert (layer.op, layer.weight_bits) == ("Einsum", 6)
