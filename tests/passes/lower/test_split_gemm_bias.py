import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.split_gemm_bias import SplitGemmBias
from onnxmpq.testing import check_pass, model_of

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3)).astype(np.float32)
TEXT = "g (float[2, 4] x) => (float[2, 3] y) { y = Gemm <beta = %s> (x, w, b) }"


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (2, 1), (2, 3)])
def test_any_bias_becomes_an_addition(shape: tuple[int, ...]) -> None:
    bias = np.asarray(RNG.standard_normal(shape), np.float32)
    assert ops(check_pass(SplitGemmBias({"w"}), model_of(TEXT % 1.0, w=WEIGHT, b=bias))) == ["Gemm", "Add"]


def test_beta_scales_the_bias() -> None:
    bias = RNG.standard_normal(3).astype(np.float32)
    split = check_pass(SplitGemmBias({"w"}), model_of(TEXT % 0.5, w=WEIGHT, b=bias))
    assert ops(split) == ["Gemm", "Mul", "Add"]
    assert [a.name for a in split.graph.node[0].attribute] == []


def test_others_are_left_alone() -> None:
    model = model_of(TEXT % 1.0, w=WEIGHT, b=np.ones(3, np.float32))
    assert ops(check_pass(SplitGemmBias({"v"}), model)) == ["Gemm"]
    bare = model_of("g (float[2, 4] x) => (float[2, 3] y) { y = Gemm (x, w) }", w=WEIGHT)
    assert ops(check_pass(SplitGemmBias({"w"}), bare)) == ["Gemm"]
