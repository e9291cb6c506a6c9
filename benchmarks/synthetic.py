"""How near plans and ranges from synthetic data come to those from real images: images of noise on levels that fit, and white noise.

python benchmarks/synthetic.py [--models resnet20 ...] [--samples 16] [--output docs/synthetic_table.md]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from machine import ROOT, header, table
from networks import Network, calibration, networks
from onnx import numpy_helper

import onnxmpq
from onnxmpq.data import DataSource
from onnxmpq.runtime.session import Runtime

COLUMNS = ["model", "data", "ranges apart, octaves", "bits apart", "KL to fp32, nats", "agreement %"]
NOTE = (
    "4 bits on average, int8 activations, `--effort fast`, {samples} samples. Ranges: the mean over the activations of |log2| of "
    "their scale to that from real images; bits: the mean over the layers of the difference to the plan from real images. KL and "
    "agreement on real images that no compile saw.\n"
)


@dataclass(frozen=True)
class Compiled:
    """What one kind of data led to: scales by tensor, bits by layer, and the quality on real images."""

    scales: dict[str, float]
    bits: dict[str, int]
    kl: float
    agreement: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "synthetic_table.md")
    options = parser.parse_args()
    rows = [row for network in networks(options.models) for row in compared(network, options.samples)]
    text = f"# Synthetic data\n\n{NOTE.format(samples=options.samples)}\n{header()}\n\n{table(COLUMNS, rows)}"
    options.output.write_text(text)
    print(text)


def compared(network: Network, samples: int) -> Iterator[list[str]]:
    """A row for each kind of data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = calibration(network, folder)
        kinds = {"real images": images, "synthetic images": None, "white noise": white(network, samples)}
        found = {kind: compiled(network, data, images, samples, folder) for kind, data in kinds.items()}
    real = found["real images"]
    for kind, one in found.items():
        common = [t for t in real.scales if t in one.scales]
        octaves = np.mean([abs(np.log2(one.scales[t] / real.scales[t])) for t in common])
        apart = np.mean([abs(one.bits[layer] - real.bits[layer]) for layer in real.bits])
        yield [
            network.name,
            kind,
            f"{octaves:.2f}",
            f"{apart:.2f}",
            f"{one.kl:.4f}",
            f"{100 * one.agreement:.2f}",
        ]
        print(network.name, kind, f"{octaves:.2f} {apart:.2f} {one.kl:.4f}", flush=True)


def white(network: Network, samples: int) -> DataSource:
    """Standard normal noise in every element."""
    spec = Runtime().session(network.model).inputs[0]
    rng = np.random.default_rng(0)
    return {
        spec.name: rng.standard_normal((samples, *(int(d or 1) for d in spec.shape[1:]))).astype(np.float32)
    }


def compiled(network: Network, data: DataSource | None, images: Path, samples: int, folder: Path) -> Compiled:
    """Compile on such data, alone in a folder so that no sibling of the model is found, and judge on real images."""
    model, output = folder / "model.onnx", folder / "compiled.onnx"
    model.write_bytes(network.model.read_bytes())
    real = data is images
    report = onnxmpq.compile_model(
        model, ["4bit-avg"], data, evaluation=None if real else images, output=output, activations="int8",
        preprocess=network.decoding, samples=samples, effort="fast",
    )  # fmt: skip
    judged = onnxmpq.evaluate_model(
        output, images, reference=model, preprocess=network.decoding, samples=500, seed=7
    )
    kl, agreement = judged.score.kl, judged.score.agreement
    assert kl is not None
    assert agreement is not None
    bits = {layer.name: layer.weight_bits for layer in report.layers}
    return Compiled(scales(onnx.load(output)), bits, kl, agreement)


def scales(model: onnx.ModelProto) -> dict[str, float]:
    """The scale of every activation, by the tensor."""
    constants = {i.name: i for i in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[1] in constants]
    return {n.input[0]: float(numpy_helper.to_array(constants[n.input[1]])) for n in nodes}


if __name__ == "__main__":
    main()
