"""Class separability by TF-IDF (Wang et al., CSMPQ, arXiv 2212.10220): what tells samples apart needs many bits.

    A [C, N] = mean over positions of Relu(feature),   tf_cn = kappa A_cn / sum_c' A_c'n,   kappa = 1
    S_c = {n: A_cn >= mean_n A_cn},   TF_c = mean of tf_cn over S_c,   IDF_c = ln(N / (|S_c| + 1))
    gamma = mean_c TF_c IDF_c,   max  sum_l theta_l b_l   within the budget

No labels, whatever the name says; two passes over one batch. The importances know neither the width nor the
error made at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.pool_features import PoolFeatures, pooled_name
from onnxmpq.sensitivity.features import layer_features
from onnxmpq.sensitivity.linear import PROGRAMS, Importances, Program, solved
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_count, require_known, require_number, titled
from onnxmpq.values.arrays import Floats
from onnxmpq.values.costs import Sensitivity

Pooled = Floats  # [samples, channels]

Direction = Literal["separable", "inverse"]

_TINY = 1e-11


@dataclass(frozen=True, slots=True)
class Csmpq:
    """The method; the default direction is the paper's, theta = gamma.

    Its code for post-training quantization has the opposite one, theta = exp(-`beta` gamma), all but constant:
    `direction` "inverse". `images` are streamed, in two passes. `coe` multiplies the term frequencies of a layer of
    C channels by ln(e C / coe), which their scripts leave out. `program` "relaxed" and "searched" are the authors'
    solver with the roundings that they use, over all sizes.
    """

    images: int = 32
    direction: Direction = "separable"
    beta: float = 3.3
    coe: float | None = None
    program: Program = "exact"

    def __post_init__(self) -> None:
        require_known("csmpq", "direction", self.direction, get_args(Direction))
        require_known("csmpq", "program", self.program, PROGRAMS)
        require_count("csmpq", "images", self.images, 1)
        require_number("csmpq", "beta", self.beta, 0)
        if self.coe is not None:
            require_number("csmpq", "coe", self.coe, _TINY)

    @property
    def gives_path(self) -> bool:
        """True where the result is no table of costs."""
        return self.program != "exact"

    def __call__(self, probe: Probe) -> Sensitivity:
        """Costs linear in the width, or the path of the relaxed program.

        Raises OptionError for a model without features.
        """
        probe = probe.seeing(self.images)
        features = layer_features(probe, "csmpq")
        tensors = tuple(dict.fromkeys(features.values()))
        found = zip(tensors, _separability(probe, tensors), strict=True)
        gamma = {tensor: value * self._kappa(probe.traced[tensor].shape[1]) for tensor, value in found}
        theta = {name: self._theta(gamma[tensor]) for name, tensor in features.items()}
        unit, method = "separability", titled("csmpq", self)
        return solved(self.program, probe, Importances(theta, unit, method, probe.data.count, evaluations=2))

    def _kappa(self, channels: int) -> float:
        return 1.0 if self.coe is None else math.log(math.e * channels / self.coe)

    def _theta(self, gamma: float) -> float:
        return max(gamma, 0.0) if self.direction == "separable" else float(np.exp(-self.beta * gamma))


csmpq = Csmpq()
as_published = Csmpq(direction="inverse", program="relaxed")


class Separability:
    """gamma of one layer from batches of its pooled activations [N, C]: `see` them all, then `count` them all."""

    def __init__(self, channels: int) -> None:
        self._sum = np.zeros(channels)
        self._above = np.zeros(channels)  # |S_c|
        self._frequency = np.zeros(channels)
        self._samples = 0

    def see(self, pooled: Pooled) -> None:
        self._sum += pooled.sum(axis=0, dtype=np.float64)
        self._samples += len(pooled)

    def count(self, pooled: Pooled) -> None:
        values = pooled.astype(np.float64)
        above = values >= self._sum / self._samples
        shares = values / np.maximum(values.sum(axis=1, keepdims=True), _TINY)
        self._above += above.sum(axis=0)
        self._frequency += (shares * above).sum(axis=0)

    def gamma(self) -> float:
        inverse = np.log(self._samples / (self._above + 1))
        return float((self._frequency / (self._above + _TINY) * inverse).mean())


def _separability(probe: Probe, tensors: Sequence[str]) -> list[float]:
    graph = import_graph(probe.model)
    PoolFeatures({tensor: len(probe.traced[tensor].shape) for tensor in tensors})(graph)
    names = [pooled_name(tensor) for tensor in tensors]
    graph.outputs = [output for output in graph.outputs if output.name in names]
    session = probe.runtime.session(export_model(graph, probe.model))

    def pooled() -> Iterator[list[Pooled]]:
        for batch in probe.data.batches(probe.batch_size):
            outputs = session.run(batch.feeds)
            yield [outputs[name] for name in names]

    layers = [Separability(probe.traced[tensor].shape[1]) for tensor in tensors]
    for batch in pooled():
        for layer, values in zip(layers, batch, strict=True):
            layer.see(values)
    probe.progress(1, 2)
    for batch in pooled():
        for layer, values in zip(layers, batch, strict=True):
            layer.count(values)
    probe.progress(2, 2)
    return [layer.gamma() for layer in layers]
