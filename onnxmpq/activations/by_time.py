"""Integer layers that take longer than in float: timed in place, told only where the difference is clear."""

from __future__ import annotations

from onnxmpq.timing.layer_times import LayerTimes

_CLEAR = 0.75  # of the integer kernel's time: what is nearer may be chance
_WORTH = 0.03  # of the file's time


def slower(times: LayerTimes, integer: frozenset[str]) -> frozenset[str]:
    """Those of the `integer` layers whose float kernels are clearly faster, where that is worth the change."""
    found = frozenset(n for n in integer if times.floating[n] < _CLEAR * times.integer[n])
    saved = sum(times.integer[name] - times.floating[name] for name in found)
    return found if saved > _WORTH * times.integer_file else frozenset()
