"""What int8 activations cost: the loss of the network with one layer's input rounded and all else in float.

Added to the costs of a layer's weights where the layer may also compute in float, so that the two can be
compared; between widths alone it would change nothing. One forward of what lies behind each layer, no labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnxmpq.sensitivity.chain import State, Step
from onnxmpq.sensitivity.judge import losses_alone
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.activation_range import ActivationRange, rounded
from onnxmpq.values.costs import CostTable


def activation_losses(probe: Probe, inputs: Mapping[str, tuple[str, ActivationRange]]) -> dict[str, float]:
    """The loss, in the metric's own units, for each layer named in `inputs`: the tensor it reads, and its range."""

    def rounded_input(step: Step) -> list[State]:
        tensor, activation = inputs[step.layer.name]
        # A weight that is read again further on has readers whose input is not at hand here.
        read = step.inputs.get(tensor)
        changed = {} if read is None else {tensor: rounded(read, activation)}
        return [{**probe.candidate(step.layer, step.layer.float_bits), **changed}]

    layers = [layer for layer in probe.layers if layer.name in inputs]
    return {name: loss for (name, _), loss in losses_alone(probe, layers, rounded_input).items()}


def with_noise(costs: CostTable, losses: Mapping[str, float]) -> CostTable:
    """The table with each layer's loss on top of all its options that have integer activations."""
    return replace(
        costs,
        costs={
            name: {o: c + losses.get(name, 0.0) * (o.activation_bits is not None) for o, c in table.items()}
            for name, table in costs.costs.items()
        },
    )
