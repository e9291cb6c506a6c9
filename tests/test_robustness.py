"""Every file of ../shared/robustness: real exports of many tools, on synthetic inputs."""

from pathlib import Path

import pytest
from shared import SHARED, needs_shared

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
LEAST_SQNR = 25.0


def test_the_folder_is_there() -> None:
    assert len(MODELS) == 25
    assert len(REFUSED) <= 3


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_compiles_verifies_and_agrees_or_says_why_not(model: Path, activations: str, tmp_path: Path) -> None:
    def compile_() -> onnxmpq.Report:
        return onnxmpq.compile_model(
            model, ["8bit-avg"], activations=activations, output=tmp_path / "out.onnx", provider="cpu"
        )

    if model.stem in REFUSED:
        with pytest.raises(onnxmpq.OnnxmpqError, match=REFUSED[model.stem]):
            compile_()
        assert not list(tmp_path.iterdir())
        return
    report = compile_()
    assert report.size.average_weight_bits <= 8.0
    assert all(layer.reason for layer in report.layers if layer.weight_bits > 8)
    session = Runtime("cpu").session(tmp_path / "out.onnx")
    session.run(one_sample(guess_shapes(session, apply_shapes(session.inputs, {}), 0), 0))
    sqnr = report.quality.metrics["compiled"].sqnr
    if activations == "fp32":
        assert sqnr is not None
        assert sqnr >= LEAST_SQNR
