"""Signal-to-noise ratios in dB."""

from __future__ import annotations

import math

import numpy as np

from onnxmpq.values.arrays import Array

_NOISELESS = 1e-30  # of the signal: what counts as noise where there is none


def decibels(noise: float, signal: float) -> float:
    """Of two sums of squares: infinite without noise."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(max(signal, np.finfo(float).tiny) / noise)


def median_of_channels(variances: Array, noise: Array | float) -> float:
    """The median over the channels that vary of their variance to the mean square of their noise; infinite where none varies."""
    varying = variances > variances.max(initial=0.0) * np.finfo(np.float32).eps ** 2
    if not varying.any():
        return math.inf
    signal = variances[varying]
    ratio = signal / np.maximum(np.broadcast_to(noise, variances.shape)[varying], _NOISELESS * signal)
    return float(np.median(10 * np.log10(ratio)))


def signal_to_noise(expected: Array, found: Array, floor: float = 0.0) -> float:
    """Signal-to-noise ratio of `found` in dB: infinite where equal, -inf where dtypes or shapes differ.

    A signal counts as of a root mean square of `floor` at least. Values that are not finite must be the same ones.
    """
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return -math.inf
    if expected.dtype.kind != "f":
        return math.inf if np.array_equal(expected, found) else -math.inf
    finite = np.isfinite(expected)
    if (
        not np.array_equal(expected[~finite], found[~finite], equal_nan=True)
        or not np.isfinite(found[finite]).all()
    ):
        return -math.inf
    signal = expected[finite].astype(np.float64)
    noise = float(np.square(signal - found[finite]).sum())
    return decibels(noise, max(float(np.square(signal).sum()), floor * floor * signal.size))
