"""The input that tells which positions of samples are padding, where a model of sequences has one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.data import Dataset
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array
from onnxmpq.values.padding import Padding

_SAMPLES = 16
_RANK = 2  # [N, positions]
_NAMES = frozenset({"attention_mask", "attn_mask", "input_mask", "mask", "token_mask"})
_EITHER = "padding_mask"  # PyTorch's has ones at padding, others' have zeros
_ELSE = "decoder"  # outputs are then at positions of its own


def find_padding(inputs: Sequence[InputSpec], data: Dataset, seed: int) -> Padding | None:
    """The first input [N, positions] that is called a mask and is one: ones at one end of each sample, zeros at the other.

    Zeros are padding; where the name leaves that open, the end that is never padded tells. None where nothing is padded
    in these samples, for synthetic ones, and for models with a decoder beside the encoder that has the mask.
    """
    named = [spec.name for spec in inputs if len(spec.shape) == _RANK and _is_called_mask(spec.name)]
    if not named or data.synthetic or any(_ELSE in spec.name.lower() for spec in inputs):
        return None
    feeds = [batch.feeds for batch in data.some(_SAMPLES, seed).batches(1)]
    for name in named:
        values = [feed[name] for feed in feeds if name in feed]
        padded = _padded(name, values) if values and all(map(_is_mask, values)) else None
        if padded is not None and any((value == padded).any() for value in values):
            return Padding(name, padded)
    return None


def _is_called_mask(name: str) -> bool:
    return name.lower() in _NAMES or name.lower().endswith(_EITHER)


def _is_mask(values: Array) -> bool:
    """True for rows of ones and zeros that change once at most."""
    if values.ndim != _RANK or not np.isin(values, (0, 1)).all():
        return False
    changes: NDArray[np.bool_] = values[:, 1:] != values[:, :-1]
    return bool((changes.sum(axis=1) <= 1).all())


def _padded(name: str, values: Sequence[Array]) -> int | None:
    """Which of both stands for padding: not what one end of all samples has where the other end varies."""
    first, last = ({int(value) for row in values for value in row[:, place]} for place in (0, -1))
    real = first if len(first) < len(last) else last if len(last) < len(first) else set()
    told = None if not real else 1 - real.pop()
    if name.lower().endswith(_EITHER):
        return told
    return 0 if told in (None, 0) else None
