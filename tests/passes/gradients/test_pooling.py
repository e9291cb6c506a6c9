from typing import Any

import numpy as np
import pytest
from central_differences import check_gradients

from onnxmpq.testing import model_of

POOLS = [
    "kernel_shape = [2, 2], strides = [2, 2]", "kernel_shape = [3, 2]", "kernel_shape = [3, 3], strides = [2, 1], pads = [1, 1, 0, 1]",
    "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1", "kernel_shape = [1, 2], strides = [3, 2]",
    'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"', 'kernel_shape = [2, 3], auto_pad = "SAME_LOWER"',
    'kernel_shape = [2, 2], strides = [2, 2], auto_pad = "VALID"', "kernel_shape = [2, 2], dilations = [2, 1]",
]  # fmt: skip


def pool(op: str, attrs: str, shape: list[int] | None = None, opset: int = 19) -> Any:
    shape = shape or [2, 3, 5, 7]
    attrs = f"<{attrs}>" if attrs else ""
    free = ", ".join("?" for _ in shape)
    return model_of(
        f'<ir_version: 9, opset_import: ["": {opset}]> g (float{shape} x) => (float[{free}] y) {{ y = {op} {attrs} (x) }}'
    )


def distinct(shape: list[int]) -> dict[str, Any]:
    values = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape)
    return {"x": values.astype(np.float32) / 4}


@pytest.mark.parametrize("attrs", POOLS)
@pytest.mark.parametrize("padding", [0, 1])
def test_average_pool(attrs: str, padding: int) -> None:
    check_gradients(pool("AveragePool", f"{attrs}, count_include_pad = {padding}"), ["x"], step=0.5)


@pytest.mark.parametrize("attrs", POOLS)
def test_max_pool(attrs: str) -> None:
    check_gradients(pool("MaxPool", attrs), ["x"], distinct([2, 3, 5, 7]), step=2**-5)


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize(("shape", "attrs"), [
    ([2, 3, 7], "kernel_shape = [3], strides = [2]"), ([1, 2, 4, 3, 5], "kernel_shape = [2, 2, 2], strides = [2, 1, 2]"),
])  # fmt: skip
def test_pools_of_other_ranks(op: str, shape: list[int], attrs: str) -> None:
    check_gradients(pool(op, attrs, shape), ["x"], distinct(shape), step=2**-5)


def test_of_equal_values_the_first_is_the_largest() -> None:
    from onnxmpq.passes.expose.emit_gradients import EmitGradients
    from onnxmpq.testing import check_pass, run

    model = model_of("""g (float[1, 1, 4] x) => (float loss) {
        y = MaxPool <kernel_shape = [2], strides = [2]> (x) loss = ReduceSum <keepdims = 0> (y) }""")
    feeds = {"x": np.zeros((1, 1, 4), np.float32)}
    emitted = check_pass(EmitGradients("loss", ("x",), {"y": (1, 1, 2)}), model, feeds, kind="exposing")
    assert run(emitted, feeds)["x/gradient"].tolist() == [[[1, 0, 1, 0]]]


@pytest.mark.parametrize("static", [True, False])
def test_global_average_pool(static: bool) -> None:
    check_gradients(pool("GlobalAveragePool", "", [2, 3, 4, 5]), ["x"], step=0.5, static=static)


@pytest.mark.parametrize("shape", [[2, 3, 5], [2, 3, 4, 5], [1, 2, 3, 2, 4]])
def test_global_max_pool(shape: list[int]) -> None:
    check_gradients(pool("GlobalMaxPool", "", shape), ["x"], distinct(shape), step=2**-5)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1, 0], [0, 2], []])
def test_reductions(op: str, keep: int, axes: list[int]) -> None:
    rank = 3 if keep else (3 - len(axes) if axes else 0)
    free = f"[{', '.join('?' * rank)}]" if rank else ""
    operands = "x, axes" if axes else "x"
    constants = {"axes": np.array(axes, np.int64)} if axes else {}
    text = f"g (double[2, 3, 4] x) => (double{free} y) {{ y = {op} <keepdims = {keep}> ({operands}) }}"
    check_gradients(model_of('<ir_version: 8, opset_import: ["": 18]> ' + text, **constants), ["x"], step=0.5)


def test_axes_as_an_attribute() -> None:
    text = "g (double[2, 3, 4] x) => (double[?, ?] y) { y = ReduceMean <keepdims = 0, axes = [-1]> (x) }"
    check_gradients(model_of(text), ["x"], step=0.5)


def test_two_pools_of_one_input() -> None:
    model = model_of("""g (float[1, 2, 4, 4] x) => (float[?, ?, ?, ?] y) {
        a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        y = Mul (a, b)
    }""")
    check_gradients(model, ["x"], distinct([1, 2, 4, 4]), step=2**-6, tolerance=2e-3)
