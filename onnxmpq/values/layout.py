"""How a weight is a matrix: what an output value is a sum over, and which values share a scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of a weight as rows and columns: an output value is one row times a vector of inputs.

    `axis` is the output-channel axis, which scales run along. `rows` are the axes that tell one output value from
    another, `axis` first, so that rows of one scale are neighbours; `columns` are the axes that it is a sum over. The
    first axis of the weight falls into `group` parts, each a matrix of its own. `taps` is how many neighbouring columns
    belong to one input channel. `blind` says in words why no second moments of the inputs are to be had; such a weight
    is rounded without data, and only `axis` counts.
    """

    axis: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    group: int = 1
    taps: int = 1
    blind: str | None = None

    @property
    def shares_scales(self) -> bool:
        """True where the groups have their scales in common: they do not divide the output channels."""
        return self.axis != 0


def matrix(axis: int, *, blind: str | None = None) -> Layout:
    """A matrix of two axes with its output channels along one of them."""
    return Layout(axis, (axis,), (1 - axis,), blind=blind)


VECTOR = Layout(0, (0,), ())  # of what is no matrix
