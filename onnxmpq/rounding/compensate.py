"""Rounding a layer against what it sees: scales, codes and bias that disturb its output least.

Each channel is rounded by GPTQ at a few scales around that of least squared error, the best one is kept, and
coordinate descent over codes and scales takes it further. Where the layer has a bias, the bias takes up the
mean of the error (Nagel et al. 2019, arXiv 1906.04721, section 4.2) and the moments are centred. Rows that share
a scale (of a ConvTranspose, or of several blocks of input channels) are tried and fitted together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from onnxmpq.rounding.coordinate_descent import coordinate_descent
from onnxmpq.rounding.gptq import Curvature, curvature, gptq
from onnxmpq.rounding.moments import Moments
from onnxmpq.rounding.quantizer import Nearest, fit_scale, kinds_of_codes, nearest_codes
from onnxmpq.rounding.rows import Columns, Stack, channel_scales, from_rows, pooled, row_scales, taps, to_rows
from onnxmpq.values.arrays import Doubles, Floats
from onnxmpq.values.layer import Layer
from onnxmpq.values.quantized_weight import EVERY_GRID, Grids, QuantizedWeight, code_range

# Of the scale of least squared error, which few codes want wider than that. 1 comes first, so that it wins where
# nothing tells them apart. Thrice as many would take 1 % off the error.
_TRIALS = np.array([1, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.4], np.float32)
_STACK_BYTES = 16 << 20  # of rows that are rounded at once


def compensate(
    weight: Floats, layer: Layer, gram: Doubles, widths: Sequence[int], grids: Grids = EVERY_GRID
) -> Mapping[int, QuantizedWeight]:
    """`weight` (float32, the layer's shape) rounded at each width in 2 to 8 to disturb the layer's output least.

    `gram` [group * blocks, D_b, D_b] are the second moments of the layer's inputs (`onnxmpq.rounding.moments`), centred
    where a bias takes up the mean. `grids` are what the file may hold: two bits take the better one.
    """
    if not widths:
        return {}
    # BLAS adds up in another order on more threads: other bits, other codes.
    with threadpool_limits(limits=1):
        curved = curvature(gram)
        found = _on_grid(weight, layer, curved, widths, grids, odd=False)
        kinds = kinds_of_codes(weight, layer.axis, 2, grids) if 2 in widths else []
        if True in kinds:
            odd = _on_grid(weight, layer, curved, [2], grids, odd=True)[2]
            tried = [found[2], odd] if False in kinds else [odd]
            found[2] = min(tried, key=lambda some: _cost(weight, some, layer, curved))
    return found


def _cost(weight: Floats, rounded: QuantizedWeight, layer: Layer, curved: Curvature) -> float:
    return curved.cost(curved.ordered(to_rows(weight - rounded.dequantize(), layer)))


def _on_grid(
    weight: Floats, layer: Layer, curved: Curvature, widths: Sequence[int], grids: Grids, *, odd: bool
) -> dict[int, QuantizedWeight]:
    """The weight at each width, of codes that are all odd or of all codes."""
    fitted = [fit_scale(weight, layer.axis, bits, negative=grids.negative, odd=odd) for bits in widths]
    scales = np.stack([row_scales(scale, layer) for scale in fitted], axis=1)
    bounds = np.array([code_range(bits, odd=odd) for bits in widths], np.float32)
    columns = curved.ordered(to_rows(weight, layer))
    parts = [
        _rounded(columns[:, :, some], scales[:, :, some], bounds, curved, layer, odd=odd)
        for some in _portions(layer, columns, len(widths) * len(_TRIALS))
    ]
    codes, steps = (np.concatenate(found, axis=-1) for found in zip(*parts, strict=True))
    return {
        bits: QuantizedWeight(
            from_rows(curved.restored(codes[:, :, i]), layer).astype(np.int8),
            channel_scales(steps[:, i], layer),
            layer.axis,
            bits,
            odd,
        )
        for i, bits in enumerate(widths)
    }


def bias_shift(weight: Floats, rounded: Floats, layer: Layer, moments: Moments) -> Floats:
    """What a layer's bias must gain so that its mean output stays: (w - w') E[x], float32 [channels]."""
    lost = to_rows(weight - rounded, layer) @ moments.mean[:, :, None]
    total: Floats = lost.reshape(layer.group, -1, lost.shape[1]).sum(axis=1).reshape(-1).astype(np.float32)
    return total


def _portions(layer: Layer, columns: Columns, versions: int) -> Iterator[slice]:
    """Slices of the rows, all rows that share a scale in one, that stay in the cache when they are stacked."""
    channel = columns[:, :, : taps(layer)].nbytes * versions
    size = max(1, _STACK_BYTES // channel) * taps(layer)
    return (slice(start, start + size) for start in range(0, columns.shape[2], size))


def _rounded(
    columns: Columns, scales: Stack, bounds: Stack, curved: Curvature, layer: Layer, *, odd: bool
) -> tuple[Columns, Stack]:
    """Codes [group, D, widths, rows] and scales [group, widths, rows] of columns [group, D, rows], blocks as groups."""
    group, size, count = columns.shape
    widths = scales.shape[1]

    def nearest_of(versions: int) -> Nearest:
        """What gives the columns, once for every version, their codes."""
        low, high = np.ascontiguousarray(bounds.repeat(versions // widths * count, axis=0).T)
        return nearest_codes(low, high, odd=odd)

    def pool(values: Stack) -> Stack:
        weighted = values.reshape(group, -1, count) * curved.energy[:, None, None]
        return pooled(weighted, layer).reshape(values.shape)

    by_trial = (widths, len(_TRIALS), count)
    tried = scales[:, :, None, :] * _TRIALS[:, None]
    versions = widths * len(_TRIALS)
    codes, cost = gptq(np.tile(columns, versions), tried.reshape(group, -1), nearest_of(versions), curved)
    best = pool(cost).reshape(group, *by_trial).argmin(axis=2, keepdims=True)
    chosen = np.take_along_axis(codes.reshape(group, size, *by_trial), best[:, None], 3)
    steps = np.take_along_axis(tried, best, 2)
    codes, steps = coordinate_descent(
        columns, chosen.reshape(group, size, -1), steps.reshape(group, -1), nearest_of(widths), curved, pool
    )
    return codes.reshape(group, size, widths, count), steps.reshape(group, widths, count)
