"""What becomes of every file in ../shared/robustness at 8bit-avg, weight-only and int8: on photographs, or synthetic inputs.

python benchmarks/robustness.py [--output docs/robustness.md] [NAME ...]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from machine import ROOT, SHARED, header, table
from photos import photos

import onnxmpq

_COLUMNS = [
    "model",
    "data",
    "activations",
    "layers",
    "integer",
    "bits",
    "bytes before",
    "bytes after",
    "agreement",
    "SQNR",
    "worst output",
    "outcome",
]


_SAMPLES = 16
_NOTE = (
    f"{_SAMPLES} photographs of ../shared on the levels that each network expects, a fifth of them for the verdict; `--effort fast`; "
    "synthetic inputs where it takes no colour image. \n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "robustness.md")
    options = parser.parse_args()
    folder = SHARED / "robustness"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: nothing to compile")
    models = [m for m in sorted(folder.glob("*.onnx")) if not options.names or m.stem in options.names]
    rows = []
    for model in models:
        for activations in ("fp32", "int8"):
            rows.append(outcome(model, activations))
            print(" | ".join(rows[-1]), flush=True)
    text = f"# Real exports at 8bit-avg\n\n{_NOTE}{header()}\n\n{table(_COLUMNS, rows)}"
    if not options.names:
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


def outcome(model: Path, activations: str) -> list[str]:
    """One row: the figures of a compile, or the error it was refused with."""
    with tempfile.TemporaryDirectory() as away:
        try:
            report = compiled(model, activations, Path(away) / "out.onnx")
        except onnxmpq.OnnxmpqError as error:
            return [model.stem, "-", activations, *["-"] * 8, f"refused: {str(error)[:160]}"]
    score = report.quality.metrics["compiled"]
    quantized = [layer for layer in report.layers if layer.weight_bits <= 8 and layer.params]
    worst = min((o.worst_sqnr for o in score.outputs.values() if o.worst_sqnr is not None), default=None)
    return [
        model.stem,
        "synthetic" if "synthetic" in report.quality.evaluated_on else "photographs",
        activations,
        f"{len(quantized)} of {len(report.layers)}",
        str(sum(layer.kernel is not None for layer in report.layers)),
        f"{report.size.average_weight_bits:.2f}",
        f"{report.size.fp32_file_bytes:,}",
        f"{report.size.file_bytes:,}",
        "-" if score.agreement is None else f"{score.agreement:.0%}",
        "-" if score.sqnr is None else f"{score.sqnr:.1f} dB",
        "-" if worst is None else f"{worst:.1f} dB",
        "compiled" + (", lost its function" if report.quality.is_broken else ""),
    ]


def compiled(model: Path, activations: str, output: Path) -> onnxmpq.Report:
    """The report of a compile, on photographs where the network takes such. Raises OnnxmpqError where it is refused."""
    return onnxmpq.compile_model(
        model,
        ["8bit-avg"],
        photos(model, _SAMPLES),
        activations=activations,
        output=output,
        provider="cpu",
        effort="fast",
    )


if __name__ == "__main__":
    main()
