"""LIMPQ: the published policy from the published step sizes; and the training that finds such steps."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from shared import SHARED, needs_shared

from onnxmpq.allocate.knapsack import allocate
from onnxmpq.budgets.row import Row
from onnxmpq.errors import DataError, OptionError
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.passes.expose.emit_gradients import EmitGradients, gradient_name
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, Loss, target_name
from onnxmpq.passes.lower.learn_steps import ROLES, LearnSteps, step_input
from onnxmpq.sensitivity.methods.limpq import Limpq, indicator_costs, limpq, without_labels
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.step_sizes import StepTraining, learn_steps, learned_widths
from onnxmpq.testing import classifier, labelled, model_of, probe_of, run
from onnxmpq.values.option import Option
from onnxmpq.values.score import OutputKind

GOLDEN = SHARED / "golden" / "limpq_resnet50.json"
BITS = (6, 5, 4, 3, 2)
OPTIONS = tuple(Option(w, a) for w in BITS for a in BITS)


def resnet50() -> dict[str, tuple[int, int]]:
    """Layer -> (weights, multiply-accumulates as the authors count them: 56 / 2 is 28.5 positions to them)."""
    found, channels, size = {}, 64, 56
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            convs = [("conv1", channels, width, 1, size, 1, 0), ("conv2", width, width, 3, size, stride, 1),
                     ("conv3", width, 4 * width, 1, size // stride, 1, 0)]  # fmt: skip
            convs += [] if block else [("downsample.0", channels, 4 * width, 1, size, stride, 0)]
            for name, inputs, outputs, kernel, side, step, pad in convs:
                weights = inputs * outputs * kernel**2
                positions = int(((side + 2 * pad - kernel) / step + 1) ** 2)
                found[f"module.layer{stage}.{block}.{name}"] = (weights, weights * positions)
            channels, size = 4 * width, size // stride
    return found


@needs_shared
def test_the_published_policy() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    names, sizes = golden["layers"], resnet50()
    weight, activation = (
        {name: {int(b): s for b, s in golden[key][name].items()} for name in names}
        for key in ("weight_step", "activation_step")
    )
    costs = indicator_costs(dict.fromkeys(names, OPTIONS), weight, activation, golden["alpha"])
    ends = 3 * 64 * 49 + 2048 * 1000  # stem and classifier, at 8 bits each
    limit = golden["weight_bits_constraint"] * golden["activation_bits_constraint"]
    rows = [
        Row(
            "BOPs",
            tuple(
                tuple(sizes[n][1] * o.weight_bits * (o.activation_bits or 0.0) for o in OPTIONS)
                for n in names
            ),
            limit * sum(sizes[n][1] for n in names),
        ),
        Row(
            "bits",
            tuple(tuple(float(sizes[n][0] * o.weight_bits) for o in OPTIONS) for n in names),
            32 * (sum(sizes[n][0] for n in names) + ends) / golden["compression_ratio"] - 8 * ends,
        ),
    ]
    choice = allocate([[costs[n][o] for o in OPTIONS] for n in names], rows)
    assert [OPTIONS[i].weight_bits for i in choice] == golden["published_weight_bits"]
    assert [OPTIONS[i].activation_bits for i in choice] == golden["published_activation_bits"]
    objective = sum(costs[n][OPTIONS[i]] for n, i in zip(names, choice, strict=True))
    assert objective == pytest.approx(golden["objective"], abs=5e-10)
    assert rows[0].limit == pytest.approx(48.284565504e9)
    assert rows[0].used(choice) == pytest.approx(48.283189e9, abs=500)


def test_costs_by_hand() -> None:
    options = {"a": (Option(2), Option(4)), "b": (Option(2), Option(4))}
    weight = {"a": {2: 0.4, 4: 0.1}, "b": {2: 0.2, 4: 0.3}}  # b's two bits are an outlier
    costs = indicator_costs(options, weight, {"a": {}, "b": {}}, 2.0)
    assert costs["a"] == {Option(2): 0.8, Option(4): 0.2}
    assert costs["b"][Option(4)] == 0.6
    assert costs["b"][Option(2)] > sum(
        max(c for o, c in row.items() if o != Option(2)) for row in costs.values()
    )


def test_steps_at_the_same_limit_are_no_outliers() -> None:
    same = {"a": {2: 1.0, 4: 1.0}}
    costs = indicator_costs({"a": (Option(2), Option(4))}, same, same, 2.0)
    assert costs == {"a": {Option(2): 2.0, Option(4): 2.0}}


def test_a_layer_without_steps_costs_the_mean() -> None:
    options = dict.fromkeys(("a", "b", "c"), (Option(2), Option(4)))
    weight = {"a": {2: 0.4, 4: 0.1}, "b": {2: 0.2, 4: 0.1}}
    costs = indicator_costs(options, weight, {"a": {}, "b": {}}, 1.0)
    assert costs["c"] == pytest.approx({Option(2): 0.3, Option(4): 0.1})


def test_a_layer_that_is_fed_a_constant_learns_no_steps() -> None:
    rng = np.random.default_rng(0)
    shapes = {"k": (1, 3, 4, 4), "u": (5, 3, 1, 1), "v": (5, 3, 1, 1)}
    text = """g (float[N, 3, 4, 4] x) => (float[N, 5] y) {
        a = Conv (k, u)  b = Conv (x, v)  c = Add (a, b)  r = Relu (c)  p = GlobalAveragePool (r)  y = Flatten (p) }"""
    model = model_of(text, **{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
    x = rng.standard_normal((16, 3, 4, 4)).astype(np.float32)
    costs = without_labels(probe_of(model, {"x": x})).costs
    assert costs["a"] == pytest.approx(costs["b"])  # the mean of the others
    both = model_of(text.replace("v)", "u)"), **{n: np.ones(shapes[n], np.float32) for n in "ku"})
    assert len(without_labels(probe_of(both, {"x": x})).costs) == 1  # the node that is fed x tells


def test_activations_count_where_a_layer_has_a_choice_of_them() -> None:
    choices = (Option(4, 8), Option(4), Option(16))
    costs = indicator_costs(
        {"a": choices, "b": choices[:1]}, {"a": {4: 0.1}, "b": {4: 0.1}}, {"a": {8: 0.3}, "b": {}}, 2.0
    )
    assert costs["a"] == pytest.approx({Option(4, 8): 0.5, Option(4): 0.2, Option(16): 0.0})
    assert costs["b"] == pytest.approx({Option(4, 8): 0.2})


def test_steps_of_activations_are_learned_at_the_widths_to_choose_from(probe: Probe) -> None:
    first, *others = probe.options
    mixed = {first: (Option(3, 8), Option(16)), **{name: (Option(3, 8), Option(6, 8)) for name in others}}
    assert learned_widths(mixed) == [8, 6, 3]
    assert learned_widths({name: mixed[name] for name in others}) == [6, 3]
    costs = limpq(replace(probe, options=mixed)).costs
    assert costs[first][Option(16)] == 0 < costs[first][Option(3, 8)]


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()), bits=(2, 3, 4, 5, 6))


def test_all_steps_move_and_are_larger_at_fewer_bits(probe: Probe) -> None:
    before = learn_steps(StepTraining(epochs=1, rate=0.0, last_rate=0.0), probe, probe.data)
    after = learn_steps(StepTraining(epochs=10), probe, probe.data)
    for name, steps in after.weight.items():
        assert all(steps[bits] != before.weight[name][bits] for bits in steps)
    for found in (after.weight, after.activation):
        for steps in found.values():
            values = [steps[bits] for bits in sorted(steps)]
            assert values == sorted(values, reverse=True)


def test_gradients_of_steps_are_those_of_lsq() -> None:
    """Esser et al., equation 3: round(w / s) - w / s inside the range of codes, the end of the range outside."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)
    labels = rng.integers(3, size=6)
    graph = import_graph(model_of("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }", w=w))
    LearnSteps(("w",))(graph)
    EmitLoss(Loss.CROSS_ENTROPY, {"y": OutputKind.LOGITS})(graph)
    steps = {role: step_input("w", role, "step") for role in ROLES}
    EmitGradients(LOSS, tuple(steps.values()))(graph)
    feeds: dict[str, np.ndarray] = {"x": x, target_name("y"): labels}
    for role, values in {"weight": (0.3, -4, 3), "activation": (0.5, -2, 1)}.items():
        for what, value in zip(("step", "low", "high"), values, strict=True):
            feeds[step_input("w", role, what)] = np.array(value, np.float32)  # type: ignore[arg-type]
    found = run(gs.export_onnx(graph), feeds)

    (wq, w_slope), (xq, x_slope) = lsq(w, 0.3, -4, 3), lsq(x, 0.5, -2, 1)
    odds = np.exp(xq @ wq)
    error = odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[labels]
    expected = {"weight": ((xq.T @ error) * w_slope).sum(), "activation": ((error @ wq.T) * x_slope).sum()}
    for role in ROLES:
        assert found[gradient_name(steps[role])] == pytest.approx(expected[role], rel=1e-4)


def lsq(values: np.ndarray, step: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Values rounded to steps, and how they move with the step."""
    ratio = values / np.float32(step)
    codes = np.clip(np.rint(ratio), low, high)
    return codes * np.float32(step), np.where((ratio < low) | (ratio > high), codes, codes - ratio)


def test_seeds_agree(probe: Probe) -> None:
    found = [learn_steps(StepTraining(), replace(probe, seed=seed), probe.data).weight for seed in (0, 1)]
    first, second = (np.array([list(steps.values()) for steps in one.values()]) for one in found)
    assert not np.array_equal(first, second)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99


def test_the_papers_protocol_trains_the_weights_too(probe: Probe) -> None:
    frozen, free = (Limpq(StepTraining(trains=trains))(probe) for trains in ("steps", "all"))
    assert frozen.costs != free.costs


def test_few_samples_are_seen_more_often(probe: Probe) -> None:
    """64 samples are two steps; each step runs the network at every width and at a random one."""
    assert limpq(probe).evaluations == 150 * 6
    assert Limpq(StepTraining(least=0))(probe).evaluations == 3 * 6


def test_relative_steps_forget_the_scale_of_a_weight(probe: Probe) -> None:
    plain, relative = limpq(probe), replace(limpq, relative=True)(probe)
    for layer in probe.layers:
        deviation = probe.candidate(layer, 32)[layer.weight].std()
        for option, cost in plain.costs[layer.name].items():
            assert relative.costs[layer.name][option] == pytest.approx(cost / deviation, rel=1e-5)


def test_training_data_of_its_own(probe: Probe) -> None:
    arrays = {name: values[:16] for name, values in labelled(classifier()).items()}
    found = limpq(replace(probe, training=probe_of(classifier(), arrays).data))
    assert found.samples == 16
    assert found.costs != limpq(probe).costs


def test_labels_are_asked_for() -> None:
    unlabelled = probe_of(classifier(), {"x": labelled(classifier())["x"]})
    with pytest.raises(DataError, match=r"give --train-data .* or use --method .*limpq:without_labels"):
        limpq(unlabelled)
    assert without_labels(unlabelled).method == "limpq (targets float)"


def test_codes_are_asked_for(probe: Probe) -> None:
    with pytest.raises(OptionError, match="no layer may have any"):
        limpq(replace(probe, options=dict.fromkeys(probe.options, (Option(16),))))


def test_a_classifier_is_asked_for() -> None:
    model = model_of(
        "g (float[N, 3] x) => (float[N, 1] y) { y = MatMul (x, w) }", w=np.ones((3, 1), np.float32)
    )
    with pytest.raises(OptionError, match="trains a classifier"):
        limpq(probe_of(model, {"x": np.ones((4, 3), np.float32)}))


def test_one_negative_sample_gives_an_activation_signs() -> None:
    arrays = labelled(classifier())
    name = next(key for key in arrays if key != "labels")
    arrays[name] = np.abs(arrays[name])
    probe = probe_of(classifier(), arrays, bits=(2, 4))
    few = replace(probe, batch_size=len(arrays["labels"]) // 4)
    assert first_ratio(few) == pytest.approx(math.sqrt(15 / 3))  # of the highest codes
    arrays[name][-1, 0] = -0.1
    again = replace(probe_of(classifier(), arrays, bits=(2, 4)), batch_size=few.batch_size)
    assert first_ratio(again) == pytest.approx(math.sqrt(7 / 1))


def first_ratio(probe: Probe) -> float:
    """Of the steps at 2 and 4 bits that training would start the first layer's activation with."""
    training = StepTraining(least=0, epochs=1, rate=0.0, last_rate=0.0)
    steps = learn_steps(training, probe, probe.data).activation[probe.layers[0].name]
    return steps[2] / steps[4]


def test_a_network_that_moves_the_axis_of_samples_learns_from_one_at_a_time() -> None:
    """Behind the Transpose the samples are no longer first, and only one alone can be told apart."""
    rng = np.random.default_rng(0)
    text = """g (float[N, 3, 4] x) => (float[N, 5] y) {
        t = Transpose <perm = [1, 0, 2]> (x)  a = MatMul (t, w1)  r = Relu (a)
        b = Transpose <perm = [1, 0, 2]> (r)  f = Flatten (b)  y = MatMul (f, w2)
    }"""
    shapes = {"w1": (4, 6), "w2": (18, 5)}
    model = model_of(text, **{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
    x = rng.standard_normal((12, 3, 4)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {"x": x, "labels": rng.integers(5, size=12)}
    found = limpq(probe_of(model, arrays))
    assert [len(costs) for costs in found.costs.values()] == [3, 3]
    assert found.evaluations == 25 * 4  # of 12 steps each, at three widths and at a random one


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"rate": math.nan}, {"momentum": 2.0}, {"limits": (1.0, 0.5)}, {"least": -1}]
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"limpq's .* is .*; wanted"):
        StepTraining(**options)
