"""How much work a compile is: what is asked for tells, before any of it is done."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from onnxmpq.context.setting import Setting
from onnxmpq.forecast.stage import expected_work, sooner
from onnxmpq.lower.draft import Lowering
from onnxmpq.request import Quantizers
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.values.effort import find_effort

Lower = Callable[..., Lowering]
ASKED = {"rounding": "compensated", "activations": "int8", "method": METHODS["measured"]}


def asking(setting: Setting, **changes: object) -> Setting:
    """The same with other words of the search."""
    request = setting.request
    return replace(setting, request=replace(request, search=replace(request.search, **changes)))  # type: ignore[arg-type]


def test_stages_that_take_long_come_in_their_order(lower_classifier: Lower) -> None:
    setting = lower_classifier(**ASKED).setting
    work = expected_work(setting)
    assert list(work) == ["calibrate", "round", "sensitivity", "search", "requantize"]
    verified = replace(setting.request, run=replace(setting.request.run, verify=True))
    assert list(expected_work(replace(setting, request=verified))) == [*work, "verify"]
    assert all(much > 0 for much in work.values())


def test_a_plan_that_is_forced_is_not_searched_for(lower_classifier: Lower) -> None:
    setting = lower_classifier(**ASKED).setting
    forced = {name: options[:1] for name, options in setting.options.items()}
    work = expected_work(replace(setting, forced=forced))
    assert not {"sensitivity", "search"} & work.keys()
    assert work["round"] < expected_work(setting)["round"]


def test_nearest_rounding_looks_at_no_samples(lower_classifier: Lower) -> None:
    setting = lower_classifier(**ASKED).setting
    nearest = replace(setting.request, quantizers=replace(setting.request.quantizers, rounding="nearest"))
    assert isinstance(nearest.quantizers, Quantizers)
    assert not {"round", "requantize"} & expected_work(replace(setting, request=nearest)).keys()


@pytest.mark.parametrize(("effort", "words"), [("balanced", "--effort fast"), ("fast", "fewer --samples")])
def test_what_would_be_sooner_is_less_of_what_was_asked(
    lower_classifier: Lower, effort: str, words: str
) -> None:
    setting = asking(lower_classifier().setting, effort=find_effort(effort))
    assert sooner(setting.request) == words
