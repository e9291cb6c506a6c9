"""A compile saves its plan, and takes it again: the same file comes out; an edited one comes out as edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from onnxmpq import Report, compile_model, inspect_model
from onnxmpq.commands import cli
from onnxmpq.errors import InfeasibleError, OptionError
from onnxmpq.testing import classifier, labelled


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(classifier(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def compiled(model: Path, output: str, *budgets: str, **asked: Any) -> Report:
    return compile_model(
        model,
        budgets,
        labelled(classifier()),
        output=model.with_name(output),
        effort="fast",
        verify=False,
        **asked,
    )


@pytest.mark.parametrize("activations", ["int8", "fp32", "dynamic"])
def test_a_saved_plan_gives_the_same_widths_without_a_budget(model: Path, activations: str) -> None:
    plan = model.with_name("plan.json")
    compiled(model, "one.onnx", "4bit-avg", activations=activations, save_plan=plan)
    report = compiled(model, "two.onnx", plan=plan)
    one, two = (inspect_model(model.with_name(name)).layers for name in ("one.onnx", "two.onnx"))
    assert one == two
    assert report.sensitivity.evaluations == 0


def test_an_edited_plan_is_what_the_file_holds(model: Path) -> None:
    plan = model.with_name("plan.json")
    compiled(model, "one.onnx", "4bit-avg", activations="int8", save_plan=plan)
    text = json.loads(plan.read_text(encoding="utf-8"))
    first, *_, last = text["layers"]
    text["layers"] |= {first: "3/fp32", last: "fp32"}
    plan.write_text(json.dumps(text), encoding="utf-8")
    compiled(model, "two.onnx", plan=plan)
    layers = {layer.name: layer for layer in inspect_model(model.with_name("two.onnx")).layers}
    assert (layers[first].weight_bits, layers[first].activation_bits) == (3, None)
    assert layers[last].weight_bits == 32


def test_a_plan_must_keep_the_budgets(model: Path) -> None:
    plan = model.with_name("plan.json")
    compiled(model, "one.onnx", "6bit-avg", save_plan=plan)
    with pytest.raises(InfeasibleError):
        compiled(model, "two.onnx", "3bit-avg", plan=plan)


def test_a_plan_says_all(model: Path) -> None:
    plan = model.with_name("plan.json")
    compiled(model, "one.onnx", "6bit-avg", activations="fp32", save_plan=plan)
    with pytest.raises(OptionError, match="in place of --keep"):
        compiled(model, "two.onnx", plan=plan, keep=["op:Conv=8"])
    with pytest.raises(OptionError, match="--activations fp32, and int8 was asked for"):
        compiled(model, "two.onnx", plan=plan, activations="int8")


def test_neither_budget_nor_plan(model: Path) -> None:
    with pytest.raises(OptionError, match="no budget was given"):
        compiled(model, "two.onnx")


def test_the_plan_and_the_report_are_two_files(model: Path) -> None:
    both = str(model.with_name("both.json"))
    asked = ["compile", str(model), "--budget", "8bit-avg", "--save-plan", both, "--report", both]
    result = CliRunner().invoke(cli, asked)
    assert isinstance(result.exception, OptionError)
    assert not Path(both).exists()
