"""The battery for sensitivity methods, and the probes it gives them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxmpq.data import open_data
from onnxmpq.normalize.prepare import prepare
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.sensitivity.answer import fault
from onnxmpq.sensitivity.methods import Method
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing.models import RUNTIME, check, model_of, run, serialized
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory
from onnxmpq.values.group import divided, layer_of
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option


def check_method(
    method: Method, model: onnx.ModelProto | None = None, arrays: Mapping[str, Array] | None = None
) -> Sensitivity:
    """Run a sensitivity method, check that it keeps the contract, and return what it gives.

    `arrays` are samples of the model's input and `labels`; by default both are those of a small classifier.

    Checked: it gives a CostTable with a cost for every option of every layer that has a choice, or a Trajectory
    of plans over these layers and options in which nothing grows; it leaves the probe as it was; it calls
    `progress`, whose last call says that all is done (a method that reads data); a second run, another run in
    between and another state of NumPy's global generator give an equal result, and so does the same network
    under other names; what read data differs for another network (the first weight's elements permuted), and
    what says that it read none (`samples` 0) does not look at them.

    Raises AssertionError that names what does not hold.
    """
    if model is None or arrays is None:
        model = classifier()
        arrays = labelled(model)
    calls: list[tuple[int, int]] = []
    probe = dataclasses.replace(probe_of(model, arrays), progress=lambda *call: calls.append(call))
    before = _state(probe)
    np.random.seed(0)  # noqa: NPY002 - the global state that no method may read
    found = method(probe)
    check(_state(probe) == before, "the method changed the probe, which belongs to all of them")
    wrong = fault(found, probe)
    check(wrong is None, f"the method is wrong: {wrong}")
    if isinstance(found, Trajectory):
        _check_end(found, probe)
    _check_progress(found, calls)
    shuffled = method(probe_of(_permuted(model, probe.layers[0].weight), arrays))
    np.random.seed(1)  # noqa: NPY002
    check(method(probe) == found, "a second run on the same probe gave another result")
    renamed = probe_of(onnx.compose.add_prefix(model, "renamed/"), arrays)
    check(
        _nameless(method(renamed)) == _nameless(found),
        "the same network under other names gave another result",
    )
    if found.samples:
        check(_nameless(shuffled) != _nameless(found), "another network gave the same result")
    else:
        noise = {name: value if name == "labels" else -value for name, value in arrays.items()}
        check(method(probe_of(model, noise)) == found, "the method read data and says that it did not")
    return found


def probe_of(
    model: onnx.ModelProto,
    arrays: Mapping[str, Array],
    *,
    bits: Sequence[int] = (2, 4, 8),
    rounding: str = "nearest",
    **more: Any,
) -> Probe:
    """What `compile` would give a method: the prepared model, its layers, and these samples as data.

    `more` are further fields of the Probe. Weights handed out are read-only.
    """
    inputs = RUNTIME.session(model).inputs
    specs = [dataclasses.replace(spec, shape=(None, *spec.shape[1:])) for spec in inputs]
    data = open_data(arrays, specs, samples=None)
    sample = next(iter(data.batches(1))).feeds
    prepared = prepare(RUNTIME, model, sample, integer=False, batchable=True)
    candidates = Candidates(prepared.model, rounding)
    options = {la.name: tuple(Option(b) for b in sorted(bits)) for la in prepared.layers if la.reason is None}

    def candidate(layer: Layer, width: int) -> dict[str, Array]:
        constants = candidates.constants(layer, width)
        for value in constants.values():
            value.setflags(write=False)
        return constants

    return Probe(
        prepared.model, prepared.layers, options, candidate, data, prepared.metric, RUNTIME, prepared.traced,
        prepared.batch_size, **more,
    )  # fmt: skip


def classifier() -> onnx.ModelProto:
    """Two convolutions around a skip, a pooling and a matrix: ten thousand operations, five classes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 2, 3, 3), "w2": (6, 6, 3, 3), "w3": (8, 6, 1, 1), "w4": (8, 5)}
    weights = {
        n: rng.normal(0, 1 / math.sqrt(math.prod(s[1:])), s).astype(np.float32) for n, s in shapes.items()
    }
    text = """g (float[N, 2, 6, 6] x) => (float[N, 5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu (a)  c = Conv <pads = [1, 1, 1, 1]> (b, w2)
        d = Add (b, c)  e = Relu (d)  f = Conv (e, w3)  r = Relu (f)  p = GlobalAveragePool (r)
        h = Flatten (p)  y = MatMul (h, w4)
    }"""
    return model_of(text, **weights)


def labelled(model: onnx.ModelProto) -> dict[str, Array]:
    """64 samples of noise, labelled with the model's own classes but for every eighth."""
    x = np.random.default_rng(1).standard_normal((64, 2, 6, 6)).astype(np.float32)
    labels = next(iter(run(model, {"x": x}).values())).argmax(axis=1)
    labels[::8] = (labels[::8] + 1) % 5
    return {"x": x, "labels": labels}


def _state(probe: Probe) -> tuple[bytes, str]:
    return serialized(probe.model), repr((probe.layers, probe.options, probe.traced))


def _check_end(found: Trajectory, probe: Probe) -> None:
    """A path that any budget can be met by goes all the way."""
    origins = {unit.name: layer_of(unit).name for unit in divided(probe.layers, found.groups)}
    for name, option in found.plans[-1].options.items():
        options = probe.options.get(origins[name], (option,))
        narrowest = min(o.weight_bits for o in options)
        check(option.weight_bits == narrowest, f"its path ends before {name!r} has its narrowest option")


def _check_progress(found: Sensitivity, calls: Sequence[tuple[int, int]]) -> None:
    if found.samples:
        check(bool(calls), "the method never called probe.progress")
    check(all(0 <= done <= total for done, total in calls), f"progress went beyond its total: {calls}")
    check(
        not calls or calls[-1][0] == calls[-1][1],
        f"the last call of progress was {calls[-1:]}, not all of it",
    )


def _permuted(model: onnx.ModelProto, weight: str) -> onnx.ModelProto:
    """The model with the elements of one weight in another order."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    tensor = next(i for i in changed.graph.initializer if i.name == weight)
    values = onnx.numpy_helper.to_array(tensor)
    order = np.random.default_rng(2).permutation(values.size)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.ravel()[order].reshape(values.shape), weight))
    return changed


def _nameless(found: Sensitivity) -> object:
    """What was found, with layers by number."""
    if isinstance(found, CostTable):
        return [list(costs.items()) for costs in found.costs.values()]
    return [list(plan.options.values()) for plan in found.plans], found.losses
