"""A model that is ready to be quantized: its layers, what each may be given, where its activations are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx

from onnxmpq.metrics.metric import Metric
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.place import POLICIES
from onnxmpq.place.dynamic import joined, place_dynamic
from onnxmpq.values.activation_range import ActivationRange
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Options
from onnxmpq.values.placement import Placement
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import Policy


@dataclass(frozen=True)
class Prepared:
    """A model ready to be quantized.

    `original` is what the user gave, as ONNX Runtime runs it; `model` the normalised float graph.
    """

    original: onnx.ModelProto
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    traced: Mapping[str, Traced]
    sample: Mapping[str, Array]
    metric: Metric
    batch_size: int


@dataclass(frozen=True)
class Placed:
    """A model's layers with the options each may be given, and where activations are quantized for these."""

    prepared: Prepared
    placement: Placement
    options: Options


@dataclass(frozen=True)
class Activations:
    """Where activations are quantized if every layer computes in integers that can, and each tensor's own range.

    `reasons` say of layers why they were left in float that could compute in integers. The layers in `dynamic` find the range
    of their input when they run.
    """

    placement: Placement
    ranges: Mapping[str, ActivationRange]
    policy: Policy = "kernels"
    reasons: Mapping[str, str] = field(default_factory=dict)
    dynamic: frozenset[str] = frozenset()

    def of(self, plan: Plan, prepared: Prepared) -> Placement:
        """Where they are quantized under a plan: of fewer tensors where layers compute in float."""
        asked = {name for name, option in plan.options.items() if option.activation_bits is not None}
        if asked == set(self.placement.integer_layers) and not self.dynamic:
            return self.placement
        graph, layers = import_graph(prepared.model), prepared.layers
        found = POLICIES[self.policy](graph, layers, asked - self.dynamic)
        if self.dynamic:
            found = joined(found, place_dynamic(graph, layers, asked & self.dynamic))
        known = {**found.float_layers, **self.placement.float_layers, **self.reasons}  # the more telling last
        return replace(found, float_layers={name: known[name] for name in found.float_layers})
