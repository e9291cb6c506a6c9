"""Quantized activations: where, and in what ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.context.prepared import Prepared
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place.policies import POLICIES
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.placement import Placement
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import Policy


@dataclass(frozen=True)
class Activations:
    """Where activations are quantized if every layer computes in integers that can, and each tensor's own range."""

    placement: Placement
    ranges: Mapping[str, ActivationRange]
    policy: Policy = "kernels"

    def of(self, plan: Plan, prepared: Prepared) -> Placement:
        """Where they are quantized under a plan: of fewer tensors where layers compute in float."""
        asked = {name for name, option in plan.options.items() if option.activation_bits is not None}
        if asked == set(self.placement.integer_layers):
            return self.placement
        return POLICIES[self.policy](import_graph(prepared.model), prepared.layers, asked)
