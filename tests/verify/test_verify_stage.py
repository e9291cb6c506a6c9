import math

import pytest

from onnxmpq.testing.models import example_layer
from onnxmpq.values.costs import UNMEASURED, CostTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.score import Score
from onnxmpq.values.target import TARGETS
from onnxmpq.verify.stage import cost_alone, is_broken, valid_cpus


@pytest.mark.parametrize(
    ("score", "broken"),
    [
        (Score(9, agreement=0.49, sqnr=50.0), True),  # classes decide where there are some
        (Score(9, agreement=0.5, sqnr=1.0), False),
        (Score(9, sqnr=9.9), True),
        (Score(9, sqnr=10.0), False),
        (Score(9, sqnr=-math.inf), True),
        (Score(9, sqnr=math.inf), False),
        (Score(9), False),
    ],
)
def test_when_a_model_has_lost_its_function(score: Score, broken: bool) -> None:
    assert is_broken(score) is broken


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
