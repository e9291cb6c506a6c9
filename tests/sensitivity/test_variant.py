"""What a method with options of its own is called."""

from onnxmpq.sensitivity.methods.greedy import by_loss, greedy
from onnxmpq.sensitivity.methods.limpq import Limpq, as_published
from onnxmpq.sensitivity.step_sizes import StepTraining
from onnxmpq.sensitivity.variant import titled


def test_the_default_has_the_plain_name_and_others_say_what_differs() -> None:
    assert titled("greedy", greedy) == "greedy"
    assert titled("greedy", by_loss) == "greedy (judged_by loss)"
    assert titled("limpq", as_published) == "limpq (trains all)"
    assert titled("limpq", Limpq(StepTraining(epochs=9), alpha=1.0)) == "limpq (epochs 9, alpha 1.0)"
