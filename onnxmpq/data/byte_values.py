"""Samples of 0 to 255 where a network may have been trained on 0..1 or -1..1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import Feeds
from onnxmpq.errors import EngineError
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array

_LOOKED_AT = 4  # samples
_BRIGHT, _LARGEST = 100, 255
_LOST = 0.1  # of how much outputs differ between samples: less is left where a network scales bytes itself


def remark(session: Session, data: Dataset) -> str | None:
    """A line where float inputs get bytes and the network seems not to scale them itself, else None.

    One that does (by constants of its own, or by small weights) hardly tells samples apart at a 255th of their values; for
    one that was trained on such small values these are as good.
    """
    feeds = [batch.feeds for batch in islice(data.batches(1), _LOOKED_AT)]
    names = [name for name in feeds[0] if all(_are_bytes(f[name]) for f in feeds)]
    if not names or data.synthetic or _scales_itself(session, feeds, names):
        return None
    return (
        f"input {', '.join(map(repr, names))} gets values from 0 to 255, as uint8 images hold them, and the network does not "
        "seem to scale them itself: if it was trained on 0..1 or -1..1, scale them as then (--preprocess scale=1/255 for "
        "images, else before they are saved)"
    )


def _are_bytes(values: Array) -> bool:
    """True for floats of an image or of whole numbers, whose range is that of bytes."""
    if values.dtype.kind != "f" or values.ndim < 2 or not 0 <= values.min() <= values.max() <= _LARGEST:
        return False
    return bool(values.max() >= _BRIGHT and (values.ndim == 4 or (values == np.rint(values)).all()))


def _scales_itself(session: Session, feeds: Sequence[Feeds], names: Sequence[str]) -> bool:
    small = [{n: (v / v.dtype.type(_LARGEST) if n in names else v) for n, v in f.items()} for f in feeds]
    try:
        as_given, scaled = (_difference([session.run(f) for f in some]) for some in (feeds, small))
    except EngineError:
        return False
    return scaled < _LOST * as_given


def _difference(runs: Sequence[Feeds]) -> float:
    """How much the outputs differ between samples, as a share of their size; the most of any output."""
    shares = [0.0]
    for name, first in runs[0].items():
        values = [run[name] for run in runs]
        if getattr(first, "dtype", np.dtype(object)).kind != "f" or len({v.shape for v in values}) > 1:
            continue
        stacked = np.stack(values).astype(np.float64)
        size = np.sqrt(np.square(stacked).mean()) if stacked.size else 0.0
        shares.append(
            float(np.sqrt(stacked.var(axis=0).mean()) / size) if np.isfinite(size) and size else 0.0
        )
    return max(shares)
