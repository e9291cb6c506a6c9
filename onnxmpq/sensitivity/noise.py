"""What int8 activations cost: the loss of the network with one layer's input rounded and all else in float.

Added to the costs of a layer's weights where the layer may also compute in float, so that the two can be
compared; between widths alone it would change nothing. One forward of what lies behind each layer, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from onnxmpq.sensitivity.chain import State, Step
from onnxmpq.sensitivity.losses_alone import losses_alone
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.activation_range import ActivationRange, rounded
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable
from onnxmpq.values.layer import Layer


@dataclass(frozen=True, slots=True)
class RoundedInputs:
    """A layer's input rounded, its constants as they are."""

    candidate: Callable[[Layer, int], Mapping[str, Array]]
    inputs: Mapping[str, tuple[str, ActivationRange]]

    def __call__(self, step: Step) -> list[State]:
        tensor, activation = self.inputs[step.layer.name]
        # A weight that is read again further on has readers whose input is not at hand here.
        read = step.inputs.get(tensor)
        changed = {} if read is None else {tensor: rounded(read, activation)}
        return [{**self.candidate(step.layer, step.layer.float_bits), **changed}]


def activation_losses(probe: Probe, inputs: Mapping[str, tuple[str, ActivationRange]]) -> dict[str, float]:
    """The loss, in the metric's own units, for each layer named in `inputs`: the tensor it reads, and its range."""
    changes = RoundedInputs(probe.candidate, inputs)
    layers = [layer for layer in probe.layers if layer.name in inputs]
    return {name: loss for (name, _), loss in losses_alone(probe, layers, changes).items()}


def with_noise(costs: CostTable, losses: Mapping[str, float]) -> CostTable:
    """The table with each layer's loss on top of all its options that have integer activations."""
    return replace(
        costs,
        costs={
            name: {o: c + losses.get(name, 0.0) * (o.activation_bits is not None) for o, c in table.items()}
            for name, table in costs.costs.items()
        },
    )
