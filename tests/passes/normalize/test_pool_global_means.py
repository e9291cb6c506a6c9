import onnx
import pytest

from onnxmpq.passes.normalize.pool_global_means import pool_global_means
from onnxmpq.testing import check_pass, model_of

HEADER = '<ir_version: 8, opset_import: ["": %d]> '


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def mean_17(attrs: str, shape: str, result: str) -> onnx.ModelProto:
    return model_of(f"g (float[{shape}] x) => (float[{result}] y) {{ y = ReduceMean <{attrs}> (x) }}")


@pytest.mark.parametrize(
    ("attrs", "shape", "result", "expected"),
    [
        ("axes = [2, 3]", "2, 3, 4, 5", "2, 3, 1, 1", ["GlobalAveragePool"]),
        ("axes = [-1, -2]", "2, 3, 4, 5", "2, 3, 1, 1", ["GlobalAveragePool"]),
        ("axes = [-1, 2], keepdims = 0", "n, 3, 4, 5", "n, 3", ["GlobalAveragePool", "Flatten"]),
        ("axes = [2], keepdims = 0", "2, 3, 4", "2, 3", ["GlobalAveragePool", "Flatten"]),
        ("axes = [2, 3, 4]", "1, 3, 4, 5, 6", "1, 3, 1, 1, 1", ["GlobalAveragePool"]),
    ],
)
def test_spatial_means(attrs: str, shape: str, result: str, expected: list[str]) -> None:
    assert ops(check_pass(pool_global_means, mean_17(attrs, shape, result))) == expected


def test_axes_as_an_input() -> None:
    text = (
        HEADER % 18
        + """
    g (float[2, 3, 4, 5] x) => (float[2, 3] y) <int64[2] k = {2, 3}> { y = ReduceMean <keepdims = 0> (x, k) }
    """
    )
    assert ops(check_pass(pool_global_means, model_of(text))) == ["GlobalAveragePool", "Flatten"]


@pytest.mark.parametrize(
    ("attrs", "shape", "result"),
    [
        ("axes = [1, 2, 3]", "2, 3, 4, 5", "2, 1, 1, 1"),
        ("axes = [2]", "2, 3, 4, 5", "2, 3, 1, 5"),
        ("keepdims = 1", "2, 3, 4, 5", "1, 1, 1, 1"),
        ("axes = [1]", "2, 3", "2, 1"),
    ],
)
def test_other_means_stay(attrs: str, shape: str, result: str) -> None:
    assert ops(check_pass(pool_global_means, mean_17(attrs, shape, result))) == ["ReduceMean"]


def test_integers_stay() -> None:
    model = model_of("g (int32[2, 3, 4] x) => (int32[2, 3, 1] y) { y = ReduceMean <axes = [2]> (x) }")
    assert ops(check_pass(pool_global_means, model)) == ["ReduceMean"]


def test_doubles_stay() -> None:
    model = model_of(
        "g (double[2, 3, 4, 4] x) => (double[2, 3, 1, 1] y) { y = ReduceMean <axes = [2, 3]> (x) }"
    )
    assert ops(check_pass(pool_global_means, model)) == ["ReduceMean"]
