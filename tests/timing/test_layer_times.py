"""Whose time a kernel's is. Nothing here looks at a clock."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from shared import DIGITS, SHARED

from onnxmpq.api import compile_model
from onnxmpq.normalize.discover import discover
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of, random_feeds
from onnxmpq.timing import layer_times as module
from onnxmpq.timing.kernel_times import KernelTime
from onnxmpq.timing.layer_times import attribute, layer_times
from onnxmpq.values.layer import Layer

NETWORKS = [
    DIGITS,
    *(pytest.param(path, marks=pytest.mark.slow) for path in sorted(SHARED.glob("models/*.onnx"))),
]
RUNTIME = Runtime("cpu", threads=1)
WEIGHT = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)

RESIDUAL = """g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa)
    r = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (r, wb)
    c = Conv <pads = [1, 1, 1, 1]> (x, wc)
    s = Add (b, c)
    y = Relu (s)
}"""


def residual() -> tuple[onnx.ModelProto, tuple[Layer, ...]]:
    model = model_of(RESIDUAL, wa=WEIGHT, wb=WEIGHT, wc=WEIGHT)
    for node in model.graph.node:
        node.name = node.output[0]
    return model, discover(import_graph(model), {})


def kernel(op: str, name: str, inputs: str, output: str) -> KernelTime:
    return KernelTime(name, op, tuple(inputs.split()), (output,), 1.0)


def test_a_kernel_that_took_in_a_sum_is_one_layer_of_two() -> None:
    times = [
        kernel("ReorderInput", "ReorderInput", "x", "t0"),
        kernel("Conv", "r_nchwc", "t0", "t1"),
        kernel("Conv", "c_nchwc", "t0", "t2"),
        kernel("Conv", "y_nchwc", "t1 w t2", "t3"),  # b, the sum and the last clamp
        kernel("ReorderOutput", "ReorderOutput_token_3", "t3", "y"),
    ]
    # Both b and c lie behind y; c, the later one, has a kernel that is clearly its own.
    assert attribute(times, *residual()) == ["a", "a", "c", "b", "b"]


def test_pairs_count_for_the_float_layer_they_are_there_for() -> None:
    times = [
        kernel("QuantizeLinear", "q", "x", "codes"),
        kernel("QLinearConv", "a_token_7", "codes", "codes_1"),
        kernel("DequantizeLinear", "r", "codes_1", "r"),
        kernel("FusedConv", "b_token", "r", "b"),
        kernel("QuantizeLinear", "q_1", "b", "codes_2"),
        kernel("QLinearConv", "c", "codes", "codes_3"),
        kernel("QLinearAdd", "s", "codes_2 codes_3", "codes_4"),
        kernel("DequantizeLinear", "y", "codes_4", "y"),
    ]
    assert attribute(times, *residual()) == ["a", "a", "b", "b", "b", "c", "c", "c"]


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_every_layer_of_a_network_is_found_in_each_of_its_files(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[dict[str, int]] = []
    whole = module.attribute

    def spy(times: list[KernelTime], model: onnx.ModelProto, layers: list[Layer]) -> list[str]:
        kernels = module.layer_kernels(times, model, layers)
        found.append({layer.name: list(kernels.values()).count(layer.name) for layer in layers})
        return whole(times, model, layers)

    monkeypatch.setattr(module, "attribute", spy)
    monkeypatch.setattr(module, "_RUNS", 1)  # private: nobody reads the times
    monkeypatch.setattr(module, "_SECONDS", 0.0)  # private: as above
    compile_model(
        path, ["latency=100x"], output=tmp_path / "out.onnx", activations="int8", method="size", samples=2,
        rounding="nearest", provider="cpu", verify=False,
    )  # fmt: skip
    assert len(found) == 3  # all in integers, and the two halves
    assert all(set(counts.values()) == {1} for counts in found)


def test_times_add_up_to_what_whole_files_take() -> None:
    model, layers = residual()
    asked: list[set[str]] = []

    def lowered(floats: object) -> onnx.ModelProto:
        asked.append(set(floats))  # type: ignore[call-overload]
        return model

    times = layer_times(RUNTIME, layers, random_feeds(model), model, lowered)
    assert asked == [set(), {"a", "c"}, {"b"}]
    assert sum(times.integer.values()) == pytest.approx(times.integer_file)
    assert set(times.floating) == {"a", "b", "c"}
    assert all(seconds > 0 for seconds in [*times.integer.values(), *times.floating.values(), times.fp32])
