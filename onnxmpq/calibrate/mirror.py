"""mirror: calibration images the other way round, too, where the network sees the same in them.

Rounding and requantizing learn from windows, and mirror images are more of them: what is learned holds better on others. A
network that was trained on images either way round, as most are, gives nearly the same output for both. One that reads
text or signs, or that says where things are, does not, and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import turned
from onnxmpq.metrics.metric import Metric, Sums
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array

_ALIKE = 0.1  # of the distance to another sample: networks for CIFAR and ImageNet 0.006 to 0.05, upside down 0.16 to 0.35
_SAMPLES, _BATCH = 64, 16
_FEWEST = 4  # comparisons that tell anything

Outputs = Mapping[str, Array]


def sees_the_same(
    session: Session, metric: Metric, data: Dataset, axis: int, batch_size: int, seed: int
) -> bool:
    """True where mirror images' outputs are nearly those of the images, as far as images differ.

    Each batch but the first is held against its mirror image and against the batch before.
    """
    size = data.source.step or max(1, min(batch_size, _BATCH, data.count // 2))
    mirror, other, compared = np.zeros(metric.terms), np.zeros(metric.terms), 0
    before: Outputs | None = None
    for batch in data.some(max(_SAMPLES, 2 * size), seed).batches(size):
        expected = session.run(batch.feeds)
        if before is not None and _shapes(before) == _shapes(expected):
            mirror += _distance(metric, expected, session.run(turned(batch.feeds, axis)))
            other += _distance(metric, expected, before)
            compared += batch.count
        before = expected
    return compared >= _FEWEST and bool(mirror.any()) and bool((mirror < _ALIKE * other).all())


def _distance(metric: Metric, expected: Outputs, found: Outputs) -> Sums:
    same = _shapes(expected) == _shapes(found)
    return metric.distance(expected, found) if same else np.full(metric.terms, np.inf)


def _shapes(outputs: Outputs) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(values) for name, values in outputs.items()}
