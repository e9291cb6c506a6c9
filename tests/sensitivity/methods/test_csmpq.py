"""gamma on an example worked out by hand, streamed or not, and what follows from it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.sensitivity.methods.csmpq import Csmpq, Separability, as_published, csmpq
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, probe_of
from onnxmpq.values.costs import CostTable, Trajectory

# Four samples of two channels. Channel 0: mean 2, at or above in samples 0 and 1 (6 and 2), whose shares are
# 6/8 and 2/4. Channel 1: mean 2, at or above in all, whose shares are 2/8, 2/4, 1, 1.
POOLED = np.array([[6, 2], [2, 2], [0, 2], [0, 2]], np.float32)
BY_HAND = (((6 / 8 + 2 / 4) / 2) * math.log(4 / 3) + ((2 / 8 + 2 / 4 + 1 + 1) / 4) * math.log(4 / 5)) / 2


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_gamma_by_hand_whatever_the_batch(batch: int) -> None:
    layer = Separability(2)
    for start in range(0, 4, batch):
        layer.see(POOLED[start : start + batch])
    for start in range(0, 4, batch):
        layer.count(POOLED[start : start + batch])
    assert layer.gamma() == pytest.approx(BY_HAND)


def test_a_sample_without_any_activation_is_no_division_by_zero() -> None:
    layer = Separability(2)
    layer.see(np.zeros((3, 2), np.float32))
    layer.count(np.zeros((3, 2), np.float32))
    assert layer.gamma() == 0


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), {"x": labelled(classifier())["x"]})


def test_the_default_is_the_papers_direction(probe: Probe) -> None:
    separable, inverse = csmpq(probe), Csmpq(direction="inverse")(probe)
    assert isinstance(separable, CostTable)
    assert isinstance(inverse, CostTable)
    assert separable.samples == 32
    first, second = (
        np.argsort([next(iter(options.values())) for options in found.costs.values()]).tolist()
        for found in (separable, inverse)
    )
    assert first == second[::-1]


def test_term_frequencies_may_be_weighed_by_channels(probe: Probe) -> None:
    plain, weighed = csmpq(probe), Csmpq(coe=2.0)(probe)
    assert isinstance(plain, CostTable)
    assert isinstance(weighed, CostTable)
    channels = [6, 6, 8, 5]
    for (name, costs), count in zip(plain.costs.items(), channels, strict=True):
        for option, cost in costs.items():
            assert weighed.costs[name][option] == pytest.approx(cost * (1 + math.log(count / 2)))


def test_batches_change_nothing(probe: Probe) -> None:
    costs = [
        [list(options.values()) for options in found.costs.values()]
        for found in (csmpq(probe), csmpq(replace(probe, batch_size=5)))
        if isinstance(found, CostTable)
    ]
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-5)


def test_the_published_program_gives_a_path(probe: Probe) -> None:
    found = as_published(probe)
    assert isinstance(found, Trajectory)
    assert len(found.plans) == 1 + 4 * 2  # four layers, each taking two steps
