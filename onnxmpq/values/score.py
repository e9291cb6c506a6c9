"""What an output holds, and how a model does on data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxmpq.values.output_kind import OutputKind


@dataclass(frozen=True, slots=True)
class OutputScore:
    """How far one output is from the reference's; None where its kind (None: no floats) or the data do not tell.

    `sqnr` in dB over all its elements; `worst` names the channels that have `worst_sqnr`, the least of the groups of
    channels that differ in scale ("" for all of them); `contrast` is the least of them where each channel's mean is
    taken away from both. `before_sigmoid` is the SQNR in dB of the logits of what lies in 0..1. `agreement`: the share
    of rows (or positions) of the same class, else of elements on the same side of 0.5, else, of integers, of equal ones.
    `elsewhere` is the same of those that the reference does not give to its commonest class. `kl` in nats a row; `cosine` is the mean over the rows. `moved` is the share of elements that became NaN or Inf, or
    were and are it no more; `is_silent` where the reference is too near to zero to tell anything. `reshaped` is the share of runs that gave another shape, in
    which only sizes are compared: `resized` is how many times as many elements there are.
    """

    kind: OutputKind | None = None
    sqnr: float | None = None
    worst: str = ""
    worst_sqnr: float | None = None
    contrast: float | None = None
    before_sigmoid: float | None = None
    agreement: float | None = None
    elsewhere: float | None = None
    kl: float | None = None
    cosine: float | None = None
    moved: float = 0.0
    is_silent: bool = False
    reshaped: float = 0.0
    resized: float = 1.0

    @property
    def is_binary(self) -> bool:
        """True for what lies in 0..1, each value by itself."""
        return self.before_sigmoid is not None


@dataclass(frozen=True, slots=True)
class Score:
    """How a model does on `samples` samples; None where the model or the data do not tell.

    `top1` needs labels, `agreement` (share of equal top-1 classes) and `kl` (nats a row) a classifier, `sqnr` (dB, of
    the mean of the float outputs' noise) a reference. Where all outputs are integers, as behind an ArgMax, `agreement`
    is the share of equal elements. `own` is the user's metric. `outputs` says the same output by output.
    """

    samples: int
    top1: float | None = None
    agreement: float | None = None
    kl: float | None = None
    sqnr: float | None = None
    own: float | None = None
    outputs: Mapping[str, OutputScore] = field(default_factory=dict)
