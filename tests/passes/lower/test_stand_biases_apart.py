from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.stand_biases_apart import stand_biases_apart
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_pass, model_of

TEXT = """g (float[{rows}, 8] x) => (float[{rows}, 4] y) {{
    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
    w = DequantizeLinear <axis = 1> (codes, t, zeros)
    m = MatMul (d, w) a = Add ({operands}) y = Neg (a) }}"""


def product(rows: str, operands: str = "m, b", bias: tuple[int, ...] = (4,)) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return model_of(
        TEXT.format(rows=rows, operands=operands), s=np.asarray(0.03, np.float32), z=np.asarray(120, np.uint8), codes=rng.integers(-64, 64, (8, 4), np.int8),
        t=np.full(4, 0.01, np.float32), zeros=np.zeros(4, np.int8), b=rng.standard_normal(bias).astype(np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("rows", ["1, 5", "B, S", "1, 2, 3"])
@pytest.mark.parametrize("operands", ["m, b", "b, m"])
def test_the_runtime_multiplies_in_integers(rows: str, operands: str, tmp_path: Path) -> None:
    model = check_pass(stand_biases_apart, product(rows, operands), decibels=np.inf)
    Runtime("cpu", 1).session(model, save_optimized=tmp_path / "o.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert ops == ["QuantizeLinear", "MatMulIntegerToFloat", "Add", "Neg"]


def test_what_it_is_there_against(tmp_path: Path) -> None:
    Runtime("cpu", 1).session(product("1, 5"), save_optimized=tmp_path / "o.onnx")
    assert "Gemm" in [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]


@pytest.mark.parametrize("model", [product("5"), product("1, 5", bias=(1, 4))])
def test_products_of_two_dimensions_and_other_biases_are_left(model: onnx.ModelProto) -> None:
    before = [tensor.dims for tensor in model.graph.initializer if tensor.name == "b"]
    changed = check_pass(stand_biases_apart, model, decibels=np.inf)
    assert [tensor.dims for tensor in changed.graph.initializer if tensor.name == "b"] == before
