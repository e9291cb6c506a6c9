"""Semilayers: a partition of every layer, found on a network where it is known, and a bar that never falls."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.errors import DataError, OptionError
from onnxmpq.sensitivity.judge import Change, Judge, Outcome
from onnxmpq.sensitivity.methods.semilayer import Semilayer, Semilayers, SemilayerSearch, semilayer
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing import classifier, labelled, model_of, probe_of
from onnxmpq.values.costs import Trajectory
from onnxmpq.values.group import channels_of, divided
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS, Option
from onnxmpq.values.plan import Plan
from onnxmpq.verify.readback import read_weights


@pytest.fixture
def probe() -> Probe:
    return probe_of(classifier(), labelled(classifier()), bits=(2, 3, 4, 6, 8))


def alone(probe: Probe, layer: Layer, channels: Sequence[int], bits: int) -> Change:
    """These channels at a width, all else in float."""
    constants = {}
    for name, value in probe.candidate(layer, FLOAT_BITS).items():
        mixed, axis = value.copy(), layer.axis if name == layer.weight else 0
        rounded = probe.candidate(layer, bits)[name]
        np.moveaxis(mixed, axis, 0)[list(channels)] = np.moveaxis(rounded, axis, 0)[list(channels)]
        constants[name] = mixed
    return Change(layer, constants)


@pytest.mark.parametrize("bits", [2, 6])
def test_semilayers_partition_every_layer(probe: Probe, bits: int) -> None:
    search = SemilayerSearch(probe)
    search.split(bits)
    for layer in probe.layers:
        halves = [half.channels for half in search.halves[bits] if half.layer == layer]
        assert len(halves) <= 2
        assert sorted(c for half in halves for c in half) == list(range(layer.channels))
    priorities = [half.priority for half in search.halves[bits]]
    assert priorities == sorted(priorities)


def test_top1_never_falls_while_semilayers_are_accepted(probe: Probe) -> None:
    search = SemilayerSearch(probe)
    for bits in (8, 6, 4, 3, 2):
        search.split(bits)
        search.accept(bits)
    assert len(search.kept) > 10
    assert all(np.diff(search.kept) >= 0)
    assert [point.outcome.top1 for point in search.path] == search.kept


@pytest.mark.parametrize(
    ("second", "kept"),
    [((0.9, 0.1), [0.7, 0.9, 0.9]), ((0.8, 0.1), [0.7, 0.9]), ((0.95, math.nan), [0.7, 0.9])],
)
def test_the_bar_rises_with_what_is_accepted(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, second: tuple[float, float], kept: list[float]
) -> None:
    outcomes = iter([Outcome(loss, top1, 1.0) for top1, loss in ((0.9, 0.1), second)])
    search = SemilayerSearch(probe)
    monkeypatch.setattr(Judge, "__call__", lambda *_: [next(outcomes)])
    search.kept = [0.7]
    search.halves[2] = [Semilayer(search.layers[0], (channel,), 0.0) for channel in (0, 1)]
    search.accept(2)
    assert search.kept == kept
    assert len(search.path) == len(kept)


def test_priorities_are_losses_for_each_weight_saved(probe: Probe) -> None:
    search = SemilayerSearch(probe)
    search.split(2)
    for half in search.halves[2]:
        (outcome,) = search.judge({}, [alone(probe, half.layer, half.channels, 2)])
        weights = len(half.channels) * half.layer.params / half.layer.channels
        assert half.priority == pytest.approx(outcome.loss / (weights * 30 / 32), rel=1e-6)


def gains_and_loses() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Eight logits of eight one-hot inputs; two bits round the even rows' weights to better logits, the odd to worse.

    Row r has a weight for its own class and one, as large as a code, that fixes its scale. In even rows the own
    weight is rounded up, in odd rows down.
    """
    weight = np.zeros((8, 8), np.float32)
    for row in range(8):
        weight[row, (row + 1) % 8] = -2.0  # the lowest code of two bits: scale 1
        weight[row, row] = 0.6 if row % 2 == 0 else 0.4
    model = model_of(
        "g (float[N, 8, 1, 1] x) => (float[N, 8, 1, 1] y) { y = Conv (x, w) }", w=weight[:, :, None, None]
    )
    inputs = np.repeat(np.eye(8, dtype=np.float32), 4, axis=0)[:, :, None, None]
    return model, {"x": inputs, "labels": np.repeat(np.arange(8), 4)}


def test_the_half_that_gains_from_rounding_is_found() -> None:
    model, arrays = gains_and_loses()
    probe = probe_of(model, arrays, bits=(2, 8))
    rounded = probe.candidate(probe.layers[0], 2)[probe.layers[0].weight][:, :, 0, 0]
    assert np.diag(rounded)[::2].min() > 0.6
    assert np.diag(rounded)[1::2].max() < 0.4
    search = SemilayerSearch(probe)
    search.split(2)
    assert {half.channels for half in search.halves[2]} == {(0, 2, 4, 6), (1, 3, 5, 7)}


def test_a_channel_that_rounding_leaves_as_it_is_gains() -> None:
    model, arrays = gains_and_loses()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[1] = 0
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    search = SemilayerSearch(probe_of(model, arrays, bits=(2, 8)))
    search.split(2)
    assert {half.channels for half in search.halves[2]} == {(0, 1, 2, 4, 6), (3, 5, 7)}


def test_so_it_does_in_every_layer() -> None:
    """Each is run through a graph cut elsewhere, whose float loss differs from another's in the last digits."""
    model = classifier()
    for tensor, axis in zip(model.graph.initializer, (0, 0, 0, 1), strict=True):
        weight = onnx.numpy_helper.to_array(tensor).copy()
        np.moveaxis(weight, axis, 0)[:2] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    probe = probe_of(model, labelled(model), bits=(2, 3, 4, 6, 8))
    search = SemilayerSearch(probe)
    for bits in (8, 6, 4, 3, 2):
        search.split(bits)
        halves = {half.layer.name: half.channels for half in search.halves[bits] if 0 in half.channels}
        for layer in search.layers:
            unchanged = search.floats[layer.name].cross_entropy or 0.0
            changes = [alone(probe, layer, (channel,), bits) for channel in range(layer.channels)]
            entropies = [outcome.cross_entropy or 0.0 for outcome in search.judge({}, changes)]
            assert entropies[:2] == [unchanged, unchanged]
            assert halves[layer.name] == tuple(
                c for c, entropy in enumerate(entropies) if entropy <= unchanged
            )


def test_a_layer_in_control_flow_is_one_half() -> None:
    """No file divides it."""
    search = SemilayerSearch(probe_of(classifier(), labelled(classifier()), bits=(2, 8)))
    search.layers = [replace(layer, weights_only=layer.op == "MatMul") for layer in search.layers]
    before = search.judge.evaluations
    search.split(2)
    (whole,) = [half for half in search.halves[2] if half.layer.weights_only]
    assert whole.channels == tuple(range(whole.layer.channels))
    others = [layer for layer in search.layers if not layer.weights_only]
    assert search.judge.evaluations - before == sum(la.channels for la in others) + 1 + len(search.halves[2])


def test_a_layer_without_the_postponed_width_goes_to_its_widest(probe: Probe) -> None:
    first, *others = probe.options
    narrow = {first: (Option(2), Option(8)), **dict.fromkeys(others, (Option(6),))}
    search = SemilayerSearch(replace(probe, options=narrow))
    search.split(6)
    search.postpone(6, FLOAT_BITS)
    widths = search.path[-1].widths
    assert set(widths[first].tolist()) == {8}
    assert all(set(widths[name].tolist()) == {6} for name in others)


def test_a_channel_whose_loss_is_no_number_belongs_to_a_half() -> None:
    weight = np.full((4, 4), 0.3, np.float32)
    np.fill_diagonal(weight, 1)
    weight[1] = [0.05, 1, -0.04, 0.3]  # in two bits some of its outputs are negative, and have no root
    model = model_of(
        "g (float[N, 4, 1, 1] x) => (float[N, 4, 1, 1] y) { c = Conv (x, w) y = Sqrt (c) }",
        w=weight[:, :, None, None],
    )
    inputs = np.repeat(np.eye(4, dtype=np.float32) + np.float32(0.05), 8, axis=0)
    inputs[16:24] = [0.9, 0, 1, 0]
    arrays = {"x": inputs[:, :, None, None], "labels": np.repeat(np.arange(4), 8)}
    probe = probe_of(model, arrays, bits=(2, 8))
    search = SemilayerSearch(probe)
    search.split(2)
    outcomes = search.judge({}, [alone(probe, search.layers[0], (channel,), 2) for channel in range(4)])
    assert any(np.isnan(outcome.cross_entropy or 0) for outcome in outcomes)
    assert sorted(c for half in search.halves[2] for c in half.channels) == [0, 1, 2, 3]
    assert {o.weight_bits for o in semilayer(probe).plans[-1].options.values()} == {2}
    search.accept(2)  # of no number the largest is a class, too
    assert all(np.isfinite(point.outcome.loss) for point in search.path)


def test_groups_have_one_width_each_and_all_go_down(probe: Probe) -> None:
    found = semilayer(probe)
    assert found.groups
    assert {o.weight_bits for o in found.plans[0].options.values()} == {8}
    assert {o.weight_bits for o in found.plans[-1].options.values()} == {2}
    units = tuple(divided(probe.layers, found.groups))
    sizes = [sum(u.params * plan[u.name].weight_bits for u in units) for plan in found.plans]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(unit.params for unit in units) == sum(layer.params for layer in probe.layers)


def test_what_may_stay_in_float_starts_there(probe: Probe) -> None:
    stays = Option(FLOAT_BITS)
    found = semilayer(replace(probe, untouched=dict.fromkeys(probe.options, stays)))
    assert set(found.plans[0].options.values()) == {stays}
    assert {option.weight_bits for option in found.plans[-1].options.values()} == {2}
    assert None not in found.losses
    assert found.losses[0] == pytest.approx(0, abs=1e-9)
    for i in range(0, len(found.plans), 9):
        assert found.losses[i] == pytest.approx(joint_loss(probe, found, found.plans[i]), rel=1e-5, abs=1e-9)


def test_losses_are_those_of_the_whole_network(probe: Probe) -> None:
    found = Semilayers(postponed=4)(probe)
    known = [i for i, loss in enumerate(found.losses) if loss is not None]
    for i in known[::5]:
        assert found.losses[i] == pytest.approx(joint_loss(probe, found, found.plans[i]), rel=1e-5)


def joint_loss(probe: Probe, found: Trajectory, plan: Plan) -> float:
    """The loss with every group's channels at its planned width."""
    decided = {}
    for layer in probe.layers:
        weight = np.array(probe.candidate(layer, FLOAT_BITS)[layer.weight])
        for unit in divided([layer], found.groups):
            rows = np.moveaxis(weight, layer.axis, 0)
            chosen = list(channels_of(unit))
            rounded = probe.candidate(layer, plan[unit.name].weight_bits)[layer.weight]
            rows[chosen] = np.moveaxis(rounded, layer.axis, 0)[chosen]
        decided[layer.weight] = weight
    first = probe.layers[0]
    return Judge(replace(probe, metric=probe.metric.plain))(
        decided, [Change(first, {first.weight: decided[first.weight]})]
    )[0].loss


def test_labels_are_asked_for() -> None:
    with pytest.raises(DataError, match="semilayer judges by top-1"):
        semilayer(probe_of(classifier(), {"x": labelled(classifier())["x"]}))


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_widths_of_channels_are_real_in_the_file(tmp_path: Path, rounding: str, activations: str) -> None:
    onnx.save(classifier(), tmp_path / "model.onnx")
    arrays = labelled(classifier())
    report = onnxmpq.compile_model(
        tmp_path / "model.onnx", ["3.5bit-avg"], arrays, evaluation=arrays, method="semilayer", rounding=rounding,
        activations=activations,
    )  # fmt: skip
    assert report.size.average_weight_bits <= 3.5
    stored = read_weights(onnx.load(report.output))
    parts = [layer for layer in report.layers if "/part" in layer.name]
    assert len({layer.weight_bits for layer in parts if layer.name.startswith(parts[0].name[:-1])}) > 1
    for layer in report.layers:
        weight = next(
            name
            for name in stored
            if stored[name].codes.size == layer.params and stored[name].bits == layer.weight_bits
        )
        del stored[weight]
    assert not stored


def test_it_looks_at_as_many_images_as_it_may(probe: Probe) -> None:
    assert Semilayers(images=9)(probe).samples == 9
    with pytest.raises(OptionError, match="semilayer's images is 0; wanted an integer of 1 or more"):
        Semilayers(images=0)
