"""Positions that are padding: whatever stands there, nothing that is measured changes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmpq import compile_model, evaluate_model
from onnxmpq.data import open_data
from onnxmpq.data.find_padding import find_padding
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.rounding.moments import input_moments
from onnxmpq.rounding.padded import find_padded, has_positions
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.values.padding import Padding

CPU = Runtime("cpu", threads=1)
SAMPLES, TOKENS, WIDTH = 24, 6, 8
BODIES = {
    "3-d": "a = MatMul (x, w1)  r = Relu (a)  y = MatMul (r, w2)",
    "2-d": "f = Reshape (x, flat)  a = Gemm (f, w1)  r = Relu (a)  b = Gemm (r, w2)  s = Shape (x)  y = Reshape (b, s)",
}
MASK = (np.arange(TOKENS) < np.arange(SAMPLES)[:, None] % TOKENS + 1).astype(np.int64)


def network(body: str, mask: str = "attention_mask") -> onnx.ModelProto:
    """Two matrices over tokens; what stands at the mask goes to an output of its own."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, t, {WIDTH}] x, int64[n, t] {mask}) => (float[n, t, {WIDTH}] y, int64[n, t] seen) {{
            {body}  seen = Neg ({mask}) }}"""
    )
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in ("w1", "w2")}
    for name, values in {**constants, "flat": np.array([-1, WIDTH])}.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def samples(filling: float) -> dict[str, NDArray[np.generic]]:
    """Tokens, with `filling` times noise where there is padding."""
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((SAMPLES, TOKENS, WIDTH)).astype(np.float32)
    noise = filling * rng.standard_normal(tokens.shape).astype(np.float32)
    return {"x": np.where(MASK[..., None] == 1, tokens, noise), "attention_mask": MASK}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("padded", [0, 1])
def test_moments_are_those_of_what_is_no_padding(body: str, padded: int) -> None:
    model, fed = network(BODIES[body]), samples(100)
    fed["attention_mask"] = MASK ^ padded
    session = CPU.session(model)
    data = open_data(fed, session.inputs, samples=None)
    traced = trace(CPU, model, next(iter(data.batches(1))).feeds)
    layers = discover(import_graph(model), {name: t.shape for name, t in traced.items()})
    known = find_padded(CPU, model, layers, Padding("attention_mask", padded), data, 5)
    assert known.weights == {"w1", "w2"}
    found = {
        la.weight: moments
        for la, moments in input_moments(
            CPU, model, layers, data, 5, lambda _done, _total: None, padded=known
        )
    }
    rows = fed["x"][MASK == 1].astype(np.float64)
    assert found["w1"].count == found["w2"].count == MASK.sum()
    np.testing.assert_allclose(found["w1"].gram[0], rows.T @ rows, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("body", BODIES)
def test_what_stands_in_padding_changes_no_file(body: str, tmp_path: Path) -> None:
    onnx.save(network(BODIES[body]), tmp_path / "model.onnx")
    written = []
    for filling in (0.0, 1.0):
        np.savez(tmp_path / "data.npz", **samples(filling))  # type: ignore[arg-type]
        out = tmp_path / f"{filling}.onnx"
        report = compile_model(
            tmp_path / "model.onnx", "4bit-avg", tmp_path / "data.npz", output=out, activations="fp32"
        )
        written.append(out.read_bytes())
    assert written[0] == written[1]
    before, after = (
        evaluate_model(out, samples(filling), reference=tmp_path / "model.onnx") for filling in (0.0, 9.0)
    )
    assert before.score.outputs["y"].sqnr == pytest.approx(after.score.outputs["y"].sqnr)
    assert report.quality is not None


@pytest.mark.parametrize(
    "body",
    [
        # Rows of another order, as torch's attention has them; and of no sample at all.
        "t = Transpose <perm = [1, 0, 2]> (x)  f = Reshape (t, flat)  a = Gemm (f, w1)  b = Gemm (a, w2)  s = Shape (x)  y = Reshape (b, s)",
        "p = Slice (table, zero, one, zero)  a = MatMul (p, w1)  b = MatMul (a, w2)  y = Add (x, b)",
    ],
)
def test_rows_that_are_no_positions_in_order_all_count(body: str) -> None:
    model, fed = network(body), samples(1)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ones((1, TOKENS, WIDTH), np.float32), "table"),
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(np.array([1]), "one"),
        ]
    )
    session = CPU.session(model)
    data = open_data(fed, session.inputs, samples=None)
    layers = discover(import_graph(model), {})
    assert find_padded(CPU, model, layers, Padding("attention_mask"), data, 8).weights == frozenset()


def found_padding(name: str, values: NDArray[np.generic]) -> Padding | None:
    session = CPU.session(network(BODIES["3-d"], name))
    data = open_data({"x": samples(0)["x"], name: values}, session.inputs, samples=None)
    return find_padding(session.inputs, data, 0)


@pytest.mark.parametrize(
    ("name", "values", "padding"),
    [
        ("attention_mask", MASK, Padding("attention_mask")),
        ("attention_mask", MASK[:, ::-1], Padding("attention_mask")),
        ("src_key_padding_mask", 1 - MASK, Padding("src_key_padding_mask", 1)),
        ("padding_mask", MASK, Padding("padding_mask")),  # ones for what is none, as some have it
        ("token_type_ids", MASK, None),
        ("global_attention_mask", MASK, None),
        ("attention_mask", np.ones_like(MASK), None),
        ("attention_mask", 2 * MASK, None),
        ("attention_mask", 1 - MASK, None),
        ("mask", np.random.default_rng(0).integers(0, 2, MASK.shape), None),  # of pixels
    ],
)
def test_a_mask_is_called_so_and_holds_ones_at_one_end(
    name: str, values: NDArray[np.generic], padding: Padding | None
) -> None:
    assert found_padding(name, np.ascontiguousarray(values)) == padding


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 6, 8), True), ((2, 6, 1, 8), True), ((12, 8), False), ((1, 6, 8), False), ((2, 4, 6, 8), False)],
)
def test_rows_that_are_positions(shape: tuple[int, ...], expected: bool) -> None:
    assert has_positions(shape, (2, 6)) is expected
