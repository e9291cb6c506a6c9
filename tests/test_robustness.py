"""Every file of ../shared/robustness: real exports of many tools, on synthetic inputs."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from shared import ROOT, SHARED, needs_shared

import onnxmpq
from onnxmpq.data.input_shapes import apply_shapes, guess_shapes, one_sample
from onnxmpq.runtime.session import Runtime

pytestmark = [pytest.mark.slow, needs_shared]

MODELS = sorted(SHARED.glob("robustness/*.onnx"))
REFUSED = {
    "light_densenet121": "computed by ConstantOfShape",
    "light_resnet50": "computed by ConstantOfShape",
    "op_prelu_2d": "PRelu",
}
LOST = {("candy_style", "int8")}  # 7 dB, which the verdict says
LEAST_SQNR = {"fp32": 20.0, "int8": 10.0}  # dB, of the worst output, or group of its channels


def test_the_folder_is_there() -> None:
    assert len(MODELS) == 25
    assert len(REFUSED) <= 3


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str, Path], onnxmpq.Report]:
    """As the benchmark compiles: on photographs where the network takes them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found: Callable[[Path, str, Path], onnxmpq.Report] = importlib.import_module("robustness").compiled
    return found


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_compiles_verifies_and_agrees_or_says_why_not(
    model: Path,
    activations: str,
    tmp_path: Path,
    compiled: Callable[[Path, str, Path], onnxmpq.Report],
) -> None:
    if model.stem in REFUSED:
        with pytest.raises(onnxmpq.OnnxmpqError, match=REFUSED[model.stem]):
            compiled(model, activations, tmp_path / "out.onnx")
        assert not list(tmp_path.iterdir())
        return
    report = compiled(model, activations, tmp_path / "out.onnx")
    assert report.size.average_weight_bits <= 8.0
    assert all(layer.reason for layer in report.layers if layer.weight_bits > 8)
    session = Runtime("cpu").session(tmp_path / "out.onnx")
    session.run(one_sample(guess_shapes(session, apply_shapes(session.inputs, {}), 0), 0))
    outputs = report.quality.metrics["compiled"].outputs
    worst = min(o.worst_sqnr for o in outputs.values() if o.worst_sqnr is not None)
    if (model.stem, activations) in LOST:
        assert report.quality.is_broken
        assert "activations did it" in str(report.quality.cause)
        return
    assert worst >= LEAST_SQNR[activations]
    assert not report.quality.is_broken
