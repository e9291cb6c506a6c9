from pathlib import Path

import numpy as np
import pytest

from onnxmpq import compile_model
from onnxmpq.observer import Observer
from onnxmpq.present.console import show_report
from onnxmpq.testing import model_of
from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import UNMEASURED, CostTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import TARGETS
from onnxmpq.verify.stage import cost_alone, valid_cpus


@pytest.mark.parametrize(
    ("target", "option", "everywhere"),
    [
        ("ort-cpu", Option(8, 8), False),
        ("ort-cpu", Option(7, 8), True),
        ("ort-cpu", Option(8), True),
        ("tensorrt", Option(8, 8), True),  # what saturates are unsigned activations
    ],
)
def test_on_which_cpus_a_measured_accuracy_holds(target: str, option: Option, everywhere: bool) -> None:
    assert (valid_cpus(Plan({"a": option}), TARGETS[target]) == "any") is everywhere


def test_a_layer_without_a_choice_has_nocost_alone() -> None:
    costs = {"a": {Option(4): 2.0, Option(8): 1.0}, "b": {Option(8): 0.0}}
    first, second = (example_layer(name, "Conv", (name,), name, (4, 4, 1, 1), 0) for name in "ab")
    found = CostTable(costs, "kl", "measured", 1)
    assert cost_alone(found, first, Option(8)) == 1
    assert cost_alone(found, second, Option(8)) is None
    assert cost_alone(CostTable(costs, "kl", UNMEASURED, 1), first, Option(8)) is None


class _Removing(Observer):
    """Removes a file when the work is done and only the verdict is left."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def stage(self, name: str) -> None:
        if name == "verify":
            self.file.unlink()


def test_a_file_that_can_no_longer_be_judged_is_kept_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 8)).astype(np.float32)
    model = model_of("g (float[N, 16] x) => (float[N, 8] y) { y = MatMul (x, w) }", w=weights)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    x = rng.standard_normal((24, 16)).astype(np.float32)
    np.savez(tmp_path / "judge.npz", x=x)
    report = compile_model(
        tmp_path / "m.onnx", ["4bit-avg"], {"x": x}, evaluation=tmp_path / "judge.npz", method="size", effort="fast",
        observer=_Removing(tmp_path / "judge.npz"),
    )  # fmt: skip
    assert Path(report.output).stat().st_size == report.file_bytes
    assert "judge.npz" in report.unjudged
    assert not report.metrics
    show_report(report)
    assert "NOT JUDGED: the file is written" in capsys.readouterr().out
