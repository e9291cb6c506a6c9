"""Network orthogonality (Ma et al., OMPQ, AAAI 2023, arXiv 2109.07865): what repeats other layers needs few bits.

    ORM_ij = <G_i, G_j> / (|G_i| |G_j|),   G_i the centered Gram matrix of a batch of layer i's features
    gamma_i = sum_{j != i} ORM_ij,   theta_i = exp(-beta gamma_i)
    max  sum_i b_i mean(theta_i .. theta_L)   within the budget

No labels; a forward of one batch. The importances know neither the width nor the error made at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from onnxmpq.errors import OptionError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_alignment import ALIGNMENT, EmitAlignment
from onnxmpq.sensitivity.features import layer_features
from onnxmpq.sensitivity.linear import PROGRAMS, Importances, Program, solved
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.variant import require_count, require_known, require_number, titled
from onnxmpq.values.arrays import Doubles
from onnxmpq.values.costs import Sensitivity

_CONTRAST = 10.0


@dataclass(frozen=True, slots=True)
class Ompq:
    """The method; its defaults are the paper's program, solved exactly and with a beta that tells layers apart.

    `images` are one batch; with `batches` above 1 the inner products of several are summed, so that memory is
    that of one. `beta` None makes the largest theta ten times the least: with the authors' 100 all are zero to
    their solver, with their 1e-9 all are one. `program` "relaxed" and "searched" are their solver with the
    roundings that they use, over all sizes.
    """

    images: int = 32
    batches: int = 1
    beta: float | None = None
    program: Program = "exact"

    def __post_init__(self) -> None:
        require_known("ompq", "program", self.program, PROGRAMS)
        require_count("ompq", "images", self.images, 2)
        require_count("ompq", "batches", self.batches, 1)
        if self.beta is not None:
            require_number("ompq", "beta", self.beta, 0)

    @property
    def gives_path(self) -> bool:
        """True where the result is no table of costs."""
        return self.program != "exact"

    def __call__(self, probe: Probe) -> Sensitivity:
        """Costs linear in the width, or the path of the relaxed program.

        Raises OptionError for a model that runs one sample at a time, or has no features.
        """
        features = layer_features(probe, "ompq")
        tensors = tuple(dict.fromkeys(features.values()))
        orm, samples = self.measure(probe, tensors)
        found = dict(zip(tensors, importance(orm, self.beta), strict=True))
        theta = {name: found[tensor] for name, tensor in features.items()}
        unit, method = "orthogonality", titled("ompq", self)
        return solved(self.program, probe, Importances(theta, unit, method, samples, evaluations=1))

    def measure(self, probe: Probe, tensors: tuple[str, ...]) -> tuple[Doubles, int]:
        """ORM [L, L] of these tensors, and the samples that it is over. Raises OptionError for samples one at a time."""
        graph = import_graph(probe.model)
        EmitAlignment(tensors)(graph)
        graph.outputs = [output for output in graph.outputs if output.name == ALIGNMENT]
        session = probe.runtime.session(export_model(graph, probe.model))
        total, samples = np.zeros((len(tensors), len(tensors))), 0
        images = self.images if probe.batch_size > 1 else 1
        data = probe.seeing(self.images * self.batches).data
        for done, batch in enumerate(islice(data.batches(images), self.batches), 1):
            if batch.count < 2:  # the last one
                break
            total += session.run(batch.feeds)[ALIGNMENT]
            samples += batch.count
            probe.progress(done, self.batches)
        probe.progress(self.batches, self.batches)
        if not samples:
            raise OptionError(
                "method ompq compares the samples of a batch, and this model or its data give one at a time; "
                "use another --method"
            )
        return orthogonality(total), samples


ompq = Ompq()
as_published = Ompq(beta=100.0, program="relaxed")


def orthogonality(alignment: Doubles) -> Doubles:
    """ORM [L, L] from the sums of <G_i, G_j>: symmetric, 1 on the diagonal, in [0, 1].

    A layer whose features are the same for all samples is orthogonal to all others.
    """
    norms = np.sqrt(np.diag(alignment))
    ratio = alignment / np.maximum(np.outer(norms, norms), np.finfo(np.float64).tiny)
    orm: Doubles = np.clip((ratio + ratio.T) / 2, 0.0, 1.0)
    np.fill_diagonal(orm, 1.0)
    return orm


def importance(orm: Doubles, beta: float | None) -> Doubles:
    """What a bit is worth at each layer, [L]: the mean theta of the layer and all behind it."""
    gamma = orm.sum(axis=1) - 1
    if beta is None:
        beta = float(np.log(_CONTRAST) / max(np.ptp(gamma), np.finfo(np.float64).tiny))
        gamma = gamma - gamma.min()  # only ratios matter, and the exponential stays in range
    theta = np.exp(-beta * gamma)
    means: Doubles = np.cumsum(theta[::-1])[::-1] / np.arange(len(theta), 0, -1)
    return means
