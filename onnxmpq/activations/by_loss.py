"""Integer layers that cost more in loss than they gain in work: they go back to float.

A quantized tensor that few multiplications read may bring most of what all of them lose (the map before a detector's second
stage: 71 % of the loss for 0.7 % of the work). The whole network tells, with the plan's weights in place, so that next to
coarse weights nothing is spared that nobody would see. A tensor comes in question by the loss of its rounding alone; its
readers go to float, or these and the layers that make it, where the network's loss then falls by more than its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Layers = frozenset[str]

WORTH = 4.0  # the share of the loss must be so many times the share of the work
_SLIGHT = 0.02  # of the loss: less is noise of the samples


@dataclass(frozen=True, slots=True)
class IntegerInput:
    """A quantized tensor that integer layers read; `makers` are the integer layers before it.

    `loss` is the network's with this tensor alone rounded, where its readers see it.
    """

    readers: Layers
    makers: Layers
    loss: float


@dataclass(frozen=True, slots=True)
class Network:
    """The network with some layers in float: its `loss`, and the `work` (0 to 1) that integer kernels still do."""

    loss: Callable[[Layers], float]
    work: Callable[[Layers], float]


def costly(inputs: Sequence[IntegerInput], network: Network) -> Layers:
    """The layers that are better left in float."""
    floats, lost = Layers(), network.loss(Layers())
    for some in sorted(inputs, key=lambda found: -found.loss / max(_share(found.readers, network), _SLIGHT)):
        best, least = floats, lost
        for more in _ways(some, floats):
            price = network.work(floats) - network.work(floats | more)
            most = lost * max(1 - WORTH * price, 0) * (1 - _SLIGHT)
            if some.loss > lost - most and (found := network.loss(floats | more)) < min(most, least):
                best, least = floats | more, found
        floats, lost = best, least
    return floats


def _ways(some: IntegerInput, floats: Layers) -> Iterator[Layers]:
    for more in dict.fromkeys((some.readers - floats, (some.readers | some.makers) - floats)):
        if more:
            yield more


def _share(layers: Layers, network: Network) -> float:
    return network.work(Layers()) - network.work(layers)
