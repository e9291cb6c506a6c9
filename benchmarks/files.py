"""The files whose speed is compared: fp32, onnxruntime's own static int8, and ours."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from networks import Network, calibration, open_samples
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxmpq
from onnxmpq.values.arrays import Array
from onnxmpq.verify.machine import has_vnni

FP32, STATIC = "fp32", "ORT int8"
INT8_BITS = (8, 4, 3)  # averages of our files with int8 activations
_WIDE_CHANNELS, _WIDE_LAYERS = 512, 11


def ours(bits: float, activations: str = "int8") -> str:
    """The name of our file at so many bits on average."""
    return f"{bits:g} bits, {'weights only' if activations == 'fp32' else activations}"


WEIGHT_ONLY = ours(4, "fp32")
LATENCY = (*((bits, "int8") for bits in INT8_BITS), (4, "fp32"))  # the files whose runs are timed
LOADING = tuple(itertools.product((8, 5, 4, 3, 2.5), ("int8", "fp32")))  # and those whose sessions are


def comparable_files(
    network: Network, samples: int, scratch: Path, wanted: Sequence[tuple[float, str]]
) -> dict[str, Path]:
    """Every file of one network by its name, made in `scratch`; `wanted` are averages and activations of ours.

    Sizes of layers choose the widths and weights are rounded to nearest: the speed of a file does not hang on
    which codes it holds.
    """
    files = {FP32: network.model, STATIC: scratch / "static.onnx"}
    write_static(network, samples, scratch, files[STATIC])
    for bits, activations in wanted:
        files[ours(bits, activations)] = file = scratch / f"{bits}-{activations}.onnx"
        onnxmpq.compile_model(
            network.model, [f"{bits}bit-avg"], calibration(network, scratch), output=file, activations=activations,
            preprocess=network.decoding, samples=samples, provider="cpu", verify=False, method="size",
            rounding="nearest",
        )  # fmt: skip
    return files


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Samples one at a time, as onnxruntime's calibration asks for them."""

    def __init__(self, network: Network, samples: int, scratch: Path) -> None:
        data = open_samples(network, calibration(network, scratch), samples=samples)
        self._feeds: Iterator[Mapping[str, Array]] = (batch.feeds for batch in data.batches(1))

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._feeds, None)


def write_static(network: Network, samples: int, scratch: Path, target: Path) -> None:
    """onnxruntime's `quantize_static` at its best: preprocessed, QDQ, int8 weights per channel, uint8 activations.

    Weights keep to 7 bits only where the processor would saturate sums of 8-bit products.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Symbolic shapes would need sympy; nodes and constants come out the same without them.
        quant_pre_process(network.model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, _Samples(network, samples, scratch), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=not has_vnni(),
            calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip


def write_wide(target: Path) -> int:
    """A chain of wide 3x3 convolutions over random weights; how many weights it has (about 25 million)."""
    rng = np.random.default_rng(0)
    nodes, constants, value, inputs = [], [], "input", 3
    for layer in range(_WIDE_LAYERS):
        shape = (_WIDE_CHANNELS, inputs, 3, 3)
        weight = rng.standard_normal(shape, np.float32) * np.float32((2 / (9 * inputs)) ** 0.5)
        constants.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes += [
            helper.make_node("Conv", [value, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], f"relu{layer}"),
        ]
        value, inputs = f"r{layer}", _WIDE_CHANNELS
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["output"], "pool"))
    graph = helper.make_graph(
        nodes, "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", _WIDE_CHANNELS, 1, 1])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, target)
    return sum(int(np.prod(c.dims)) for c in constants)
