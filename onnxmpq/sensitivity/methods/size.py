"""The data-free baseline: a layer's cost depends on its size alone.

The projection of "all layers at the highest width" onto a size budget gives every layer
`highest - lambda * params` bits (clipped): large layers pay first. The program that does this with separable
costs is a sum of squares, cost = (highest - bits)^2 / 2, whose budget row is params x bits. Published policies
of two methods turn out to be this projection; a metric has to beat it.
"""

from __future__ import annotations

from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.costs import CostTable


def size(probe: Probe) -> CostTable:
    """Half the squared distance from the layer's highest width, in squared bits; no data are read."""
    costs = {}
    for name, options in probe.options.items():
        highest = probe.highest(name)
        costs[name] = {option: (highest - option.weight_bits) ** 2 / 2 for option in options}
    return CostTable(costs, "squared bits", "size", 0)
