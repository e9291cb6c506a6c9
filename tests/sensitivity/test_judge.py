"""What the judge says is what one session with all changes in place gives."""

import numpy as np
import onnx
import pytest

from onnxmpq.sensitivity.judge import Change, Judge
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, probe_of


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()))


def test_a_change_is_judged_in_the_network_that_has_the_others(probe: Probe) -> None:
    first, second, third, _ = probe.layers
    decided = {**probe.candidate(first, 2), **probe.candidate(third, 4)}
    judge = Judge(probe)
    found = judge(decided, [Change(second, probe.candidate(second, b)) for b in (2, 8)])
    assert judge.evaluations == 2
    for outcome, bits in zip(found, (2, 8), strict=True):
        changed = onnx.ModelProto()
        changed.CopyFrom(probe.model)
        values = {**decided, **probe.candidate(second, bits)}
        for tensor in changed.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
        arrays = labelled(classifier())
        logits = next(iter(probe.runtime.session(changed).run({"x": arrays["x"]}).values())).astype(
            np.float64
        )
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert outcome.top1 == (logits.argmax(axis=1) == arrays["labels"]).mean()
        assert outcome.cross_entropy == pytest.approx(-logs[np.arange(64), arrays["labels"]].mean(), rel=1e-5)


def test_without_a_change_nothing_is_lost(probe: Probe) -> None:
    judge = Judge(probe)
    layer = probe.layers[0]
    (outcome,) = judge({}, [Change(layer, probe.candidate(layer, 32))])
    assert outcome.loss == pytest.approx(0, abs=1e-9)
    assert outcome.top1 == 7 / 8


def test_without_labels_there_is_no_top1() -> None:
    probe = probe_of(classifier(), {"x": labelled(classifier())["x"]})
    layer = probe.layers[0]
    (outcome,) = Judge(probe)({}, [Change(layer, probe.candidate(layer, 2))])
    assert (outcome.top1, outcome.cross_entropy) == (None, None)
    assert outcome.loss > 0
