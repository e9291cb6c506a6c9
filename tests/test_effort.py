"""Efforts: found by name, growing, and their estimates in words."""

import pytest

from onnxmpq.effort import EFFORTS, Effort, find_effort, spoken
from onnxmpq.errors import OptionError


def test_more_effort_is_more_work() -> None:
    work = [find_effort(name).forwards(512, 57 * 3) for name in ("fast", "balanced", "max")]
    assert work == sorted(work)
    assert EFFORTS["fast"].forwards(16, 9) > 0


def test_forwards_are_those_of_the_trial_and_of_every_view() -> None:
    effort = Effort("some", sensitivity=0, trials=-3, settle=100, judge=0)
    assert effort.forwards(400, 0) == 8 * ((100 + 200) + 100 + 400)
    assert effort.forwards(100, 0) == 8 * ((50 + 50) + 100 + 100)
    assert effort.forwards(100, 0, settled=3, views=2) == 8 * (3 * (50 + 50) + 2 * (3 * 100 + 100))


def test_an_unknown_effort_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="balanced"):
        find_effort("ballanced")


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (7.3, "8 s"), (42, "45 s"), (130, "2 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
