"""What tests of the stages of a compile start from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxmpq.activations import stage as activations
from onnxmpq.budgets.budget import Budget
from onnxmpq.calibrate.calibrators import CALIBRATORS
from onnxmpq.calibrate.stage import calibrate
from onnxmpq.context.setting import Loaded
from onnxmpq.load.stage import load
from onnxmpq.lower.draft import Lowering
from onnxmpq.metrics import latency
from onnxmpq.normalize.stage import prepare_model
from onnxmpq.observer import Observer, Stages
from onnxmpq.place.stage import place
from onnxmpq.request import Constraints, Quantizers, Request, Run, Search, Sources, default_output
from onnxmpq.rounding.stage import round_weights
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.testing import classifier, labelled
from onnxmpq.values.effort import EFFORTS
from onnxmpq.values.target import find_target


def pytest_configure() -> None:
    """Each worker of `pytest -n` has a core of its own: sessions of one process that share cores with another's wait."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:  # private: only tests do not wait
    """Latencies that nobody reads need no pauses and no turns of runs."""
    monkeypatch.setattr(latency, "_PAUSE", 0.0)
    monkeypatch.setattr(latency, "_WARM", 0.0)
    monkeypatch.setattr(latency, "_TURN", 0.0)


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of a test hangs on how fast its layers are at that moment."""
    monkeypatch.setattr(activations, "is_timed", lambda _setting: False)


@pytest.fixture
def asked() -> Callable[..., Request]:
    """A request with the plainest answer to every question; changes may say otherwise."""
    plain = {
        "budgets": (Budget.parse("6bit-avg"),), "keeps": (), "target": find_target("ort-cpu"), "widths": (4, 8),
        "activations": "fp32", "calibrator": CALIBRATORS["mean_minmax_3sigma"], "rounding": "nearest", "method": METHODS["size"],
        "effort": EFFORTS["fast"], "metric": None, "outputs": {}, "provider": "cpu", "seed": 0, "verify": False, "force": False,
    }  # fmt: skip

    def ask(**changes: Any) -> Request:
        answers = {**plain, **changes}

        def of(kind: Any) -> Any:
            return kind(**{f.name: answers.pop(f.name) for f in fields(kind) if f.name in answers})

        groups = {
            "constraints": of(Constraints),
            "quantizers": of(Quantizers),
            "search": of(Search),
            "run": of(Run),
        }
        return Request(**groups, **answers)

    return ask


@pytest.fixture
def load_classifier(tmp_path: Path, asked: Callable[..., Request]) -> Callable[..., Loaded]:
    """Loads a small classifier and its data under a request with these changes."""
    model, data = tmp_path / "classifier.onnx", labelled(classifier())
    onnx.save(classifier(), model)
    sources = Sources(
        model=model, output=default_output(model), data=data, evaluation=data, training=None, preprocess=None,
        shapes={}, samples=16,
    )  # fmt: skip

    def loaded(**changes: Any) -> Loaded:
        return load(sources, asked(force=True, **changes), Stages(Observer()))

    return loaded


@pytest.fixture
def lower_classifier(load_classifier: Callable[..., Loaded]) -> Callable[..., Lowering]:
    """Brings the classifier as far as its weights are rounded."""

    def rounded(**changes: Any) -> Lowering:
        loaded = load_classifier(**changes)
        return round_weights(calibrate(loaded, place(loaded, prepare_model(loaded))))

    return rounded


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was not tested where ../shared is not beside the checkout."""
    skipped = [report.longrepr for report in terminalreporter.getreports("skipped")]
    count = sum("../shared" in str(found) for found in skipped)
    if count:
        terminalreporter.write_line(
            f"left out: {count} tests that need ../shared (one that runs over each of its networks counts once)"
        )
