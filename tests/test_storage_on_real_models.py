"""Storage and targets on the shared networks: what the runtime makes of the files, and that they compute the same."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from shared import shared

import onnxmpq
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.report import Report
from onnxmpq.values.target import TARGETS
from onnxmpq.verify.rules import broken_rules

pytestmark = pytest.mark.slow

NAMES = ("resnet20_cifar10", "resnet56_cifar10", "mobilenetv2_1.0", "squeezenet1_1")
CPU = Runtime("cpu")


@pytest.fixture(params=NAMES)
def network(request: pytest.FixtureRequest) -> Path:
    return shared(f"models/{request.param}.onnx")


def compiled(model: Path, output: Path, budget: str = "3bit-avg", **options: Any) -> Report:
    """Widths by size and weights rounded to nearest: where bytes and structure are what counts."""
    fast: dict[str, Any] = {
        "samples": 4,
        "rounding": "nearest",
        "method": "size",
        "verify": False,
        "force": True,
    }
    return onnxmpq.compile_model(model, [budget], output=output, **fast, **options)


def optimized(path: Path, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime really runs."""
    saved = folder / "optimized.onnx"
    CPU.session(path, save_optimized=saved)
    return Counter(node.op_type for node in onnx.load(saved).graph.node)


def outputs(path: Path) -> dict[str, Any]:
    session = CPU.session(path)
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.standard_normal([d or 2 for d in i.shape]).astype(i.dtype) for i in session.inputs}
    return session.run(feeds)


def test_packed_weights_leave_the_kernels_of_fp32(network: Path, tmp_path: Path) -> None:
    compiled(network, tmp_path / "m.onnx", activations="fp32")
    found, fp32 = optimized(tmp_path / "m.onnx", tmp_path), optimized(network, tmp_path)
    unpacking = (
        "DequantizeLinear",
        "Cast",
        "BitShift",
        "BitwiseAnd",
        "Split",
        "Sub",
        "Mul",
        "Add",
        "Reshape",
    )
    layers = ("Conv", "FusedConv", "Gemm", "FusedGemm")
    assert {op: found[op] for op in unpacking} == {op: fp32[op] for op in unpacking}
    assert {op: found[op] for op in layers} == {op: fp32[op] for op in layers}
    assert found["DequantizeLinear"] == 0


def test_native_weights_are_dequantized_at_every_run(network: Path, tmp_path: Path) -> None:
    report = compiled(network, tmp_path / "m.onnx", activations="fp32", storage="native")
    found = optimized(tmp_path / "m.onnx", tmp_path)
    matrices = found["MatMulNBits"]  # these read the codes themselves
    assert found["DequantizeLinear"] == len(report.layers) - matrices
    assert any("dequantized at every run" in note for note in report.run.notes)


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_packed_files_compute_what_plain_bytes_do(network: Path, activations: str, tmp_path: Path) -> None:
    packed, plain = tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    report = compiled(network, packed, activations=activations)
    same = [f"{layer.name}={layer.weight_bits}" for layer in report.layers]
    again = compiled(network, plain, "8bit-avg", activations=activations, storage="int8", keep=same)
    assert {la.name: la.weight_bits for la in again.layers} == {
        la.name: la.weight_bits for la in report.layers
    }
    assert optimized(packed, tmp_path) == optimized(plain, tmp_path)
    expected = outputs(plain)
    for name, value in outputs(packed).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("target", ["tensorrt", "portable"])
def test_plain_files_keep_their_targets_rules(network: Path, target: str, tmp_path: Path) -> None:
    report = compiled(network, tmp_path / "m.onnx", "8bit-avg", target=target, activations="int8")
    model = onnx.load(tmp_path / "m.onnx")
    assert broken_rules(model, TARGETS[target]) == []
    pairs = Counter(node.op_type for node in model.graph.node)
    assert pairs["DequantizeLinear"] == pairs["QuantizeLinear"] + len(report.layers)
    assert not pairs.keys() & {"Cast", "BitShift", "Split"}
    assert all(np.isfinite(value).all() for value in outputs(tmp_path / "m.onnx").values())


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_nothing_is_stored_twice_or_for_nobody(network: Path, activations: str, tmp_path: Path) -> None:
    compiled(network, tmp_path / "m.onnx", activations=activations)
    model = onnx.load(tmp_path / "m.onnx")
    stored = Counter((t.data_type, tuple(t.dims), t.raw_data) for t in model.graph.initializer)
    assert max(stored.values()) == 1
    read = {name for node in model.graph.node for name in node.input}
    assert {t.name for t in model.graph.initializer} <= read
    assert not model.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
