"""Networks as their exporters write them: does each compile, is all of it quantized, and is no file slower than fp32?

python benchmarks/exports.py --models FOLDER [--networks repvgg_a0-legacy-17 ...] [--budgets 8bit-avg 4bit-avg] [--samples 16]
                             [--judged 8] [--effort fast] [--results docs/exports_results.jsonl] [--output docs/exports_table.md]

FOLDER holds NETWORK-EXPORTER-OPSET.onnx, as benchmarks/export_timm.py writes them: image classifiers of random weights. Nothing but
the budget, the data and the effort is said to the compiler. Results are added line by line; the table is made of the last of each.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from compiling import Result, command_line, record, recorded
from machine import commit, header, table
from onnx import numpy_helper

import onnxmpq
from onnxmpq.onnx_io.contents import constants
from onnxmpq.values.arrays import Array

_COLUMNS = [
    "network",
    "exporter",
    "opset",
    "budget",
    "file",
    "weight bytes quantized",
    "integer layers",
    "speed",
    "SQNR",
    "of -60 dB",
    "compile",
    "commit",
]
_NOTE = (
    "timm's networks with random weights. File and speed are fp32 over compiled; speed on one thread, one image, by turns, measured apart from the "
    "compiler. Weight bytes are those of constants of floats above 1,000 elements: of the fp32 file, and of them what the compiled "
    "file does not hold in float any more. SQNR is the lowest of the outputs', on images that chose nothing; beside it what fp32 itself has where noise of -60 dB is added to its "
    "images: networks of random weights make the more of errors the deeper they are. Calibrated on {samples} images "
    "at `--effort {effort}`.\n"
)
_SMALL = 1000  # elements: a constant with no more of them is a bias or a parameter of a norm
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_ROUNDS, _TURN = 21, 0.05  # turns of each file, and the seconds of one
_SLOWER = 0.98  # what is below is measured again: other programs may have been in the way
_COARSE = 8  # the images are noise of so many pixels a side, enlarged, with a little finer noise on top
_NOISE = 1e-3  # -60 dB
Key = tuple[str, str]


def main() -> None:
    parser = command_line(__doc__, "exports", 16, 8, "fast")
    options = parser.parse_args()
    models = sorted(options.models.glob("*.onnx"), key=lambda model: model.stat().st_size)
    record(models, options, measured)
    note = _NOTE.format(samples=options.samples, effort=options.effort)
    rows = list(table_rows(read(options.results)))
    options.output.write_text(
        f"# Exports of PyTorch\n\n{note}\n{header()}\n\n{table(_COLUMNS, rows)}", encoding="utf-8"
    )


def measured(model: Path, options: argparse.Namespace) -> Iterator[Result]:
    """What becomes of a network at each budget."""
    some = images(model, options.samples + options.judged)
    data = {name: pixels[: options.samples] for name, pixels in some.items()}
    held_out = {name: pixels[options.samples :] for name, pixels in some.items()}
    for budget in options.budgets:
        told = {"name": model.stem, "budget": budget, "commit": commit()}
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "out.onnx"
            try:
                report = onnxmpq.compile_model(
                    model, budget, data, evaluation=held_out, output=written, effort=options.effort
                )
            except onnxmpq.OnnxmpqError as error:
                yield told | {"refused": str(error)[:300]}
                continue
            seconds = round(time.monotonic() - start)
            yield told | {"seconds": seconds} | figures(model, written, report, held_out)


def figures(model: Path, written: Path, report: onnxmpq.Report, held_out: Mapping[str, Array]) -> Result:
    """A file beside its original, and what the report says of its layers."""
    before, after = session(model), session(written)
    speed = speedup(before, after, held_out)
    speed = speed if speed >= _SLOWER else max(speed, speedup(before, after, held_out))
    integer = sum(layer.kernel is not None for layer in report.layers)
    left = {
        f"{layer.name} ({layer.op})": layer.reason
        for layer in report.layers
        if layer.weight_bits > 8 and layer.params > _SMALL
    }
    return {
        "file_ratio": round(model.stat().st_size / written.stat().st_size, 3),
        "quantized": round(1 - float_bytes(written) / float_bytes(model), 4),
        "integer": integer,
        "layers": len(report.layers),
        "speed": round(speed, 3),
        "sqnr_db": sqnr(outputs(before, held_out), outputs(after, held_out)),
        "noise_db": sqnr(outputs(before, held_out), outputs(before, noisy(held_out))),
        "left": left,
        "notes": list(report.run.notes),
        "broken": report.quality.is_broken,
    }


def session(model: Path) -> ort.InferenceSession:
    """On one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def images(model: Path, count: int) -> dict[str, Array]:
    """Smooth noise, normalised, in the size that the network's one input takes."""
    (taken,) = session(model).get_inputs()
    height, width = taken.shape[-2:]
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(count, 3, _COARSE, _COARSE))
    rows, columns = (np.arange(size) * _COARSE // size for size in (height, width))
    fine = rng.normal(scale=0.3, size=(count, 3, height, width))
    return {taken.name: (coarse[:, :, rows][..., columns] + fine).astype(np.float32)}


def one_by_one(data: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Feeds of one image each."""
    for i in range(len(next(iter(data.values())))):
        yield {name: values[i : i + 1] for name, values in data.items()}


def noisy(data: Mapping[str, Array]) -> dict[str, Array]:
    """The images with noise of a thousandth of their deviation."""
    rng = np.random.default_rng(1)
    return {
        name: x + (_NOISE * x.std() * rng.normal(size=x.shape)).astype(x.dtype) for name, x in data.items()
    }


def outputs(model: ort.InferenceSession, data: Mapping[str, Array]) -> list[Array]:
    """Each output for all images."""
    runs = [model.run(None, feeds) for feeds in one_by_one(data)]
    return [np.concatenate(values) for values in zip(*runs, strict=True)]


def sqnr(before: Sequence[Array], after: Sequence[Array]) -> list[float]:
    """Of each output, in decibels, over all images together."""
    return [round(decibels(one, other), 2) for one, other in zip(before, after, strict=True)]


def decibels(signal: Array, given: Array) -> float:
    power = float(np.square(signal, dtype=np.float64).sum())
    error = float(np.square(given - signal, dtype=np.float64).sum())
    return 10 * math.log10(power / error) if power and error else math.inf


def speedup(before: ort.InferenceSession, after: ort.InferenceSession, data: Mapping[str, Array]) -> float:
    """How many times as fast the second runs one image: the median over turns."""
    feeds = next(one_by_one(data))
    return statistics.median(turn(before, feeds) / turn(after, feeds) for _ in range(_ROUNDS))


def turn(model: ort.InferenceSession, feeds: Mapping[str, Array]) -> float:
    """The least seconds of a run, of those of one turn; the first is not timed."""
    model.run(None, feeds)
    times: list[float] = []
    while not times or sum(times) < _TURN:
        start = time.perf_counter()
        model.run(None, feeds)
        times.append(time.perf_counter() - start)
    return min(times)


def float_bytes(path: Path) -> int:
    """Of all constants of floats that are not small."""
    arrays = [numpy_helper.to_array(t) for t in constants(onnx.load(path)).values() if t.data_type in _FLOATS]
    return sum(array.nbytes for array in arrays if array.size > _SMALL)


def read(path: Path) -> dict[Key, Result]:
    """The last result of each network and budget."""
    return {(result["name"], result["budget"]): result for result in recorded(path)}


def table_rows(known: Mapping[Key, Result]) -> Iterator[list[str]]:
    """A row for each file, networks in alphabetical order."""
    for (name, budget), result in sorted(known.items()):
        place = [*name.rsplit("-", 2), budget]
        if "refused" in result:
            yield [*place, f"refused: {result['refused']}", *["-"] * 6, result["commit"]]
            continue
        yield [
            *place,
            f"{result['file_ratio']:.2f}x",
            f"{result['quantized']:.1%}",
            f"{result['integer']} of {result['layers']}",
            f"{result['speed']:.2f}x",
            f"{min(result['sqnr_db']):.1f} dB",
            f"{min(result['noise_db']):.1f} dB",
            f"{result['seconds']} s",
            result["commit"],
        ]


if __name__ == "__main__":
    main()
