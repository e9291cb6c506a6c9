"""`--seed` reaches every draw: of samples that are looked at, of those held out, of noise and of shuffles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq import compile_model, evaluate_model
from onnxmpq.testing import classifier, labelled


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What random generators are made from, in order; none is made from nothing."""
    seeds: list[Any] = []
    make = np.random.default_rng

    def recorded(seed: Any) -> np.random.Generator:
        seeds.append(seed)
        return make(seed)

    monkeypatch.setattr(np.random, "default_rng", recorded)
    return seeds


@pytest.mark.parametrize(
    "changes",
    [
        {"effort": "balanced"},
        {"data": None},
        {"budgets": ["drop=20%"], "force": True},
        {"method": "fisher"},
        {"method": "first-order"},
        pytest.param({"method": "limpq"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_compile_shares_no_draw_with_one_of_another_seed(
    tmp_path: Path, drawn: list[Any], changes: dict[str, Any]
) -> None:
    model, data = saved(tmp_path), labelled(classifier())
    plain = {"budgets": ["4bit-avg"], "data": data, "effort": "fast", "samples": 40, "verify": False}

    def draws(seed: int) -> set[str]:
        drawn.clear()
        options = {**plain, **changes, "seed": seed, "output": tmp_path / f"{seed}.onnx"}
        compile_model(model, options.pop("budgets"), **options)
        return set(map(str, drawn))

    first = draws(0)
    assert first
    assert first.isdisjoint(draws(70))


def test_an_evaluation_shares_no_draw_with_one_of_another_seed(tmp_path: Path, drawn: list[Any]) -> None:
    model, data = saved(tmp_path), labelled(classifier())

    def draws(seed: int) -> set[str]:
        drawn.clear()
        evaluate_model(model, data, samples=8, seed=seed)
        return set(map(str, drawn))

    first = draws(0)
    assert first
    assert first.isdisjoint(draws(70))


def saved(folder: Path) -> Path:
    onnx.save(classifier(), folder / "classifier.onnx")
    return folder / "classifier.onnx"
