import pytest

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
