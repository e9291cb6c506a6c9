"""25%, 8x: the share of the fp32 weight bytes (codes and scales against 4 bytes a weight)."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmpq.budgets.kind import Form, Kind, Known, Use, percent
from onnxmpq.values.group import Unit
from onnxmpq.values.plan import stored_bytes


def _use(layers: Sequence[Unit], _known: Known) -> Use:
    params = sum(layer.params for layer in layers)
    return lambda layer, option: stored_bytes(layer, option) / (4 * params)


def _words(reached: float, _limit: float) -> str:
    return f"{reached:.2%} of fp32 ({1 / max(reached, 1e-9):.2f}x)"


def _times(number: float) -> float:
    return 1 / number


RATIO = Kind(
    name="share of fp32 weight bytes",
    forms=(Form("{}%", percent), Form("{}x", _times)),
    examples=("25%", "8x"),
    misspelt=(
        (r"#(%|percent)", "{number}%"),
        (r"#(x|times)", "{number}x"),
        (r"(x|1/)#", "{number}x"),
    ),
    use=_use,
    words=_words,
)
