"""Efforts: found by name, growing, and their estimates in words."""

import pytest

from onnxmpq.errors import OptionError
from onnxmpq.values.effort import Effort, find_effort, spoken


def test_more_effort_is_more_work() -> None:
    efforts = [find_effort(name) for name in ("fast", "balanced", "max")]
    for work in (
        [effort.measuring(512, 57 * 3) for effort in efforts],
        [effort.learning(512) for effort in efforts],
    ):
        assert work == sorted(work)
        assert work[0] > 0


def test_forwards_are_those_of_the_trial_and_of_every_view() -> None:
    effort = Effort("some", sensitivity=20, trials=6, requantize=100, judge=30)
    assert effort.measuring(400, 9) == 20 * 9 / 2 + (6 + 4) * 30
    assert effort.learning(400) == 8 * ((100 + 200) + 100 + 400)
    assert effort.learning(100) == 8 * ((50 + 50) + 100 + 100)
    assert effort.learning(100, requantized=3, augmentations=2) == 8 * (3 * (50 + 50) + 2 * (3 * 100 + 100))
    assert effort.learning(100, requantized=0) == 8 * 100


def test_an_unknown_effort_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="balanced"):
        find_effort("ballanced")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (7.3, "8 s"), (42, "45 s"), (130, "2 min"), (7000, "117 min"), (2e4, "6 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
