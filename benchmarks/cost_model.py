"""What a search will cost on 1 to 1,000 workers, from one measured layer; checked against 1 and 2 workers here.

    python benchmarks/cost_model.py MODEL DATA [--preprocess TEXT] [--samples 512] [--output docs/cost_model_table.md]

The largest layer that the network has is rounded once, and a batch is run once, on one thread: from these come the seconds of a
product and of a multiply-accumulate. Projected are the network itself, a ResNet-50 with 50,000 images, and transformers of a
billion weights, over a link of 1 GB/s and 2 s for a worker to start.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from compiling import one_network
from machine import commit, header, table

import onnxmpq
from onnxmpq.data import open_data
from onnxmpq.forecast.cost_model import Pace, Search, StageCost, stage_costs
from onnxmpq.normalize.prepare import prepare
from onnxmpq.rounding.candidates import Task, fitted
from onnxmpq.rounding.moments import Moments, has_moments
from onnxmpq.rounding.rows import block_columns, block_count, columns
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.methods.measured import changed_samples
from onnxmpq.values.effort import EFFORTS, FASTEST
from onnxmpq.values.layer import Layer, Layout, matrix
from onnxmpq.values.quantized_weight import EVERY_GRID

_WIDTHS = (2, 3, 4, 5, 6, 7, 8)
_MEASURED_WIDTHS = 2  # of each layer, by the default method
_START, _LINK = 2.0, 1e9
_WORKERS = (1, 10, 100, 1000)
_BLOCKS = (3, 4, 6, 3)  # of a ResNet-50


def main() -> None:
    options = one_network(__doc__, "cost_model").parse_args()
    layers, sample_bytes, run = network(options)
    pace = Pace(run, rounding_pace(layers), _START, _LINK)
    own = search(layers, options.samples, options.model.stat().st_size, sample_bytes)
    text = (
        f"# What a search costs\n\n{header()} Commit {commit()}.\n\nMeasured: {pace.run * 1e12:.1f} ps a multiply-accumulate in a run, "
        f"{pace.rounding * 1e12:.0f} ps a product in rounding, on one thread.\n\n{options.model.stem}, {options.samples} samples, "
        "seconds of the stages as forecast and as they took (`--workers`, `--effort fast`):\n\n"
    )
    text += table(["workers", "stage", "forecast", "took"], list(checked(own, pace, options)))
    for name, case in {
        options.model.stem: own, "ResNet-50, 50,000 images": resnet50(), "1.2 billion weights": transformer(),
    }.items():  # fmt: skip
        text += f"\n## {name}\n\n" + table(
            ["workers", "stage", "forwards of a sample", "seconds", "bytes moved"], list(rows(case, pace))
        )
    print(text)
    options.output.write_text(text, encoding="utf-8")


def network(options: argparse.Namespace) -> tuple[list[Layer], int, float]:
    """A model's layers, a sample's bytes, and the seconds of a multiply-accumulate in a run of one batch on one thread."""
    runtime, model = Runtime("cpu").on_one_thread(), onnx.load(options.model)
    data = open_data(options.data, runtime.session(model).inputs, samples=8, preprocess=options.preprocess)
    batch, one = next(data.batches(8)).feeds, next(data.batches(1)).feeds
    prepared = prepare(runtime, model, one, integer=False, batchable=True)
    session = runtime.session(prepared.model)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        session.run(batch)
        times.append(time.perf_counter() - start)
    count = len(next(iter(batch.values())))
    macs = sum(layer.macs for layer in prepared.layers)
    size = sum(values.nbytes for values in batch.values()) // count
    return list(prepared.layers), size, float(np.median(times)) / (macs * count)


def rounding_pace(layers: Sequence[Layer]) -> float:
    """Seconds of a product, from the layer of the network that takes the most of them, on noise."""
    layer = max(filter(has_moments, layers), key=lambda la: la.params * columns(la))
    rng, size, groups = np.random.default_rng(0), block_columns(layer), layer.group * block_count(layer)
    x = rng.normal(size=(groups, 4 * size, size))
    moments = Moments(np.einsum("gni,gnj->gij", x, x, optimize=True), x.mean(axis=1), 4.0 * size)
    task = Task(
        layer, rng.normal(size=layer.unstacked.shape).astype(np.float32), moments, _WIDTHS, EVERY_GRID
    )
    start = time.perf_counter()
    fitted(task)
    return (time.perf_counter() - start) / (layer.params * columns(layer) * len(_WIDTHS))


def search(layers: Sequence[Layer], samples: int, model_bytes: int, sample_bytes: int) -> Search:
    """What the default method asks of these layers: two widths of each are run."""
    changes = _MEASURED_WIDTHS * len(layers)
    judged = changed_samples(min(EFFORTS[FASTEST].sensitivity, samples), changes)
    widths = {layer.name: _WIDTHS for layer in layers}
    return Search(layers, widths, samples, judged, changes, 8, sample_bytes, model_bytes)


def checked(own: Search, pace: Pace, options: argparse.Namespace) -> Iterator[list[str]]:
    """The forecast beside what compiles with one worker and with two take."""
    for workers in (1, 2):
        moments, rounding, sensitivity = stage_costs(own, pace, workers)
        with tempfile.TemporaryDirectory() as folder:
            report = onnxmpq.compile_model(
                options.model, "4bit-avg", options.data, output=Path(folder) / "out.onnx", activations="int8", effort="fast",
                samples=options.samples, preprocess=options.preprocess, workers=workers, verify=False,
            )  # fmt: skip
        took = report.run.seconds
        fitting = moments.wall(workers, pace) + rounding.wall(workers, pace) - pace.start
        yield [str(workers), "round", f"{fitting:.1f}", f"{took['round']:.1f}"]
        yield [
            str(workers),
            "sensitivity",
            f"{sensitivity.wall(workers, pace) - pace.start:.1f}",
            f"{took['sensitivity']:.1f}",
        ]


def rows(case: Search, pace: Pace) -> Iterator[list[str]]:
    """Each stage with so many workers."""
    for workers in _WORKERS:
        for stage in stage_costs(case, pace, workers):
            yield [str(workers), stage.name, *projected(stage, workers, pace)]


def projected(stage: StageCost, workers: int, pace: Pace) -> list[str]:
    return [
        f"{stage.forwards:,.0f}",
        f"{stage.wall(workers, pace):,.0f}",
        f"{stage.bytes_moved(workers) / 1e6:,.0f} MB",
    ]


def resnet50() -> Search:
    """The layers of a ResNet-50 at 224 x 224 (He et al., arXiv 1512.03385)."""
    layers = [conv("stem", 64, 3, 7, 112)]
    width, size, taken = 64, 56, 64
    for stage, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            name = f"{stage}.{block}"
            layers += [conv(f"{name}.a", width, taken, 1, size), conv(f"{name}.b", width, width, 3, size)]
            layers.append(conv(f"{name}.c", 4 * width, width, 1, size))
            if block == 0:
                layers.append(conv(f"{name}.d", 4 * width, taken, 1, size))
            taken = 4 * width
        width, size = 2 * width, size // 2
    layers.append(linear("fc", 2048, 1000, 1))
    return search(layers, 50_000, 4 * sum(la.params for la in layers), 4 * 3 * 224 * 224)


def transformer() -> Search:
    """24 blocks of width 2048 on 512 samples of 256 tokens."""
    layers = [
        linear(f"{block}.{name}", rows, columns, 256)
        for block in range(24)
        for name, rows, columns in (("q", 2048, 2048), ("k", 2048, 2048), ("v", 2048, 2048), ("o", 2048, 2048), ("up", 2048, 8192), ("down", 8192, 2048))
    ]  # fmt: skip
    return search(layers, 512, 4 * sum(la.params for la in layers), 8 * 256)


def conv(name: str, rows: int, channels: int, kernel: int, size: int) -> Layer:
    layout = Layout(0, (0,), (1, 2, 3), taps=kernel * kernel)
    macs = rows * channels * kernel**2 * size**2
    return Layer(name, "Conv", (name,), name, (rows, channels, kernel, kernel), layout, macs, (size, size))


def linear(name: str, rows: int, columns: int, tokens: int) -> Layer:
    return Layer(
        name, "MatMul", (name,), name, (rows, columns), matrix(1), rows * columns * tokens, (tokens,)
    )


if __name__ == "__main__":
    main()
