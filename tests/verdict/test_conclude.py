import math

import pytest

from onnxmpq.verdict.conclude import is_broken
from onnxmpq.verdict.score import Score


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
