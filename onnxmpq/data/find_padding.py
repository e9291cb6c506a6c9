"""The input that tells which positions of samples are padding, where a model of sequences has one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmpq.data import Dataset
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array
from onnxmpq.values.padding import Padding

_SAMPLES = 16
_RANK = 2  # [N, positions]


def find_padding(inputs: Sequence[InputSpec], data: Dataset, seed: int) -> Padding | None:
    """The first input [N, positions] that is called a mask and holds ones and zeros, some of them padding in these samples.

    Zeros are padding; ones are where the name says so, as PyTorch's `key_padding_mask` does.
    """
    named = [spec.name for spec in inputs if "mask" in spec.name.lower() and len(spec.shape) == _RANK]
    if not named:
        return None
    feeds = [batch.feeds for batch in data.some(_SAMPLES, seed).batches(1)]
    for name in named:
        padding = Padding(name, int("padding" in name.lower()))
        values = [feed[name] for feed in feeds if name in feed]
        if all(map(_is_mask, values)) and any((value == padding.padded).any() for value in values):
            return padding
    return None


def _is_mask(values: Array) -> bool:
    return bool(values.ndim == _RANK and np.isin(values, (0, 1)).all())
