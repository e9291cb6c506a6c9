"""What a decision is made about: a layer, and how its weight is a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnxmpq.values.option import FLOAT_BITS


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of a weight as rows and columns: an output value is one row times a vector of inputs.

    `axis` is the output-channel axis, which scales run along. `rows` are the axes that tell one output value from
    another, `axis` first, so that rows of one scale are neighbours; `columns` are the axes that it is a sum over, none
    where each weight is an output value by itself. The first axis of the weight falls into `group` parts, each a matrix
    of its own. `taps` is how many neighbouring columns belong to one input channel. `blind` says in words why no second
    moments of the inputs are to be had; such a weight is rounded without data, and only `axis` and `stacked` count.

    `stacked` axes before `axis` have scales of their own as well (the directions of an LSTM); `rows` then names them
    first.
    """

    axis: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    group: int = 1
    taps: int = 1
    blind: str | None = None
    stacked: int = 0

    @property
    def shares_scales(self) -> bool:
        """True where the groups have their scales in common: they do not divide the output channels."""
        return self.axis != 0


def matrix(axis: int, *, blind: str | None = None) -> Layout:
    """A matrix of two axes with its output channels along one of them."""
    return Layout(axis, (axis,), (1 - axis,), blind=blind)


VECTOR = Layout(0, (0,), ())  # of what is no matrix


@dataclass(frozen=True, slots=True)
class Layer:
    """One constant weight of an operator (`onnxmpq.operators`): the unit that gets a width.

    Nodes that share one weight are one layer.
    `layout` says how the weight is a matrix, `macs` the multiply-accumulates of all its nodes for one sample at
    the traced input shape (0 when unknown), `float_bits` what the weight takes when it is left alone (32 or 16),
    and `reason` says why it must be (None for a layer that can be quantized).
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    weight: str
    shape: tuple[int, ...]
    layout: Layout
    macs: int = 0
    positions: tuple[int, ...] = ()  # spatial size of the map that its weight is applied over
    float_bits: int = FLOAT_BITS
    bias: str | None = None  # a constant [channels] that this layer alone adds
    scale_bytes: int = 4  # of a channel's scale in the file; 2 in half precision, then its bias may be too
    direct: bool = False  # its codes of 4 bits are multiplied as they are
    weights_only: bool = False  # its activations stay in floating point whatever is asked
    reason: str | None = None
    former: tuple[str, ...] = ()  # longer names in the given model, of itself and its nodes

    @property
    def axis(self) -> int:
        """The weight's output-channel axis."""
        return self.layout.axis

    @property
    def group(self) -> int:
        """How many groups its channels fall into."""
        return self.layout.group

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        return math.prod(self.shape)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """[channels], or the stacked axes before them as well: there is one scale for each."""
        return self.shape[self.axis - self.layout.stacked : self.axis + 1]

    @property
    def channels(self) -> int:
        """Number of output channels, hence of scales."""
        return math.prod(self.scale_shape)

    @property
    def unstacked(self) -> Layer:
        """The same weight with its stacked axes and its channels as one axis: what rounds it need not know of stacks."""
        if not self.layout.stacked:
            return self
        first, last = self.axis - self.layout.stacked, self.axis + 1
        shape = (*self.shape[:first], self.channels, *self.shape[last:])
        columns = tuple(a if a < first else a - self.layout.stacked for a in self.layout.columns)
        layout = replace(self.layout, axis=first, rows=(first,), columns=columns, stacked=0)
        return replace(self, shape=shape, layout=layout)
