"""Whether half precision holds the weights that are to be kept in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmpq.errors import OptionError
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.values.layer import Layer

LARGEST_HALF = float(np.finfo(np.float16).max)  # 65,504
_FAIR_DB = 40.0  # 8 bits a weight do as well; half precision reaches 73 dB where no weight is subnormal


def largest_of(weight: NDArray[Any]) -> float:
    """The largest magnitude; beyond LARGEST_HALF half precision cannot hold the weight."""
    return float(np.abs(weight).max(initial=0))


def check_halves(model: onnx.ModelProto, layers: Sequence[Layer]) -> Iterator[str]:
    """What is to be said of float32 `layers` that half precision holds badly, for weights below its normal range.

    Raises OptionError for a layer with a weight beyond 65,504, which half precision cannot hold at all.
    """
    initializers = {i.name: i for i in model.graph.initializer}
    for layer in layers:
        weight = numpy_helper.to_array(initializers[layer.weight])
        largest = largest_of(weight)
        if largest > LARGEST_HALF:
            raise OptionError(
                f"layer {layer.name!r} cannot be kept in fp16: its largest weight is {largest:,.6g}, and half precision "
                f"ends at {LARGEST_HALF:,.0f}; keep it in fp32, or at 8 bits, which are scaled"
            )
        held = signal_to_noise(weight, weight.astype(np.float16).astype(weight.dtype))
        if held < _FAIR_DB:
            yield (
                f"half precision holds layer {layer.name!r} to {held:.0f} dB only: its largest weight is {largest:.3g}, "
                "and below 6e-05 fp16 loses digits; 8 bits, which are scaled, or fp32 hold it better"
            )
