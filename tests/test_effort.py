"""Efforts: found by name, growing, and their estimates in words."""

import pytest

from onnxmpq.effort import EFFORTS, find_effort, spoken
from onnxmpq.errors import OptionError


def test_more_effort_is_more_work() -> None:
    work = [find_effort(name).forwards(512, 57 * 3) for name in ("fast", "balanced", "max")]
    assert work == sorted(work)
    assert EFFORTS["fast"].forwards(16, 9) > 0


def test_an_unknown_effort_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="balanced"):
        find_effort("ballanced")


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (7.3, "8 s"), (42, "45 s"), (130, "2 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
