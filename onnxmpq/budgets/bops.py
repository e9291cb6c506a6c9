"""2.1GBOPs: the sum of MACs x weight bits x activation bits (32 where float) for one sample."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmpq.budgets.kind import Kind, Known, Use, in_units
from onnxmpq.values.group import Unit
from onnxmpq.values.option import FLOAT_BITS, Option

_UNITS = {"kBOPs": 1e3, "MBOPs": 1e6, "GBOPs": 1e9, "TBOPs": 1e12}


def bops(layer: Unit, option: Option) -> float:
    """Bit operations of one sample: MACs x weight bits x activation bits."""
    return float(layer.macs * option.weight_bits * (option.activation_bits or FLOAT_BITS))


def _use(_layers: Sequence[Unit], _known: Known) -> Use:
    return bops


def _words(reached: float, _limit: float) -> str:
    return f"{reached / 1e9:.4g} GBOPs"


def _remark(layers: Sequence[Unit]) -> str | None:
    uncounted = [layer.name for layer in layers if layer.params and not layer.macs]
    if not uncounted:
        return None
    return (
        f"the BOPs leave out {', '.join(uncounted)}: how often control flow runs a layer is not known, nor "
        "how one works that no sample reaches"
    )


BOPS = Kind(
    name="BOPs",
    forms=in_units("{}", _UNITS),
    examples=("2.1GBOPs",),
    misspelt=((r"#(?P<unit>[kmgt])-?b(it)?-?ops?", "{number}{unit}BOPs"),),
    use=_use,
    words=_words,
    remark=_remark,
)
