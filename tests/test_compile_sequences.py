"""The whole compile on what reads sequences: recurrences, in control flow too, embeddings, tied tables, positions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxmpq
from onnxmpq.errors import InfeasibleError, ModelError
from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.report import Report
from onnxmpq.values.target import TARGETS
from onnxmpq.verify.readback import read_weights

Compiled = tuple[Report, Path]
Compile = Callable[..., Compiled]

FLOATING = [name for name, target in TARGETS.items() if target.weights.beside_floats]

RNG = np.random.default_rng(0)
TOKENS = {"i": RNG.integers(0, 9000, (32, 6))}


def floats(*shape: int) -> Array:
    values: Array = RNG.standard_normal(shape) / np.sqrt(shape[-1])
    return values.astype(np.float32)


def network(graph: str, opset: int, **constants: Array) -> onnx.ModelProto:
    ir = 7 if opset < 18 else 10
    return model_of(f'<ir_version: {ir}, opset_import: ["": {opset}]> {graph}', **constants)


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compiles a model in a folder of its own."""

    def run(model: onnx.ModelProto, data: Any, budget: str = "8bit-avg", **options: Any) -> Compiled:
        source, file = tmp_path / "m.onnx", tmp_path / "small.onnx"
        source.write_bytes(model.SerializeToString())
        options = {"activations": "fp32", "effort": "fast", "provider": "cpu"} | options
        return onnxmpq.compile_model(source, [budget], data, output=file, **options), file

    return run


def sqnr(report: Report) -> float:
    return report.quality.metrics["compiled"].sqnr or 0.0


def recurrent(op: str, gates: int, opset: int) -> onnx.ModelProto:
    """[steps, batch] first, so that a sample lies on the second axis: the batch is fixed."""
    return network(
        f"""g (float[6, 1, 16] x) => (float[1, 5] z) {{
            y, h = {op} <direction = "bidirectional", hidden_size = 24> (x, w, r)
            t = Transpose <perm = [1, 0, 2]> (h)  f = Reshape (t, s)  z = MatMul (f, v) }}""",
        opset, w=floats(2, gates * 24, 16), r=floats(2, gates * 24, 24), v=floats(48, 5), s=np.array([-1, 48]),
    )  # fmt: skip


SEQUENCES = [{"x": values} for values in RNG.standard_normal((32, 6, 1, 16)).astype(np.float32)]


@pytest.mark.parametrize(("op", "gates", "opset"), [("LSTM", 4, 9), ("GRU", 3, 13), ("RNN", 1, 21)])
def test_both_directions_of_a_recurrence_are_packed(
    compiled: Compile, op: str, gates: int, opset: int
) -> None:
    report, file = compiled(recurrent(op, gates, opset), lambda: iter(SEQUENCES))
    assert [(la.name, la.op, la.weight_bits) for la in report.layers] == [
        ("y.W", op, 8),
        ("y.R", op, 8),
        ("z", "MatMul", 8),
    ]
    assert sqnr(report) > 35
    stored = read_weights(onnx.load(file))
    assert stored["w"].scale.shape == (2, gates * 24)
    report, _ = compiled(recurrent(op, gates, opset), lambda: iter(SEQUENCES), "5bit-avg")
    assert report.size.average_weight_bits <= 5
    assert sqnr(report) > 15


@pytest.mark.parametrize("target", FLOATING)
def test_every_target_with_floats_beside_integers_can_hold_a_recurrence(
    compiled: Compile, target: str
) -> None:
    for storage in TARGETS[target].weights.storages:
        report, _ = compiled(recurrent("GRU", 3, 17), lambda: iter(SEQUENCES), target=target, storage=storage)
        assert sqnr(report) > 35


BRANCHED = """g (float[4, 1, 8] x, bool p) => (float[1, 1, 24] y) {
    y = If (p) <
        then_branch = t () => (float[1, 1, 24] h) {
            wa = Concat <axis = 0> (w1, w2)  w = Unsqueeze (wa, zero)
            hy, h = LSTM <hidden_size = 24> (x, w, r) },
        else_branch = e () => (float[1, 1, 24] n) {
            wb = Concat <axis = 0> (w1, w2)  v = Unsqueeze (wb, zero)  m = Neg (x)
            ky, n = LSTM <hidden_size = 24> (m, v, r) }
    > }"""


def test_a_recurrence_in_a_control_flow_body_is_packed_once(compiled: Compile) -> None:
    """Both branches make the same weight from the parts of it, as exporters do that reorder gates."""
    model = network(BRANCHED, 15, w1=floats(48, 8), w2=floats(48, 8), r=floats(1, 96, 24), zero=np.array([0]))
    data = [{"x": x, "p": np.array(i % 2 == 0)} for i, x in enumerate(floats(16, 4, 1, 8))]
    report, file = compiled(model, lambda: iter(data))
    assert [(la.op, la.params, la.weight_bits) for la in report.layers] == [
        ("LSTM", 768, 8),
        ("LSTM", 2304, 8),
    ]
    assert len(read_weights(onnx.load(file))) == 2
    assert sqnr(report) > 35


def embedded(opset: int, width: int = 64, **constants: Array) -> onnx.ModelProto:
    return network(
        """g (int64[N, 6] i) => (float[N, 6, 5] y) {
            e = Gather (table, i)  a = Relu (e)  h = MatMul (a, w)  b = Relu (h)  y = MatMul (b, v) }""",
        opset, **{"table": floats(9000, width), "w": floats(width, 32), "v": floats(32, 5)} | constants,
    )  # fmt: skip


def optimized(file: Path, folder: Path) -> onnx.ModelProto:
    """The file as ONNX Runtime makes it when it loads it."""
    saved = folder / "optimized.onnx"
    Runtime("cpu", threads=1).session(file, save_optimized=saved)
    return onnx.load(saved)


@pytest.mark.parametrize("opset", [11, 17, 24])
@pytest.mark.parametrize("budget", ["8bit-avg", "4bit-avg"])
def test_a_large_table_is_looked_up_as_codes(
    compiled: Compile, tmp_path: Path, opset: int, budget: str
) -> None:
    report, file = compiled(embedded(opset), TOKENS, budget, activations="int8")
    assert {la.op: la.weight_bits for la in report.layers}["Gather"] <= 8
    assert sqnr(report) > (30 if budget == "8bit-avg" else 12)
    kept = [t.data_type for t in optimized(file, tmp_path).graph.initializer if list(t.dims) == [9000, 64]]
    assert kept == [onnx.TensorProto.INT8]
    assert read_weights(onnx.load(file))["table"].codes.shape == (9000, 64)


def test_a_small_table_is_unpacked_when_the_file_is_loaded(compiled: Compile, tmp_path: Path) -> None:
    model = embedded(17, table=floats(900, 64))
    _, file = compiled(model, {"i": TOKENS["i"] % 900})
    kept = [t.data_type for t in optimized(file, tmp_path).graph.initializer if list(t.dims) == [900, 64]]
    assert kept == [onnx.TensorProto.FLOAT]


@pytest.mark.parametrize("target", FLOATING)
def test_every_target_with_floats_beside_integers_can_hold_a_table(compiled: Compile, target: str) -> None:
    for storage in TARGETS[target].weights.storages:
        report, _ = compiled(embedded(17), TOKENS, target=target, storage=storage)
        assert sqnr(report) > 35


def test_a_table_stays_in_float_where_only_integer_layers_may_have_integer_weights(compiled: Compile) -> None:
    model = embedded(17, table=floats(64, 64))
    data = {"i": TOKENS["i"] % 64}
    report, file = compiled(model, data, "32bit-avg", target="qnn", activations="int16")
    assert {la.op: la.weight_bits for la in report.layers} == {"Gather": 32, "MatMul": 8}
    assert {"w", "v"} == read_weights(onnx.load(file)).keys()
    with pytest.raises(InfeasibleError, match="the smallest this model gets"):
        compiled(model, data, "8bit-avg", target="qnn", activations="int16")


TIED = """g (int64[N, 6] i) => (float[N, 6, 2000] y) {
    e = Gather (table, i)  h = MatMul (e, w)  a = Relu (h)  BEHIND }"""


@pytest.mark.parametrize(
    ("behind", "more"),
    [
        ("t = Transpose <perm = [1, 0]> (table)  y = MatMul (a, t)", {}),
        ('y = Einsum <equation = "nsd,vd->nsv"> (a, table)', {}),
        ('y = Einsum <equation = "nsd,vd->nsv"> (a, again)', {"again"}),
    ],
)
@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_a_tied_table_is_stored_once(
    compiled: Compile, behind: str, more: set[str], activations: str
) -> None:
    table = floats(2000, 64)
    model = network(
        TIED.replace("BEHIND", behind), 17, table=table, w=floats(64, 64), **dict.fromkeys(more, table)
    )
    report, file = compiled(model, {"i": TOKENS["i"] % 2000}, activations=activations)
    assert sum(la.params for la in report.layers) == 2000 * 64 + 64 * 64
    assert file.stat().st_size < 1.1 * (2000 * 64 + 64 * 64)
    assert sqnr(report) > 28


def test_positions_that_are_added_are_packed(compiled: Compile) -> None:
    model = network(
        """g (float[N, 96, 32] x) => (float[N, 96, 5] y) {
            h = MatMul (x, w)  a = Add (h, p)  n = Relu (a)  y = MatMul (n, v) }""",
        17, w=floats(32, 192), p=floats(1, 96, 192), v=floats(192, 5),
    )  # fmt: skip
    report, _ = compiled(model, {"x": floats(32, 96, 32)})
    assert {la.op: la.weight_bits for la in report.layers} == {"MatMul": 8, "Add": 8}
    assert report.size.file_bytes < 1.2 * (96 * 192 + 32 * 192 + 192 * 5)
    assert sqnr(report) > 30


@pytest.mark.parametrize(
    "method", ["fisher", "measured", "size", "onnxmpq.sensitivity.methods.greedy:by_loss"]
)
def test_methods_know_embeddings_and_positions(compiled: Compile, method: str) -> None:
    model = network(
        """g (int64[N, 96] i) => (float[N, 5] y) {
            e = Gather (table, i)  a = Add (e, p)  n = Relu (a)  h = MatMul (n, w)
            s = ReduceMean <axes = [1], keepdims = 0> (h)  y = Softmax (s) }""",
        17, table=floats(300, 192), p=floats(1, 96, 192), w=3 * floats(192, 5),
    )  # fmt: skip
    report, _ = compiled(model, {"i": RNG.integers(0, 300, (32, 96))}, "4bit-avg", method=method)
    assert report.size.average_weight_bits <= 4


def test_a_method_of_gradients_says_that_recurrences_have_none(compiled: Compile) -> None:
    with pytest.raises(ModelError, match=r"(LSTM.*--method measured|no gradient)"):
        compiled(recurrent("LSTM", 4, 17), lambda: iter(SEQUENCES), "4bit-avg", method="fisher")


def test_a_stock_runtime_reads_the_file(compiled: Compile) -> None:
    """Without a line of ours, whatever the batch."""
    _, file = compiled(embedded(13), TOKENS, "6bit-avg", activations="int8")
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    feeds: Mapping[str, Array] = {"i": TOKENS["i"][:3]}
    assert session.run(None, dict(feeds))[0].shape == (3, 6, 5)


def test_opsets_are_kept(compiled: Compile) -> None:
    _, file = compiled(recurrent("GRU", 3, 14), lambda: iter(SEQUENCES))
    assert opset_version(onnx.load(file)) == 14
