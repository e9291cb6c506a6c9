"""Learned step sizes as importance (Tang et al., LIMPQ, ECCV 2022, arXiv 2203.08368).

    cost(layer, weight bits, activation bits) = s_a(layer, activation bits) + alpha s_w(layer, weight bits)

s are the step sizes of LSQ for every layer and width, all trained together: for each batch every width once for
the whole network, then a random width for each layer. A layer whose step has to grow much at few bits wants a
coarse, wide grid: it is sensitive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.errors import DataError, OptionError
from onnxmpq.metrics.metric import Metric, classifier_output
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.step_sizes import (
    Learned,
    StepTraining,
    chooses_activations,
    learn_steps,
    learned_widths,
)
from onnxmpq.sensitivity.variant import require_number, titled
from onnxmpq.values.costs import CostTable
from onnxmpq.values.option import FLOAT_BITS, Option

_TINY = 1e-12

Steps = Mapping[str, Mapping[int, float]]  # layer -> width -> step size


@dataclass(frozen=True, slots=True)
class Limpq:
    """The method; `alpha` weighs the weights' steps against the activations', as the authors do.

    `relative` divides a weight's steps by its standard deviation: steps as they are grow with the scale of a
    BatchNorm that was folded into the weight.
    """

    training: StepTraining = field(default_factory=StepTraining)
    alpha: float = 2.0
    relative: bool = False

    def __post_init__(self) -> None:
        require_number("limpq", "alpha", self.alpha, 0)

    def __call__(self, probe: Probe) -> CostTable:
        """Train on the probe's training samples; costs are step sizes, in the tensors' own units.

        Raises DataError without labels, OptionError for a model that is no classifier, ModelError for one that
        an operator keeps from being differentiated.
        """
        self.check_data(probe.metric, probe.data, probe.training)
        data = probe.training or probe.data
        if not (widths := learned_widths(probe.options)):
            raise OptionError(
                "method limpq learns steps of codes, and no layer may have any; allow some with --bits"
            )
        trained = learn_steps(self.training, probe, data)
        weight = _by_deviation(probe, trained.weight) if self.relative else trained.weight
        costs = indicator_costs(probe.options, weight, trained.activation, self.alpha)
        runs = trained.epochs * (len(widths) + 1)
        return CostTable(costs, "step size", titled("limpq", self), data.count, runs)

    def check_data(self, metric: Metric, data: Dataset, training: Dataset | None) -> None:
        """Raise as `__call__` does for what it cannot train with."""
        if classifier_output(metric) is None:
            raise OptionError(
                "method limpq trains a classifier, and this model is none; use another --method"
            )
        trained = training or data
        if self.training.targets == "labels" and not trained.has_labels:
            raise DataError(
                f"method limpq trains with labels, and {trained.description} have none; give --train-data with an array "
                "'labels' of class indices, or use --method onnxmpq.sensitivity.methods.limpq:without_labels"
            )


limpq = Limpq()
without_labels = Limpq(StepTraining(targets="float"))
as_published = Limpq(StepTraining(trains="all"))


def _by_deviation(probe: Probe, steps: Steps) -> Learned:
    """Each layer's steps over the standard deviation of its float weight."""
    layers = {layer.name: layer for layer in probe.layers}
    deviations = {
        name: float(probe.candidate(layers[name], FLOAT_BITS)[layers[name].weight].std()) for name in steps
    }
    return {
        name: {bits: step / max(deviations[name], _TINY) for bits, step in found.items()}
        for name, found in steps.items()
    }


def indicator_costs(
    options: Mapping[str, Sequence[Option]], weight: Steps, activation: Steps, alpha: float
) -> dict[str, dict[Option, float]]:
    """The paper's costs of all options; a layer's activations count where its options differ in them.

    What stays in floating point has no step and costs nothing.

    A width whose step is smaller than that of the next wider one is not to be taken: such an outlier costs more
    than everything else together. A layer without steps costs the mean of the others.
    """
    counted = {name: activation[name] for name in weight if chooses_activations(options[name])}
    raw = {
        name: {option: _price(option, steps, counted.get(name, {}), alpha) for option in options[name]}
        for name, steps in weight.items()
    }
    never = 1 + sum(max(costs.values()) for costs in raw.values())
    costs = {}
    for name, choices in options.items():
        if name not in raw:
            costs[name] = {option: _mean_cost(raw, option) for option in choices}
            continue
        bad, other = _outliers(weight[name]), _outliers(counted.get(name, {}))
        costs[name] = {
            option: never if option.weight_bits in bad or option.activation_bits in other else cost
            for option, cost in raw[name].items()
        }
    return costs


def _price(
    option: Option, weight: Mapping[int, float], activation: Mapping[int, float], alpha: float
) -> float:
    """The steps of an option; `activation` is empty where they do not count."""
    price = alpha * weight[option.weight_bits] if option.is_quantized else 0.0
    return price + activation[option.activation_bits] if activation and option.activation_bits else price


def _outliers(steps: Mapping[int, float]) -> frozenset[int]:
    widths = sorted(steps)
    return frozenset(b for b, wider in pairwise(widths) if steps[b] < steps[wider])


def _mean_cost(costs: Mapping[str, Mapping[Option, float]], option: Option) -> float:
    same = [
        c for options in costs.values() for o, c in options.items() if o.weight_bits == option.weight_bits
    ]
    return float(np.mean(same)) if same else 0.0
