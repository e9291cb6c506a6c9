"""mirror: calibration images the other way round, where the network sees the same in them.

Rounding and settling learn from every window, and twice the images know more of them: what is learned holds better on
others. A network that was trained on mirrored images, as most are, gives nearly the same output; one that reads text or
signs, or that says where things are, does not, and is left alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.data.mirror import mirrored, turned, width_axis
from onnxmpq.engine import Array, Session
from onnxmpq.metrics import Metric, Sums
from onnxmpq.prepare import Prepared
from onnxmpq.stages.load import Loaded
from onnxmpq.stages.shares import Shares

_ALIKE = 0.1  # of the distance to another sample; networks for ImageNet and CIFAR: 0.006 to 0.05, upside down 0.16 to 0.35
_SAMPLES, _BATCH = 64, 16


def with_mirrored(shares: Shares, prepared: Prepared, loaded: Loaded) -> Shares:
    """The shares with mirror images among what is rounded against, if the effort is for it and the network too."""
    data = shares.rounding
    axis = width_axis([np.shape(values) for values in loaded.evidence.sample.values()])
    if not loaded.request.effort.mirrors or data.synthetic or axis is None:
        return shares
    if not sees_the_same(loaded.session, prepared.metric, data, axis):
        return shares
    loaded.stages.note("mirror images look the same to the network: they are calibrated on, too")
    return replace(shares, rounding=mirrored(data, axis))


def sees_the_same(session: Session, metric: Metric, data: Dataset, axis: int) -> bool:
    """True where a mirrored sample's outputs are much nearer to the sample's than those of another sample."""
    mirror, other = np.zeros(len(metric.kinds)), np.zeros(len(metric.kinds))
    before: dict[str, Array] | None = None
    for batch in data.some(_SAMPLES).batches(_BATCH):
        expected = session.run(batch.feeds)
        if before is not None and _shapes(before) == _shapes(expected):
            feeds = {name: turned(values, axis) for name, values in batch.feeds.items()}
            mirror += _distance(metric, expected, session.run(feeds))
            other += _distance(metric, expected, before)
        before = expected
    return bool((mirror < _ALIKE * other).all()) and bool(other.any())


def _distance(metric: Metric, expected: dict[str, Array], found: dict[str, Array]) -> Sums:
    same = _shapes(expected) == _shapes(found)
    return metric.distance(expected, found) if same else np.full(len(metric.kinds), np.inf)


def _shapes(outputs: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(values) for name, values in outputs.items()}
