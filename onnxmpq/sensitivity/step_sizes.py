"""Step sizes of every layer and width, trained together by gradients that ONNX Runtime computes.

LSQ (Esser et al., arXiv 1902.08153) trains the step of a quantizer with the network; LIMPQ (arXiv 2203.08368)
trains those of all widths at once. One graph serves all widths: steps and ranges of codes are its inputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import numpy_helper

from onnxmpq.data import Batch, Dataset
from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import classifier_output
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_gradients import gradient_name
from onnxmpq.passes.expose.emit_loss import EmitLoss, Loss, target_name
from onnxmpq.passes.expose.tap_tensors import TapTensors, tap_name
from onnxmpq.passes.lower.learn_steps import ROLES, LearnSteps, Role, step_input
from onnxmpq.sensitivity.directional import Shapes, batch_shapes, check_sizes, differentiable, emit_gradients
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_count, require_known, require_number
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option
from onnxmpq.values.output_kind import OutputKind

Trains = Literal["steps", "all"]
TargetKind = Literal["labels", "float"]
Learned = dict[str, dict[int, float]]  # layer -> width -> step size

_CLIPPED = 1.0  # gradient values, as the authors'
_TINY = np.float32(1e-12)  # of a probability


@dataclass(frozen=True, slots=True)
class StepTraining:
    """How steps are trained; the defaults are LIMPQ's for ResNet-50, but for the network's weights.

    `trains` "steps" leaves the weights alone; "all" trains those of the layers too, as the paper does, on a folded
    graph: without their biases, and without private copies of BatchNorm. Where `epochs` come to fewer than `least`
    steps, as with a few hundred samples, there are more of them: the paper has tens of thousands of steps.
    `targets` "labels" is cross-entropy with `smoothing`; "float" takes the float network's probabilities for
    labels. The `rate` falls to `last_rate` along a cosine.
    """

    trains: Trains = "steps"
    targets: TargetKind = "labels"
    epochs: int = 3
    least: int = 300
    rate: float = 0.01
    last_rate: float = 1e-5
    momentum: float = 0.9
    decay: float = 2.5e-5
    smoothing: float = 0.1
    limits: tuple[float, float] = (1e-5, 1.0)  # of a step; one that starts higher may stay there

    def __post_init__(self) -> None:
        require_known("limpq", "trains", self.trains, get_args(Trains))
        require_known("limpq", "targets", self.targets, get_args(TargetKind))
        require_count("limpq", "epochs", self.epochs, 1)
        require_count("limpq", "least", self.least, 0)
        for what in ("rate", "last_rate", "decay"):
            require_number("limpq", what, getattr(self, what), 0)
        for what in ("momentum", "smoothing"):
            require_number("limpq", what, getattr(self, what), 0, 1)
        require_number("limpq", "lowest step", self.limits[0], 0)
        require_number("limpq", "highest step", self.limits[1], self.limits[0])

    def epochs_needed(self, data: Dataset, batch_size: int) -> int:
        """How often all samples are seen."""
        return max(self.epochs, math.ceil(self.least / _steps(data, batch_size)))

    def rate_after(self, share: float) -> float:
        """The rate when this share of all steps is done."""
        turn = 0.5 * (1 + math.cos(math.pi * min(share, 1)))
        return self.last_rate + (self.rate - self.last_rate) * turn


@dataclass(frozen=True, slots=True)
class TrainedSteps:
    """Steps of the layers' weights and activations, and how often all samples were seen for them."""

    weight: Learned
    activation: Learned
    epochs: int


def learned_widths(options: Mapping[str, Sequence[Option]]) -> list[int]:
    """The widths that need steps, widest first: of all codes, and of activations where a layer has a choice of them."""
    widths = {o.weight_bits for some in options.values() for o in some if o.is_quantized}
    for some in options.values():
        if chooses_activations(some):
            widths.update(o.activation_bits for o in some if o.activation_bits)
    return sorted(widths, reverse=True)


def code_range(widths: Sequence[int], signed: Array) -> tuple[Array, Array]:
    """Lowest and highest codes, float64 [layers, widths]; what is not `signed` (bool [layers]) is never negative."""
    bits, signs = np.array(widths, np.float64)[None, :], signed[:, None]
    lowest = np.where(signs, -(2 ** (bits - 1)), 0.0)
    return lowest, np.where(signs, np.maximum(2 ** (bits - 1) - 1, 1), 2**bits - 1)


def smoothed_labels(labels: Array, classes: int, smoothing: float) -> Array:
    """Probabilities float32 [samples, classes]: `smoothing` is shared by all classes, the label has the rest."""
    share = np.float32(smoothing)
    target = np.full((len(labels), classes), share / classes, np.float32)
    target[np.arange(len(labels)), labels] += 1 - share
    return target


def chooses_activations(options: Sequence[Option]) -> bool:
    """True where a layer's options differ in their activations."""
    return len({option.activation_bits for option in options}) > 1


def learn_steps(training: StepTraining, probe: Probe, data: Dataset) -> TrainedSteps:
    """The steps of every layer that has a float32 weight in the main graph.

    Raises ModelError where an operator keeps the network from being differentiated, OptionError where no layer
    can have steps, DataError for samples of another size than the rest.
    """
    data = data.remembered()
    learner = _Learner(training, probe, data)
    rng = np.random.default_rng(probe.seed)
    epochs = training.epochs_needed(data, learner.batch_size)
    total = epochs * _steps(data, learner.batch_size)
    done = 0
    for _ in range(epochs):
        for batch in data.shuffled(learner.batch_size, rng):
            learner.learn(batch, training.rate_after(done / total), rng)
            done += 1
            probe.progress(min(done, total), total)
    probe.progress(total, total)
    return TrainedSteps(learner.found("weight"), learner.found("activation"), epochs)


def _steps(data: Dataset, batch_size: int) -> int:
    """Batches of all samples."""
    return math.ceil(data.count / (data.source.step or batch_size))


@dataclass(slots=True)
class Parameter:
    """Values under SGD with momentum.

    A parameter whose gradient is zero throughout stays as it is; where `each`, every value is a parameter of its own.
    """

    value: Array
    each: bool = False
    velocity: Array = field(init=False)
    gradient: Array = field(init=False)

    def __post_init__(self) -> None:
        self.velocity, self.gradient = np.zeros_like(self.value), np.zeros_like(self.value)

    def update(self, rate: float, training: StepTraining) -> None:
        """One update by the gradient gathered so far, which starts at zero again."""
        moved = self.gradient != 0 if self.each else np.any(self.gradient)
        slope = np.clip(self.gradient, -_CLIPPED, _CLIPPED) + training.decay * self.value
        self.velocity = np.where(moved, training.momentum * self.velocity + slope, self.velocity)
        self.value = np.where(moved, self.value - rate * self.velocity, self.value).astype(self.value.dtype)
        self.gradient = np.zeros_like(self.value)


class _Learner:
    """The network with fake quantizers and its gradients; steps float64 [layers, widths], widest first."""

    def __init__(self, training: StepTraining, probe: Probe, data: Dataset) -> None:
        self.training = training
        output = classifier_output(probe.metric)
        assert output is not None
        self.output, self.kind = output, probe.metric.kinds[output]
        self.shape, self.dtype = probe.traced[output].shape[1:], probe.traced[output].dtype
        self.outcomes = math.prod(self.shape)
        self.float = probe.runtime.session(probe.model)
        self.widths = learned_widths(probe.options)
        read = _inputs_read(probe)
        asked = [layer for layer in probe.chosen if layer.weight in read]
        made = _trainable(training, replace(probe, data=data), asked, self.output, self.kind)
        self.layers, self.shapes, self.batch_size = made.layers, made.shapes, made.batch_size
        self.session = probe.runtime.session(made.model)
        initial = {i.name: i for i in probe.model.graph.initializer}
        self.weights = {la.weight: Parameter(numpy_helper.to_array(initial[la.weight])) for la in self.layers}
        inputs, step = [read[layer.weight] for layer in self.layers], probe.data.source.step or 1
        self.values = {  # of a sample
            "weight": np.array([layer.params for layer in self.layers]),
            "activation": np.array([math.prod(probe.traced[name].shape) for name in inputs]) // step,
        }
        signed, means = _first_look(probe, inputs, self.values["activation"], data, self.batch_size)
        self.codes: dict[Role, tuple[Array, Array]] = {
            "weight": code_range(self.widths, np.ones(len(self.layers), bool)),
            "activation": code_range(self.widths, signed),
        }
        self.steps = {
            "weight": Parameter(np.array([self._weight_steps(layer) for layer in self.layers]), each=True),
            "activation": Parameter(2 * means[:, None] / np.sqrt(self.codes["activation"][1]), each=True),
        }
        self.highest = {
            role: np.maximum(steps.value, training.limits[1]) for role, steps in self.steps.items()
        }
        self._clamp()

    def found(self, role: Role) -> Learned:
        rows = self.steps[role].value.tolist()
        return {
            la.name: dict(zip(self.widths, row, strict=True))
            for la, row in zip(self.layers, rows, strict=True)
        }

    def learn(self, batch: Batch, rate: float, rng: np.random.Generator) -> None:
        """Descend on the sum of the losses with all layers at each width and with each at a random one."""
        check_sizes(batch, self.shapes)
        target = self._target(batch)
        count = len(self.layers)
        together = [np.full(count, column) for column in range(len(self.widths))]
        for columns in [*together, rng.integers(len(self.widths), size=count)]:
            feeds = {**batch.feeds, target_name(self.output): target, **self._feeds(columns)}
            self._gather(self.session.run(feeds), columns, batch)
        trained = [*self.steps.values(), *(self.weights.values() if self.training.trains == "all" else ())]
        for parameter in trained:
            parameter.update(rate, self.training)
        self._clamp()

    def _gather(self, found: dict[str, Array], columns: Array, batch: Batch) -> None:
        """Add the gradients of the mean loss; those of steps scaled by 1 / sqrt(highest code x values), as in LSQ."""
        rows = np.arange(len(self.layers))
        for role in ROLES:
            names = [gradient_name(step_input(layer.weight, role, "step")) for layer in self.layers]
            slopes = np.array([float(found[name]) for name in names]) / batch.count
            values = self.values[role] * (batch.count if role == "activation" else 1)
            scale = np.sqrt(self.codes[role][1][rows, columns] * values)
            self.steps[role].gradient[rows, columns] += slopes / scale
        for weight in self.weights if self.training.trains == "all" else ():
            self.weights[weight].gradient += found[gradient_name(weight)] / np.float32(batch.count)

    def _feeds(self, columns: Array) -> dict[str, Array]:
        feeds: dict[str, Array] = {}
        for role in ROLES:
            steps, (low, high) = self.steps[role].value, self.codes[role]
            for row, (layer, column) in enumerate(zip(self.layers, columns.tolist(), strict=True)):
                feeds[step_input(layer.weight, role, "step")] = steps[row, column].astype(np.float32)
                feeds[step_input(layer.weight, role, "low")] = low[row, column].astype(np.float32)
                feeds[step_input(layer.weight, role, "high")] = high[row, column].astype(np.float32)
        if self.training.trains == "all":
            feeds |= {name: parameter.value for name, parameter in self.weights.items()}
        return {name: np.asarray(value) for name, value in feeds.items()}

    def _weight_steps(self, layer: Layer) -> list[float]:
        weight = self.weights[layer.weight].value
        reach = abs(float(weight.mean())) + 3 * float(weight.std())
        return [reach / 2 ** (bits - 1) for bits in self.widths]

    def _clamp(self) -> None:
        for role, parameter in self.steps.items():
            parameter.value = np.clip(parameter.value, self.training.limits[0], self.highest[role])

    def _target(self, batch: Batch) -> Array:
        """What the output is compared with, in its own form: the float network's, or the smoothed labels."""
        if self.training.targets == "float":
            return self.float.run(batch.feeds, [self.output])[self.output]
        target = smoothed_labels(batch.given_labels, self.outcomes, self.training.smoothing)
        if self.kind is not OutputKind.PROBABILITIES:
            target = np.log(np.maximum(target, _TINY))  # logits of those probabilities
        return target.reshape(batch.count, *self.shape).astype(self.dtype)


@dataclass(frozen=True)
class _Differentiated:
    """A network with the gradients of its steps; `shapes` are those of all tensors in batches of `batch_size`."""

    layers: list[Layer]
    model: onnx.ModelProto
    shapes: Shapes
    batch_size: int


def _trainable(
    training: StepTraining, probe: Probe, asked: Sequence[Layer], output: str, kind: OutputKind
) -> _Differentiated:
    """The network with steps for those of the layers that a gradient reaches."""
    graph = differentiable(probe.model)
    LearnSteps(tuple(layer.weight for layer in asked), trained=training.trains == "all")(graph)
    EmitLoss(Loss.KL, {output: kind})(graph)
    graph = import_graph(export_model(graph, probe.model))  # with the types and shapes of what was added
    inputs = {tensor.name for tensor in graph.inputs}
    layers = [layer for layer in asked if step_input(layer.weight, "weight", "step") in inputs]
    if not layers:
        raise OptionError(
            "method limpq learns steps of float32 weights of the main graph that its loss depends on, and this model "
            "has none; use --method measured"
        )
    wanted = {layer.name: [step_input(layer.weight, role, "step") for role in ROLES] for layer in layers}
    for layer in layers if training.trains == "all" else ():
        wanted[layer.name].append(layer.weight)
    shapes, batch_size = batch_shapes(probe, [layer.weight for layer in layers])
    if lost := emit_gradients(graph, wanted, shapes):
        probe.note(f"no gradient of the loss reaches {', '.join(lost)}, which cost the mean of the others")
        reached = [layer for layer in layers if layer.name not in lost]
        return _trainable(training, probe, reached, output, kind)
    names = {gradient_name(name) for some in wanted.values() for name in some}
    graph.outputs = [tensor for tensor in graph.outputs if tensor.name in names]
    return _Differentiated(layers, export_model(graph, probe.model), shapes, batch_size)


def _inputs_read(probe: Probe) -> dict[str, str]:
    """By weight, what its first node multiplies it with that is no constant; those of control flow are not known."""
    found: dict[str, str] = {}
    for node in probe.model.graph.node:
        for weight, other in itertools.permutations(node.input[:2], 2):
            if other in probe.traced:
                found.setdefault(weight, other)
    return found


def _first_look(
    probe: Probe, tensors: Sequence[str], sizes: Array, data: Dataset, batch_size: int
) -> tuple[Array, Array]:
    """Whether each tensor is ever negative, and the mean of its magnitudes on the first batch, as LSQ has it."""
    graph = import_graph(probe.model)
    TapTensors(tuple(dict.fromkeys(tensors)), ("ReduceMin", "ReduceL1"))(graph)
    session = probe.runtime.session(export_model(graph, probe.model))
    least, means = np.full(len(tensors), np.inf), np.zeros(0)
    for batch in data.batches(batch_size):
        found = session.run(batch.feeds)
        least = np.fmin(least, [float(found[tap_name(name, "ReduceMin")]) for name in tensors])
        if not means.size:
            means = np.array([float(found[tap_name(n, "ReduceL1")]) for n in tensors]) / (batch.count * sizes)
    return least < 0, means
