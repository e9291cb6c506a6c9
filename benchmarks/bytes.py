"""What a file really spends, against the bits of its plan.

    python benchmarks/bytes.py [--models resnet56 ...] [--averages 2.5 3 4 5] [--storage packed]
                               [--output docs/bytes_table.md]

Weights are rounded to nearest and allocated by size: what a file spends hangs on the widths alone. Two bounds:

    data    codes, scales and biases   <=  1.03 x (bits x weights / 8 + 4 bytes a channel + 4 bytes a bias)
    rest    nodes, names, everything   <=  1.5 x the fp32 file's (2.5 x with int8 activations) + 8 kB, where the
                                           fp32 file is taken without metadata, doc strings and value_info
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from machine import ROOT, header, table
from networks import Network, calibration, networks

import onnxmpq
from onnxmpq.verify.readback import read_weights

AVERAGES = (2.5, 3.0, 4.0, 5.0)
ACTIVATIONS = ("fp32", "int8")
_NETWORKS = ("resnet56", "mobilenetv2", "squeezenet")
_SAMPLES = 8
_DATA_FACTOR = 1.03
_REST_FACTOR = {"fp32": 1.5, "int8": 2.5}
_REST_SLACK = 8_000
_COLUMNS = [
    "model",
    "average",
    "activations",
    "file bytes",
    "data bytes",
    "of the plan's",
    "rest bytes",
    "of fp32's",
]


@dataclass(frozen=True, slots=True)
class Spending:
    """Bytes of a compiled file, what its plan comes to, and what the fp32 file spends besides its weights."""

    activations: str
    file: int
    data: int  # of all its constants
    planned: float  # codes at the plan's widths, 4 bytes a channel, and the biases
    fp32_rest: int

    @property
    def rest(self) -> int:
        return self.file - self.data

    @property
    def data_holds(self) -> bool:
        return self.data <= _DATA_FACTOR * self.planned

    @property
    def rest_holds(self) -> bool:
        return self.rest <= _REST_FACTOR[self.activations] * self.fp32_rest + _REST_SLACK


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--averages", nargs="+", type=float, default=AVERAGES)
    parser.add_argument("--storage", default=None, help="packed, native or int8")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "bytes_table.md")
    args = parser.parse_args()
    rows = []
    for network in _chosen(args.models):
        for activations in ACTIVATIONS:
            for average in args.averages:
                spending = spend(network, average, activations, args.storage)
                rows.append(_row(network.name, average, spending))
                print(" | ".join(rows[-1]), flush=True)
    text = f"# Bytes\n\n{header()}\n\n```\n{_bounds()}\n```\n\n{table(_COLUMNS, rows)}"
    args.output.write_text(text, encoding="utf-8")


def spend(network: Network, average: float, activations: str, storage: str | None = None) -> Spending:
    """Compile a network to an average of bits and count the bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "compiled.onnx"
        report = onnxmpq.compile_model(
            network.model, [f"{average:g}bit-avg"], calibration(network, Path(folder)), output=written,
            preprocess=network.decoding, activations=activations, storage=storage, samples=_SAMPLES,
            method="size", rounding="nearest", verify=False, force=True,
        )  # fmt: skip
        model = onnx.load(written)
        size = written.stat().st_size
    codes = sum((layer.container_bits or layer.weight_bits) * layer.params for layer in report.layers) / 8
    scales = 4 * sum(len(stored.scale) for stored in read_weights(model).values())
    fp32 = _bare(onnx.load(network.model))
    return Spending(
        activations, size, constant_bytes(model), codes + scales + bias_bytes(model),
        fp32.ByteSize() - constant_bytes(fp32),
    )  # fmt: skip


def constant_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the values of all constants."""
    return sum(
        len(t.raw_data) or 4 * (len(t.float_data) + len(t.int32_data)) for t in model.graph.initializer
    )


def bias_bytes(model: onnx.ModelProto) -> int:
    """Bytes of what layers add, in single precision."""
    channels = {name: len(stored.scale) for name, stored in read_weights(model).items()}
    layers = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm"} and len(node.input) == 3]
    return 4 * sum(channels[node.input[1]] for node in layers)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without metadata, doc strings and value_info."""
    for part in (model, model.graph, *model.graph.node):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    del model.graph.value_info[:]
    return model


def _chosen(names: Sequence[str]) -> list[Network]:
    return [network for network in networks(names) if names or network.name in (*_NETWORKS, "digits")]


def _row(name: str, average: float, found: Spending) -> list[str]:
    data, rest = f"{found.data / found.planned:.4f}", f"{found.rest / found.fp32_rest:.3f}"
    marks = ["" if holds else " MISSED" for holds in (found.data_holds, found.rest_holds)]
    return [
        name, f"{average:g}", found.activations, f"{found.file:,}", f"{found.data:,}", data + marks[0],
        f"{found.rest:,}", rest + marks[1],
    ]  # fmt: skip


def _bounds() -> str:
    return (__doc__ or "").partition("Two bounds:\n\n")[2].rstrip()


if __name__ == "__main__":
    main()
