"""What gradients cost: a forward and a backward run, and the whole fisher score, in plain forward runs.

python benchmarks/gradients.py [--models resnet56 ...] [--batch 64] [--rounds 7] [--output docs/gradients_table.md]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from machine import ROOT, header, table
from networks import Network, calibration, networks, open_samples

from onnxmpq.context.prepared import Prepared
from onnxmpq.data import Dataset
from onnxmpq.normalize.prepare import prepare
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.passes.expose.emit_directional import layer_outputs
from onnxmpq.passes.expose.emit_gradients import EmitGradients
from onnxmpq.passes.expose.emit_loss import LOSS, EmitLoss, Loss, target_name
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import common_shapes, trace
from onnxmpq.sensitivity.methods.fisher import fisher
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.arrays import Array
from onnxmpq.values.option import Option
from onnxmpq.values.score import OutputKind

_BITS = (2, 3, 4, 5, 6, 8)
_REST = 0.2  # seconds
_SAMPLES = 128  # of the fisher score, as in a compile
_COLUMNS = [
    "model", "threads", "layers", "forward ms", "forward + backward ms", "in forward runs", "fisher, 6 widths ms",
    "in forward runs",
]  # fmt: skip
_NOTES = (
    "Forward: the fp32 model, prepared (BatchNorm folded), batches of {batch}. Forward + backward: the same with cross-entropy and the "
    "gradients of every layer's output as graph outputs. Fisher: the session time and all else of the score of "
    "{samples} samples, every layer at 6 widths, weights rounded to nearest beforehand, against forward runs over the same samples in "
    "batches of {batch}. Medians of {rounds} rounds that take turns in one process, each after a rest."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "gradients_table.md")
    args = parser.parse_args()
    rows = []
    for network in networks(args.models):
        for threads in args.threads:
            rows.append(measure(network, Runtime("cpu", threads), args.batch, args.rounds))
            print(*rows[-1], sep="  ", flush=True)
    notes = _NOTES.format(batch=args.batch, samples=_SAMPLES, rounds=args.rounds)
    text = f"# Gradients\n\n{notes}\n\n{header()}\n\n{table(_COLUMNS, rows)}"
    args.output.write_text(text, encoding="utf-8")


def measure(network: Network, runtime: Runtime, batch: int, rounds: int) -> list[str]:
    model = onnx.load(network.model)
    with tempfile.TemporaryDirectory() as folder:
        data = open_samples(network, calibration(network, Path(folder)), samples=_SAMPLES)
        batches = [b.feeds for b in data.batches(batch)]
        prepared = prepare(runtime, model, next(data.batches(1)).feeds, integer=False, batchable=True)
        probe = probe_of(prepared, runtime, data)
        plain = runtime.session(prepared.model)
        backward = runtime.session(differentiated(runtime, prepared, batches[0]))
        output = prepared.model.graph.output[0].name
        labels = {target_name(output): np.zeros(batch, np.int64)}
        forward, both, score = interleaved(
            [
                lambda: plain.run(batches[0]),
                lambda: backward.run({**batches[0], **labels}),
                lambda: fisher(probe),
            ],
            rounds,
        )
    runs = _SAMPLES / batch
    return [
        network.name, str(runtime.threads), str(len(probe.options)), f"{1e3 * forward:.1f}", f"{1e3 * both:.1f}",
        f"{both / forward:.2f}", f"{1e3 * score:.0f}", f"{score / (forward * runs):.2f}",
    ]  # fmt: skip


def probe_of(prepared: Prepared, runtime: Runtime, data: Dataset) -> Probe:
    layers = [layer for layer in prepared.layers if layer.reason is None]
    options = {layer.name: tuple(Option(bits) for bits in _BITS) for layer in layers}
    candidates = Candidates(prepared.model, "nearest")
    for layer in layers:  # rounding is not what is timed
        for bits in _BITS:
            candidates.quantized(layer, bits)
    return Probe(
        prepared.model, prepared.layers, options, candidates.constants, data, prepared.metric, runtime,
        prepared.traced, prepared.batch_size,
    )  # fmt: skip


def differentiated(runtime: Runtime, prepared: Prepared, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with the gradients of the outputs of all layers as additional outputs."""
    graph = import_graph(prepared.model)
    output = prepared.model.graph.output[0].name
    EmitLoss(Loss.CROSS_ENTROPY, {output: OutputKind.LOGITS})(graph)
    outputs = layer_outputs(graph, [layer.weight for layer in prepared.layers if layer.reason is None])
    shapes = common_shapes([prepared.traced, trace(runtime, prepared.model, feeds)])
    EmitGradients(LOSS, outputs, shapes)(graph)
    return export_model(graph, prepared.model)


def interleaved(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each call, the calls taking turns; a first round is not counted.

    Threads of one session go on spinning for a while after a run and would hold up the next session's: each waits.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, found in zip(calls, seconds, strict=True):
            time.sleep(_REST)
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [float(np.median(found[1:])) for found in seconds]


if __name__ == "__main__":
    main()
