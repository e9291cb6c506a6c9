"""Where activations are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxmpq.values.activation_range import ActivationRange


@dataclass(frozen=True, slots=True)
class Placement:
    """Which tensors, by name, are quantized, and why the rest is not.

    `tensors` get a Q/DQ pair; they are in topological order. Each group of `same_scale` takes the range of its
    first tensor, every other tensor its own. `float_sources` are those of `tensors` that are made in float
    (graph inputs, constants, results of float operators): the nodes listed, by their first outputs, read the
    quantized value, all others the float one. `split_biases` are the weights of Gemm nodes that have an
    integer kernel only without their bias (see `SplitGemmBias`).

    `float_ops` says, by first output, why an operator beside a quantized tensor stays in float.
    `integer_layers` are expected to run as integer kernels; `float_layers` says why the others do not. `spare` are
    tensors that a placement for fewer integer layers may quantize where this one does not: they need ranges as well.
    `dynamic` are tensors, by the nodes that read them quantized, whose ranges are found when the file runs.
    """

    tensors: tuple[str, ...]
    same_scale: tuple[tuple[str, ...], ...]
    float_sources: Mapping[str, frozenset[str]]
    split_biases: frozenset[str]
    float_ops: Mapping[str, str]
    integer_layers: tuple[str, ...]
    float_layers: Mapping[str, str]
    spare: tuple[str, ...] = ()
    dynamic: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def quantizes(self) -> bool:
        """True where it quantizes anything."""
        return bool(self.tensors or self.dynamic)

    def shared(self, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
        """The range of every tensor, given each tensor's own: that of the first of its group."""
        leaders = {t: t for t in self.tensors} | {t: group[0] for group in self.same_scale for t in group}
        return {name: ranges[leader] for name, leader in leaders.items()}
