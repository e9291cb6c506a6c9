"""What blocks of input channels cost: one layer rounded against its whole matrix of second moments, and in blocks.

python benchmarks/blocks.py [--samples 256] [--output docs/blocks_table.md]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from machine import ROOT, SHARED, header, table
from networks import Network, calibration, networks, open_samples
from onnx import helper, numpy_helper

from onnxmpq.context.prepared import Prepared
from onnxmpq.data import Dataset
from onnxmpq.normalize.prepare import prepare
from onnxmpq.rounding import rows as blocks
from onnxmpq.rounding.compensate import compensate
from onnxmpq.rounding.moments import Moments, input_moments
from onnxmpq.rounding.quantizer import quantize
from onnxmpq.rounding.rows import to_rows
from onnxmpq.rounding.shrink import shrunk
from onnxmpq.rounding.squant import quantize_balanced
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Doubles, Floats
from onnxmpq.values.layer import Layer

_BITS = (2, 3, 4)
_BLOCKS = (1, 2, 4, 8, 16, 32)
_NAMES = ("resnet20", "mobilenetv2", "squeezenet")
_WIDENED = "squeezenet"  # no network there has a layer of more than 4,096 columns
_WIDE = "wide"
_COLUMNS = ["layer", "columns", "bits", "nearest", "sums kept (SQuant)", *(f"{n} blocks" for n in _BLOCKS)]
_NOTES = (
    "Squared error of a layer's output in % of its variance (the bias takes up the mean), on {half} calibration images "
    "that the rounding did not see; it saw {half} others. The layer is the last of each "
    "network's convolutions with most columns; `wide` is a convolution of 3 x 3 Gaussian weights put on the map that SqueezeNet's "
    "last convolution reads (512 channels), which a compile gives 2 blocks. One block is the whole matrix, which layers of up to 4,096 columns get; 4,608 columns "
    "(3 x 3 x 512) are in 2 blocks, 9,216 in 6, 25,088 in 38. Before there were blocks, wider layers kept sums."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "blocks_table.md")
    args = parser.parse_args()
    rows = []
    for network in networks(_NAMES if SHARED.is_dir() else ()):
        rows += measure(network, args.samples)
    for row in rows:
        print(*row, sep="  ")
    text = f"# Blocks of input channels\n\n{_NOTES.format(half=args.samples // 2)}\n\n{header()}\n\n{table(_COLUMNS, rows)}"
    args.output.write_text(text, encoding="utf-8")


def measure(network: Network, samples: int) -> list[list[str]]:
    """A row of the table for each width."""
    runtime = Runtime("cpu")
    with tempfile.TemporaryDirectory() as folder:
        data = open_samples(network, calibration(network, Path(folder)), samples)
        seen, other = data.split(0.5, 0)
        sample = next(data.batches(1)).feeds
        model = onnx.load(network.model)
        if network.name == _WIDENED:
            model = widened(model)
        prepared = prepare(runtime, model, sample, integer=False, batchable=True)
        layer = widest(prepared)
        with in_blocks(layer, 1):
            judged = moments(runtime, prepared, layer, other).centred().gram
        grams = []
        for count in _BLOCKS:
            with in_blocks(layer, count):
                found = moments(runtime, prepared, layer, seen)
                grams.append(shrunk(found.centred()))
    weight = weight_of(prepared, layer)
    return [row(f"{network.name} {layer.name}", layer, weight, judged, grams, bits) for bits in _BITS]


def row(
    name: str, layer: Layer, weight: Floats, judged: Doubles, grams: Sequence[Doubles], bits: int
) -> list[str]:
    lost = [
        quantize(weight, layer.axis, bits).dequantize(),
        quantize_balanced(weight, layer.axis, bits).dequantize(),
    ]
    for count, gram in zip(_BLOCKS, grams, strict=True):
        with in_blocks(layer, count):
            lost.append(compensate(weight, layer, gram, [bits])[bits].dequantize())
    with in_blocks(layer, 1):
        total = energy(to_rows(weight, layer), judged)
        errors = [100 * energy(to_rows(weight - rounded, layer), judged) / total for rounded in lost]
    return [name, str(blocks.columns(layer)), str(bits), *(f"{error:.3g}" for error in errors)]


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a 3 x 3 convolution more, to 64 channels, on what its last convolution reads."""
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    channels = next(i.dims[1] for i in model.graph.initializer if i.name == last.input[1])
    weight = np.random.default_rng(0).standard_normal((64, channels, 3, 3)).astype(np.float32)
    constants = {f"{_WIDE}.weight": weight, f"{_WIDE}.bias": np.zeros(64, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    reads = [last.input[0], *constants]
    model.graph.node.append(helper.make_node("Conv", reads, [_WIDE], name=_WIDE, pads=[1, 1, 1, 1]))
    model.graph.output.append(helper.make_tensor_value_info(_WIDE, onnx.TensorProto.FLOAT, None))
    return model


@contextmanager
def in_blocks(layer: Layer, count: int) -> Iterator[None]:
    """Another bound, under which the layer is in so many blocks."""
    size = blocks.columns(layer)
    bound = size if count == 1 else math.ceil(math.sqrt(size * size / count))
    with (
        mock.patch.object(blocks, "LARGEST", bound),
        mock.patch("onnxmpq.rounding.moments.LARGEST", bound),
    ):
        yield


def widest(prepared: Prepared) -> Layer:
    """The convolution of most columns, the last of several."""
    found = [la for la in prepared.layers if la.op == "Conv" and la.group == 1 and la.bias is not None]
    return max(reversed(found), key=blocks.columns)


def moments(runtime: Runtime, prepared: Prepared, layer: Layer, data: Dataset) -> Moments:
    found = input_moments(runtime, prepared.model, [layer], data, prepared.batch_size, lambda _a, _b: None)
    return next(found)[1]


def weight_of(prepared: Prepared, layer: Layer) -> Floats:
    value: Floats = numpy_helper.to_array(
        next(i for i in prepared.model.graph.initializer if i.name == layer.weight)
    )
    return value


def energy(rows: Floats, gram: Doubles) -> float:
    return float(np.einsum("grd,gde,gre->", rows, gram, rows, optimize=True))


if __name__ == "__main__":
    main()
