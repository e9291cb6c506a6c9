"""Integer layers that cost more in loss than they gain in work: they go back to float.

A quantized tensor that few multiplications read may bring most of what all of them lose (the map before a detector's second
stage: 71 % of the loss for 0.7 % of the work). Tensors stand in the order of the loss of their rounding alone to the work of
the layers that read them. That does not add up: errors meet, and a tensor stays rounded where an integer kernel makes it. So
the whole network, the plan's weights in place, tells where to stop in that order, once for the layers that read the tensors
and once for these and the layers that make them. Next to coarse weights nothing is spared that nobody would see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Layers = frozenset[str]

# The loss must fall by this power of e for all of the work: the first under which the network's function does not suffer.
WORTHS = (4.0, 1.0, 0.25)
_SLIGHT = 0.02  # of the loss: less is noise of the samples
_UNSEEN = 0.1  # of the loss from which on the function suffers: nobody sees that much
_LEAST_WORK = 1e-4  # a layer of less counts as that


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
    """The network with some layers in float: its `loss`, and their `share` (0 to 1) of the integer kernels' work.

    From a loss of `much` on, its function suffers; 0 where nobody knows.
    """

    loss: Callable[[Layers], float]
    share: Callable[[Layers], float]
    much: float


def costly(inputs: Sequence[IntegerInput], network: Network) -> Layers:
    """The layers that are better left in float; more of them where the network's function suffers, and not by its weights."""
    lost = {floats: network.loss(floats) for floats in dict.fromkeys(_paths(inputs, network))}
    bearable = max(network.much, 2 * min(lost.values()))  # of which the weights bring half
    found = [_best(lost, network, worth) for worth in WORTHS]
    return next((best for best in found if lost[best] <= bearable), found[-1])


def _paths(inputs: Sequence[IntegerInput], network: Network) -> Iterator[Layers]:
    """No layer in float, then more and more of those at the worst tensors, by steps that grow."""
    yield Layers()
    ordered = sorted(inputs, key=lambda some: -some.loss / max(network.share(some.readers), _LEAST_WORK))
    for count in _counts(len(ordered)):
        worst = ordered[:count]
        readers = Layers().union(*(some.readers for some in worst))
        yield readers
        yield readers.union(*(some.makers for some in worst))


def _counts(most: int) -> Iterator[int]:
    """1, 2, 3, 5, 8, 13, ... and the last."""
    count, step = 1, 1
    while count < most:
        yield count
        count, step = count + step, count
    yield most


def _best(lost: Mapping[Layers, float], network: Network, worth: float) -> Layers:
    def price(floats: Layers) -> float:
        loss = lost[floats] if math.isfinite(lost[floats]) else math.inf
        unseen = _UNSEEN * network.much + math.ulp(0.0)
        return math.log(loss + unseen) + worth * network.share(floats) + _SLIGHT * bool(floats)

    return min(lost, key=price)
