"""On which levels a network expects its images: what its first layers say of noise on several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnxmpq.data.synthetic import LEVELS, Levels, image_feeds
from onnxmpq.errors import EngineError
from onnxmpq.onnx_io.subgraph import giving
from onnxmpq.runtime.session import InputSpec, Runtime, Session
from onnxmpq.values.arrays import Array

_SAMPLES = 3
_TINY = 1e-12


def matching_levels(
    runtime: Runtime, model: onnx.ModelProto, specs: Sequence[InputSpec], seed: int
) -> Levels:
    """The levels of images that fit what the network has learned, the usual ones (mean 0, variance 1) where nothing tells.

    Where there are BatchNormalizations, their stored means and variances are compared with those of what they read:
    the divergence of normal distributions, its median over channels and nodes. Else the first convolution tells: what it
    makes of an image is about as large as its biases, which hold the means that were folded into them. On the networks
    tried the logarithm of that ratio is between -0.9 and 0.7 on their own images, and beyond 4 on 0..255 in place of 0..1.
    """
    if not any(len(spec.shape) == 4 and spec.dtype.kind == "f" for spec in specs):
        return LEVELS[0]
    read = _Read(model)
    if not read.names:
        return LEVELS[0]
    try:
        fed = {value.name for value in model.graph.input}
        session = runtime.session(giving(model, [n for n in read.names if n not in fed]), spin=False)
        misfits = [read.misfit(_runs(session, specs, levels, seed, read.names)) for levels in LEVELS]
    except EngineError:  # inputs of which noise may only be some
        return LEVELS[0]
    return LEVELS[int(np.argmin(misfits))] if np.isfinite(misfits).all() else LEVELS[0]


class _Read:
    """What of a model tells: the tensors that its BatchNormalizations read, or what its first convolution makes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        constants = _constants(model)
        nodes = [node for node in model.graph.node if node.op_type in ("BatchNormalization", "Conv")]
        self._normal = {
            node.input[0]: (constants[node.input[3]], constants[node.input[4]])
            for node in nodes
            if node.op_type == "BatchNormalization" and {*node.input[3:5]} <= constants.keys()
        }
        first = next((node for node in nodes if node.op_type == "Conv" and node.input[2:]), None)
        told = not self._normal and first is not None and first.input[2] in constants
        self._bias = {first.output[0]: constants[first.input[2]]} if told and first is not None else {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._normal or self._bias)

    def misfit(self, values: Mapping[str, Array]) -> float:
        """How far the tensors are from what was learned; 0 is none."""
        if self._normal:
            found = [_divergence(values[name], *stored) for name, stored in self._normal.items()]
            return float(np.median(found))
        ((name, bias),) = self._bias.items()
        made = np.sqrt(_moments(values[name])[1].mean())
        return abs(
            float(np.log((made + _TINY) / (np.sqrt(np.square(bias, dtype=np.float64).mean()) + _TINY)))
        )


def _constants(model: onnx.ModelProto) -> dict[str, Array]:
    nodes = (n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value")
    made = {node.output[0]: node.attribute[0].t for node in nodes}
    held = {tensor.name: tensor for tensor in model.graph.initializer} | made
    wanted = {
        name
        for node in model.graph.node
        if node.op_type in ("BatchNormalization", "Conv")
        for name in node.input[2:]
    }
    return {name: numpy_helper.to_array(held[name]) for name in wanted & held.keys()}


def _runs(
    session: Session, specs: Sequence[InputSpec], levels: Levels, seed: int, names: Sequence[str]
) -> dict[str, Array]:
    """The tensors of a few images, one behind the other."""
    runs = list(_each_run(session, specs, levels, seed, names))
    return {name: np.concatenate([run[name] for run in runs]) for name in names}


def _each_run(
    session: Session, specs: Sequence[InputSpec], levels: Levels, seed: int, names: Sequence[str]
) -> Iterator[Mapping[str, Array]]:
    for number in range(_SAMPLES):
        feeds = image_feeds(specs, np.random.default_rng([seed, number]), levels)
        known = {name: feeds[name] for name in names if name in feeds}
        yield {**known, **session.run(feeds, [name for name in names if name not in known])}


def _moments(values: Array) -> tuple[Array, Array]:
    """Mean and variance of each channel."""
    others = tuple(axis for axis in range(values.ndim) if axis != 1)
    known = values.astype(np.float64)
    return known.mean(axis=others), known.var(axis=others)


def _divergence(values: Array, mean: Array, variance: Array) -> float:
    """Of normal distributions, KL(found || stored) in nats: the median over the channels."""
    found, spread = _moments(values)
    stored = np.maximum(variance.astype(np.float64), _TINY)
    ratio = (spread + _TINY) / stored
    return float(np.median(0.5 * (ratio + np.square(found - mean) / stored - 1 - np.log(ratio))))
