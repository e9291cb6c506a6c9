"""Seconds by option: integer kernels where activations are integers, float ones elsewhere. Nothing looks at a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from onnxmpq.errors import OptionError
from onnxmpq.lower.draft import Lowering
from onnxmpq.runtime.session import Runtime
from onnxmpq.timing.layer_times import LayerTimes
from onnxmpq.timing.stage import option_times, time_layers, with_float
from onnxmpq.values.option import Option

TIMES = LayerTimes({"a": 1.0}, {"a": 2.0}, 4.0, 1.0)


def test_a_layer_of_both_kinds_has_two_times() -> None:
    both = [Option(4, 8), Option(8, 8), Option(32)]
    assert list(option_times(TIMES, "a", both).values()) == [1.0, 1.0, 2.0]


def test_a_layer_that_is_always_in_float_was_timed_so() -> None:
    assert list(option_times(TIMES, "a", [Option(4), Option(32)]).values()) == [1.0, 1.0]


def test_layers_are_timed_at_their_widest(lower_classifier: Callable[..., Lowering]) -> None:
    lowering = lower_classifier(widths=(4, 8, 32), activations="int8")
    first, *others = [layer.name for layer in lowering.units]
    plan = with_float(lowering, {first})
    assert plan[first] == Option(32)
    for name in others:
        integers = [o for o in lowering.setting.options[name] if o.activation_bits is not None]
        assert plan[name] == max(integers or lowering.setting.options[name])


def test_a_provider_that_tells_no_times(lower_classifier: Callable[..., Lowering]) -> None:
    lowering = lower_classifier()
    elsewhere = replace(lowering, setting=replace(lowering.setting, runtime=Runtime("cuda")))
    with pytest.raises(OptionError, match="the CUDA provider does not tell"):
        time_layers(elsewhere)
