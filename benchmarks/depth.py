"""How a compile grows with the depth of a network, and its allocation with layers and options.

    python benchmarks/depth.py [--layers 50 100 200 400] [--samples 256] [--effort fast] [--output docs/depth_table.md]

The networks are chains of small convolutions with shortcuts, of random weights on noise; each is compiled at 4bit-avg in this process,
without its verification. The allocation is of random costs: 12 options a layer, under three budgets.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from machine import ROOT, header, table
from onnx import numpy_helper

import onnxmpq
from onnxmpq.allocate.knapsack import allocate
from onnxmpq.budgets.row import Row
from onnxmpq.values.arrays import Doubles

_CHANNELS, _SIZE = 8, 16
_STAGES = ("calibrate", "round", "sensitivity", "allocate", "activations", "search", "requantize", "write")
_OPTIONS = np.array([2, 3, 4, 5, 6, 8] * 2)
_WIDTHS = np.array([8] * 6 + [32] * 6)
_REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="*", default=[50, 100, 200, 400])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "depth_table.md")
    options = parser.parse_args()
    rows = list(compiled(options.layers, options.samples, options.effort))
    text = (
        f"# Depth\n\n{header()}\n\nSeconds of each stage, {options.samples} samples, `{options.effort}`.\n\n"
    )
    text += table(["layers", *_STAGES, "in all", "a layer", "MB"], rows)
    text += "\nAllocation, the median of three: 12 options a layer, three budgets.\n\n"
    text += table(["layers", "seconds"], [[f"{n:,}", f"{allocated(n):.2f}"] for n in (100, 1000, 2000)])
    options.output.write_text(text, encoding="utf-8")


def compiled(depths: Sequence[int], samples: int, effort: str) -> Iterator[list[str]]:
    """A row for each chain."""
    data = np.random.default_rng(0).standard_normal((samples, 3, _SIZE, _SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for depth in depths:
            path = Path(folder, f"chain{depth}.onnx")
            onnx.save(chain(depth), path)
            report = onnxmpq.compile_model(
                path, "4bit-avg", {"x": data}, samples=samples, effort=effort, verify=False
            )
            seconds = [report.run.seconds.get(stage, 0.0) for stage in _STAGES]
            whole = sum(report.run.seconds.values())
            yield [
                f"{depth}", *(f"{s:.1f}" for s in seconds), f"{whole:.1f}", f"{whole / depth:.3f}", f"{report.run.peak_rss_bytes / 2**20:,.0f}",
            ]  # fmt: skip


def chain(depth: int) -> onnx.ModelProto:
    """So many 3x3 convolutions, a shortcut around every second one, and a classifier."""
    rng, body = np.random.default_rng(0), ""
    values: dict[str, Doubles] = {}
    for i in range(depth):
        inputs = 3 if i == 0 else _CHANNELS
        weight = rng.standard_normal((_CHANNELS, inputs, 3, 3)) * np.sqrt(1 / (9 * inputs))
        values |= {f"w{i}": weight, f"b{i}": 0.1 * rng.standard_normal(_CHANNELS)}
        behind = f"x{i + 1}"
        body += f"c{i} = Conv <pads = [1, 1, 1, 1]> ({f'x{i}' if i else 'x'}, w{i}, b{i}) "
        body += f"r{i} = Relu (c{i}) " if i % 2 and i > 1 else f"{behind} = Relu (c{i}) "
        body += f"{behind} = Add (r{i}, x{i - 1}) " if i % 2 and i > 1 else ""
    values["w"] = 0.3 * rng.standard_normal((_CHANNELS, 10))
    body += f"p = GlobalAveragePool (x{depth}) f = Flatten (p) y = MatMul (f, w)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, {_SIZE}, {_SIZE}] x) => (float[n, 10] y) {{ {body} }}'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()
    )
    return model


def allocated(layers: int) -> float:
    """Seconds of choosing widths under budgets on bits, work and activations, the median of a few."""
    rng = np.random.default_rng(0)
    params = rng.lognormal(9, 1.5, (layers, 1))
    macs = params * rng.lognormal(4, 1.5, (layers, 1))
    costs = rng.lognormal(0, 2, (layers, 1)) * 4.0**-_OPTIONS * rng.lognormal(0, 0.2, (layers, 12))
    uses = {"bits": (params * _OPTIONS, 4 * params), "work": (macs * _OPTIONS * _WIDTHS, 56 * macs), "acts": (macs * _WIDTHS, 20 * macs)}  # fmt: skip
    rows = [
        Row(name, tuple(map(tuple, use.tolist())), float(limit.sum())) for name, (use, limit) in uses.items()
    ]
    table_of_costs = tuple(map(tuple, costs.tolist()))
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        allocate(table_of_costs, rows)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
