"""What becomes of every file in ../shared/robustness at 8bit-avg, weight-only and int8, on synthetic inputs.

python benchmarks/robustness.py [--output docs/robustness.md] [NAME ...]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from machine import ROOT, SHARED, header, table

import onnxmpq

_COLUMNS = [
    "model",
    "activations",
    "layers",
    "integer",
    "bits",
    "bytes before",
    "bytes after",
    "agreement",
    "SQNR",
    "outcome",
]


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
    text = f"# Real exports at 8bit-avg\n\nSynthetic inputs, seed 0. {header()}\n\n{table(_COLUMNS, rows)}"
    if not options.names:
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


def outcome(model: Path, activations: str) -> list[str]:
    """One row: the figures of a compile, or the error it was refused with."""
    with tempfile.TemporaryDirectory() as away:
        try:
            report = onnxmpq.compile_model(
                model, ["8bit-avg"], activations=activations, output=Path(away) / "out.onnx", provider="cpu"
            )
        except onnxmpq.OnnxmpqError as error:
            return [model.stem, activations, *["-"] * 7, f"refused: {str(error)[:160]}"]
    score = report.quality.metrics["compiled"]
    quantized = [layer for layer in report.layers if layer.weight_bits <= 8 and layer.params]
    return [
        model.stem,
        activations,
        f"{len(quantized)} of {len(report.layers)}",
        str(sum(layer.kernel is not None for layer in report.layers)),
        f"{report.size.average_weight_bits:.2f}",
        f"{report.size.fp32_file_bytes:,}",
        f"{report.size.file_bytes:,}",
        "-" if score.agreement is None else f"{score.agreement:.0%}",
        "-" if score.sqnr is None else f"{score.sqnr:.1f} dB",
        "compiled" + (", lost its function" if report.quality.is_broken else ""),
    ]


if __name__ == "__main__":
    main()
