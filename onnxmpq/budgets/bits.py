"""4bit-avg, 4.5bit-avg: the mean stored bits over the weights of all layers."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmpq.budgets.kind import Form, Kind, Known, Use
from onnxmpq.values.group import Unit


def _use(layers: Sequence[Unit], _known: Known) -> Use:
    params = sum(layer.params for layer in layers)
    return lambda layer, option: layer.params / params * option.stored_bits


def _words(reached: float, _limit: float) -> str:
    return f"{reached:.3f} bits"


BITS = Kind(
    name="average weight bits",
    forms=(Form("{}bit-avg", float),),
    examples=("4bit-avg",),
    misspelt=(
        (r"#-?b(its?)?(-?(avg|average|mean))?", "{number}bit-avg"),
        (r"(avg|average|mean)[-=:]?#-?(b(its?)?)?", "{number}bit-avg"),
        (r"(u?int|w)(?P<number>[1-8])", "{number}bit-avg"),
    ),
    use=_use,
    words=_words,
)
