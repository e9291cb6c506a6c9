"""Greedy search: how many evaluations, of which network, and that updating pays on a real one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from shared import shared

from onnxmpq.errors import DataError, OptionError
from onnxmpq.sensitivity.chain import Chain, State, Step
from onnxmpq.sensitivity.judge import Change, Judge, Outcome
from onnxmpq.sensitivity.methods.greedy import Greedy, by_loss, by_steps, greedy
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, model_of, probe_of
from onnxmpq.values.costs import Trajectory
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan


@pytest.fixture
def probe() -> Probe:
    """Its metric is KL as it is, by which the method judges."""
    found = probe_of(classifier(), labelled(classifier()))
    return replace(found, metric=found.metric.plain)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layer of every run of a changed network, on every batch."""
    runs: list[str] = []
    steps = Chain.steps

    def counted(step: Step, constants: State) -> State:
        runs.append(step.layer.name)
        return step.outputs(constants)

    def counting(chain: Chain, feeds: State) -> Iterator[Step]:
        return (replace(step, outputs=partial(counted, step)) for step in steps(chain, feeds))

    monkeypatch.setattr(Chain, "steps", counting)
    return runs


def test_evaluations_are_half_n_times_n_plus_one_a_width(probe: Probe, counted: list[str]) -> None:
    batches = -(-probe.data.count // probe.batch_size)
    layers, widths = len(probe.options), 2  # 4 and 2 bits: all start at 8
    found = greedy(probe)
    assert layers == 4
    assert found.evaluations == widths * layers * (layers + 1) // 2
    assert len(counted) == batches * found.evaluations
    assert len(found.plans) == 1 + widths * layers


def test_layers_that_may_stay_in_float_start_there(probe: Probe) -> None:
    stays = Option(32)
    first, *others = probe.options
    free = replace(probe, untouched=dict.fromkeys(probe.options, stays))
    found = greedy(free)
    assert set(found.plans[0].options.values()) == {stays}
    assert found.evaluations == 3 * 4 * 5 // 2  # at 8 bits, too
    one = greedy(replace(probe, untouched={first: stays}))
    assert [one.plans[0][name].weight_bits for name in (first, *others)] == [32, 8, 8, 8]
    only = {name: options[-1:] for name, options in probe.options.items()}
    partial = greedy(replace(free, options=only))
    assert [sum(o == stays for o in plan.options.values()) for plan in partial.plans] == [4, 3, 2, 1, 0]


def test_a_frozen_order_is_measured_once_a_width(probe: Probe) -> None:
    assert replace(greedy, updated=False)(probe).evaluations == 2 * (4 + 4)


def test_a_pass_is_over_before_the_next_width_begins(probe: Probe) -> None:
    for plan in by_loss(probe).plans:
        assert len({option.weight_bits for option in plan.options.values()}) <= 2


def test_steps_lower_any_layer_by_one_option(probe: Probe) -> None:
    plans = Greedy("loss", moves="steps")(probe).plans
    sums = [sum((8, 4, 2).index(o.weight_bits) for o in plan.options.values()) for plan in plans]
    assert sums == list(range(9))


@pytest.mark.parametrize("per_bit", [True, False])
def test_each_step_costs_the_least(probe: Probe, per_bit: bool) -> None:
    found = Greedy("loss", moves="steps", per_bit=per_bit)(probe)
    last = whole_loss(probe, found.plans[0])
    for before, after, loss in zip(found.plans, found.plans[1:], found.losses[1:], strict=False):
        prices = {}
        for layer in probe.layers:
            width = before[layer.name].weight_bits
            if width > 2:
                lower = {8: 4, 4: 2}[width]
                worse = whole_loss(probe, Plan({**before.options, layer.name: Option(lower)})) - last
                prices[layer.name] = worse / (layer.params * (width - lower) if per_bit else 1)
        (moved,) = [name for name in prices if before[name] != after[name]]
        assert moved == min(prices, key=lambda name: prices[name])
        assert loss is not None
        last = loss


def test_equal_top1_is_told_apart_by_the_loss_for_each_bit_saved(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, *_, large = sorted(probe.chosen, key=lambda layer: layer.params)
    losses = {small.name: 0.2, large.name: 0.3}

    def outcome(layer: Layer, weight: np.ndarray) -> Outcome:
        is_wide = np.array_equal(weight, probe.candidate(layer, 8)[layer.weight])
        return Outcome(0.0 if is_wide else losses[layer.name], 0.5, 1.0)

    def judged(_judge: Judge, _decided: object, changes: Sequence[Change]) -> list[Outcome]:
        return [outcome(change.layer, change.constants[change.layer.weight]) for change in changes]

    monkeypatch.setattr(Judge, "__call__", judged)
    plans = by_steps(replace(probe, options=dict.fromkeys(losses, (Option(4), Option(8))))).plans
    assert plans[1] == Plan({small.name: Option(8), large.name: Option(4)})


@pytest.mark.parametrize("loss", [0.1, float("nan")])
def test_of_equal_outcomes_the_larger_layer_goes_first(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(Judge, "__call__", lambda _, __, changes: [Outcome(loss, 0.5, 1.0)] * len(changes))
    plans = greedy(probe).plans
    lowered = [
        next(n for n in plan.options if plan[n] != before[n])
        for before, plan in itertools.pairwise(plans[:5])
    ]
    assert lowered == [layer.name for layer in sorted(probe.chosen, key=lambda layer: -layer.params)]


def test_losses_are_those_of_the_joint_network(probe: Probe) -> None:
    found = by_loss(probe)
    for plan, loss in list(zip(found.plans, found.losses, strict=True))[1::3]:
        assert loss == pytest.approx(whole_loss(probe, plan), rel=1e-4)


def whole_loss(probe: Probe, plan: Plan) -> float:
    """The loss of a plan in one session that holds all of it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(probe.model)
    layers = [layer for layer in probe.layers if layer.name in plan.options]
    values = {n: v for la in layers for n, v in probe.candidate(la, plan[la.name].weight_bits).items()}
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    before, after = probe.runtime.session(probe.model), probe.runtime.session(changed)
    distance = weight = np.zeros(1)
    for batch in probe.data.batches(probe.batch_size):
        reference = before.run(batch.feeds)
        distance = distance + probe.metric.distance(reference, after.run(batch.feeds))
        weight = weight + probe.metric.weight(reference)
    return probe.metric.loss(distance, weight)


def test_each_choice_is_the_best_of_those_left(probe: Probe) -> None:
    found, judge = by_loss(probe), Judge(probe)
    layers = {layer.name: layer for layer in probe.layers}
    for before, after, loss in zip(found.plans, found.plans[1:], found.losses[1:], strict=False):
        width = min(o.weight_bits for o in after.options.values())
        decided: dict[str, Any] = {}
        for name, option in before.options.items():
            decided |= probe.candidate(layers[name], option.weight_bits)
        left = [layers[n] for n, option in before.options.items() if option.weight_bits > width]
        outcomes = judge(decided, [Change(la, probe.candidate(la, width)) for la in left])
        assert loss == min(outcome.loss for outcome in outcomes)


def test_top1_wants_labels(probe: Probe) -> None:
    unlabelled = probe_of(classifier(), {"x": labelled(classifier())["x"]})
    with pytest.raises(DataError, match=r"64 samples of .* have no labels; give --data .*greedy:by_loss"):
        greedy(unlabelled)
    assert len(by_loss(unlabelled).plans) == 9


def test_top1_wants_a_classifier() -> None:
    model = model_of(
        "g (float[N, 3] x) => (float[N, 1] y) { y = MatMul (x, w) }", w=np.ones((3, 1), np.float32)
    )
    with pytest.raises(OptionError, match="this model is no classifier"):
        greedy(probe_of(model, {"x": np.ones((4, 3), np.float32)}))


@pytest.mark.slow
def test_updating_is_at_least_as_good_as_the_frozen_order() -> None:
    """ResNet-20, calibration images only: mean loss of the two paths over sizes from 2.5 to 5.75 bits."""
    model = shared("models/resnet20_cifar10.onnx")
    with np.load(shared("data/cifar10_calib_2k.npz")) as arrays:
        images, labels = arrays["images"][:128], arrays["labels"][:128].astype(np.int64)
    mean, std = (
        np.array(v, np.float32).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    values = ((images / np.float32(255) - mean) / std).astype(np.float32)
    probe = probe_of(onnx.load(model), {"input": values, "labels": labels}, bits=(2, 3, 4, 6))
    updated, frozen = by_loss(probe), replace(by_loss, updated=False)(probe)
    assert mean_loss(updated, probe) <= mean_loss(frozen, probe)


def mean_loss(path: Trajectory, probe: Probe) -> float:
    """Of the first plans within each of 14 average widths, all below where the path starts."""
    params = {layer.name: layer.params for layer in probe.layers}
    total = sum(params.values())
    sizes = [sum(params[n] * o.weight_bits for n, o in p.options.items()) / total for p in path.plans]
    first = [
        next(i for i, size in enumerate(sizes) if size <= budget) for budget in np.arange(2.5, 5.76, 0.25)
    ]
    losses = [path.losses[i] for i in first]
    return float(np.mean([loss for loss in losses if loss is not None]))


def breaking(probe: Probe, layer: str, bits: int) -> Probe:
    """The probe with a layer that makes the network give no numbers at a width."""

    def candidate(la: Layer, width: int) -> Mapping[str, np.ndarray]:
        found = probe.candidate(la, width)
        broken = (la.name, width) == (layer, bits)
        return {name: np.full_like(value, np.nan) for name, value in found.items()} if broken else found

    return replace(probe, candidate=candidate)


@pytest.mark.parametrize("method", [greedy, by_loss])
def test_what_gives_no_numbers_goes_last(probe: Probe, method: Greedy) -> None:
    bad = probe.chosen[0].name
    found = method(breaking(probe, bad, 4))
    plans = found.plans[: 1 + len(probe.options)]  # of the pass to 4 bits
    assert [plan[bad] for plan in plans] == [Option(8)] * len(probe.options) + [Option(4)]


def test_a_step_to_what_gives_no_numbers_is_the_last(probe: Probe) -> None:
    bad = probe.chosen[0].name
    found = Greedy(judged_by="loss", moves="steps")(breaking(probe, bad, 2))
    assert [plan[bad] for plan in found.plans[-2:]] == [Option(4), Option(2)]


def test_it_looks_at_as_many_images_as_it_may(probe: Probe) -> None:
    assert Greedy(images=9)(probe).samples == 9
    assert Greedy(images=99)(probe).samples == 64
    with pytest.raises(OptionError, match="greedy's images is 0; wanted an integer of 1 or more"):
        Greedy(images=0)


def test_options_of_one_width_are_not_told_apart(probe: Probe) -> None:
    name = probe.chosen[0].name
    twice = replace(probe, options={**probe.options, name: (Option(4), Option(4, 8), Option(8))})
    with pytest.raises(
        OptionError, match=f"layer '{name}' may have 4, 4/8, 8, and this method decides widths alone"
    ):
        greedy(twice)
