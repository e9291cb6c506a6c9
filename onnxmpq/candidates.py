"""The weights that would ship: each layer at each width, rounded once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmpq.quantizer import QuantizedWeight
from onnxmpq.rounding import quantize_balanced
from onnxmpq.spec import Layer


class Candidates:
    """Rounded weights by layer and width, made when first asked for; memory is a byte a weight and width."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._initializers: Mapping[str, onnx.TensorProto] = {i.name: i for i in model.graph.initializer}
        self._made: dict[tuple[str, int], QuantizedWeight] = {}

    def original(self, layer: Layer) -> NDArray[Any]:
        """The layer's weight in the graph's own dtype."""
        values: NDArray[Any] = numpy_helper.to_array(self._initializers[layer.weight])
        return values

    def quantized(self, layer: Layer, bits: int) -> QuantizedWeight:
        """The codes and scales of a layer at a width of 1 to 8 bits."""
        key = (layer.name, bits)
        if key not in self._made:
            self._made[key] = quantize_balanced(self.original(layer).astype(np.float32), layer.axis, bits)
        return self._made[key]

    def dequantized(self, layer: Layer, bits: int) -> NDArray[Any]:
        """The weight that the file's codes stand for, in the graph's dtype."""
        dtype = np.float16 if layer.float_bits == 16 else np.float32
        if bits == 16:
            return self.original(layer).astype(np.float16).astype(dtype)
        if bits > 8:
            return self.original(layer)
        return self.quantized(layer, bits).dequantize().astype(dtype)
