"""The measured sensitivity: what it measures is the loss, and what it reads off is near it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from onnxmpq.sensitivity.methods.measured import at_every_width, loss_of, measured
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import check_method, classifier, labelled, probe_of
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option


@pytest.fixture(scope="module")
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()))


def test_a_cost_is_theloss_of_the_network_with_that_layer_changed(probe: Probe) -> None:
    layer = probe.layers[0]
    model = classifier()
    changed = {i.name: i for i in model.graph.initializer}
    for name, value in probe.candidate(layer, 4).items():
        changed[name].CopyFrom(numpy_helper.from_array(value, name))
    before, after = probe.runtime.session(probe.model), probe.runtime.session(model)
    distance, weight = np.zeros(1), np.zeros(1)
    for batch in probe.data.batches(probe.batch_size):
        expected = before.run(batch.feeds)
        weight += probe.metric.weight(expected)
        distance += probe.metric.distance(expected, after.run(batch.feeds))
    costs = at_every_width(probe).costs[layer.name]
    assert costs[Option(4)] == pytest.approx(probe.metric.loss(distance, weight), rel=1e-4)


def test_up_to_four_bits_is_measured_and_the_rest_near_what_it_would_be(probe: Probe) -> None:
    some, every = measured(probe), at_every_width(probe)
    narrow = [o for options in some.costs.values() for o in options if o.weight_bits <= 4]
    assert some.evaluations == len(narrow) < every.evaluations
    ratios = []
    for name, costs in some.costs.items():
        for option, cost in costs.items():
            if option.weight_bits <= 4:
                assert cost == every.costs[name][option]
            else:
                ratios.append(cost / every.costs[name][option])
    assert 0.5 < np.median(ratios) < 2


def test_a_width_between_two_that_are_measured_lies_between_their_losses(probe: Probe) -> None:
    each = {name: tuple(map(Option, (2, 3, 4))) for name in probe.options}
    asked = replace(probe, options=each)
    some, every = measured(asked), at_every_width(asked)
    assert some.evaluations == 2 * len(each)
    for name, costs in some.costs.items():
        assert costs[Option(4)] < costs[Option(3)] < costs[Option(2)]
        assert 0.5 < costs[Option(3)] / every.costs[name][Option(3)] < 2


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (4.0, 8.0),
        (2.0, 2.0),
        (1.0, 0.5),
        (0.5, 0.25),
        (9.0, 8.0),
    ],  # at, between, at, below and above what is known
)
def test_a_loss_is_read_off_its_error_and_never_beyond_what_is_known(error: float, loss: float) -> None:
    assert loss_of(error, [(4.0, 8.0), (1.0, 0.5)]) == pytest.approx(loss)


def test_errors_that_are_next_to_the_same_give_numbers() -> None:
    assert 0 <= loss_of(1.5, [(1.0001, 1.0), (1.0, 1e-4)]) <= 1


def test_a_layer_that_may_only_be_wide_is_measured_at_its_narrowest(probe: Probe) -> None:
    name = probe.layers[0].name
    only = replace(probe, options={name: (Option(6), Option(8))})
    found = measured(only)
    assert found.evaluations == 1
    assert found.costs[name][Option(6)] == at_every_width(only).costs[name][Option(6)]
    assert 0 < found.costs[name][Option(8)] < found.costs[name][Option(6)]


def test_measuring_everywhere_meets_the_battery() -> None:
    check_method(at_every_width)


def test_a_width_that_gives_no_numbers_costs_more_than_all_others_together(probe: Probe) -> None:
    bad = probe.chosen[-1]

    def candidate(layer: Layer, bits: int) -> Mapping[str, np.ndarray]:
        found = probe.candidate(layer, bits)
        broken = (layer, bits) == (bad, 2)
        return {name: np.full_like(value, np.nan) for name, value in found.items()} if broken else found

    costs = measured(replace(probe, candidate=candidate)).costs
    never = costs[bad.name].pop(Option(2))  # type: ignore[attr-defined]
    assert sum(max(options.values()) for options in costs.values()) < never < np.inf
