"""A model that is ready to be quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxmpq.metrics.metric import Metric
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer


@dataclass(frozen=True)
class Prepared:
    """A model ready to be quantized.

    `original` is what the user gave, as ONNX Runtime runs it; `model` the normalised float graph.
    """

    original: onnx.ModelProto
    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    traced: Mapping[str, Traced]
    sample: Mapping[str, Array]
    metric: Metric
    batch_size: int
