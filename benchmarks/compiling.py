"""What benchmarks that compile networks share: their command lines, and results line by line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from machine import ROOT

from onnxmpq.data.preprocess import Preprocess

Result = dict[str, Any]


def command_line(
    doc: str | None, name: str, samples: int, judged: int, effort: str
) -> argparse.ArgumentParser:
    """Options with these defaults; results go to docs/NAME_results.jsonl, the table to docs/NAME_table.md."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=[])
    parser.add_argument("--budgets", nargs="*", default=["8bit-avg", "4bit-avg"])
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--judged", type=int, default=judged)
    parser.add_argument("--effort", default=effort)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / f"{name}_results.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / f"{name}_table.md")
    return parser


def one_network(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Options of a benchmark of one network: the model and its data; the table goes to docs/NAME_table.md."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preprocess", type=Preprocess.parse)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / f"{name}_table.md")
    return parser


def record(
    models: Iterable[Path],
    options: argparse.Namespace,
    measured: Callable[[Path, argparse.Namespace], Iterator[Result]],
) -> None:
    """Measure the networks that were asked for, all where none is named; each result is printed and added to the others."""
    for model in models:
        if not options.networks or model.stem in options.networks:
            for result in measured(model, options):
                print(json.dumps(result), flush=True)
                with options.results.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(result) + "\n")


def recorded(path: Path) -> Iterator[Result]:
    """All results so far, the first ones first."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return map(json.loads, lines)
