"""How the files of a request are run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxmpq.context.setting import Loaded
from onnxmpq.load.stage import computing
from onnxmpq.request import Request
from onnxmpq.values.target import find_target

Load = Callable[..., Loaded]


@pytest.mark.parametrize(("activations", "basic"), [("fp32", False), ("int8", False), ("int4", True)])
def test_only_activations_without_kernels_take_optimizations_away(
    load_classifier: Load, asked: Callable[..., Request], activations: str, basic: bool
) -> None:
    loaded = load_classifier()
    request = asked(activations=activations, target=find_target("portable"))
    assert (computing(loaded.runtime, request, loaded.stages) != loaded.runtime) is basic
    assert any("no kernels" in note for note in loaded.stages.notes) is basic
