"""benchmarks/methods.py: judgements by the file's digest, what is missing, and ours against the best of the six."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.sensitivity.probe import Probe
from onnxmpq.testing.methods import classifier, labelled, probe_of
from onnxmpq.values.layer import Layer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def judgements(load: Any, path: Path, hits: dict[str, Any]) -> Any:
    module = load("judgements")
    found = module.Judgements(path)
    for digest, values in hits.items():
        found.add(module.Judgement("n", digest, len(values), 0.5, module.packed(values)))
    return found


def point(load: Any, method: str, digest: str, seed: int = 0, **changes: Any) -> Any:
    found = load("points").Point("n", "nearest", method, seed, 3.0, 64, "abc", digest, samples=32)
    return dataclasses.replace(found, **changes)


def test_hits_are_read_as_they_were_packed(load: Any, tmp_path: Path) -> None:
    hits = np.random.default_rng(0).random(1003) < 0.9
    path = tmp_path / "judgements.jsonl"
    judgements(load, path, {"a": hits})
    read = load("judgements").Judgements(path)
    np.testing.assert_array_equal(read["n", "a"].hits, hits)
    assert ("n", "b") not in read
    assert len(path.read_text()) < 1003  # of a file with 10,000 images: some 1 kB


def test_points_are_read_as_they_were_written_the_last_of_each_key(load: Any, tmp_path: Path) -> None:
    module, path = load("points"), tmp_path / "points.jsonl"
    assert module.read(path) == []
    first, second = point(load, "size", "a"), point(load, "size", "b")
    for some in (first, point(load, "ompq", "c"), second):
        module.append(path, some)
    assert module.read(path) == [second, point(load, "ompq", "c")]


def test_the_interval_over_seeds_is_that_of_resampled_images(load: Any) -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-1, -1 / 3, 0, 1 / 3, 1], 400, p=[0.05, 0.1, 0.7, 0.1, 0.05])
    rows = rng.integers(400, size=(20_000, 400))
    wanted = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    assert load("paired").interval(differences) == pytest.approx(wanted, abs=0.003)


def test_ours_stands_against_the_best_of_the_six_over_the_seeds_both_have(load: Any, tmp_path: Path) -> None:
    hits = np.arange(1000) % 10 > 0
    worse, far_worse = hits & (np.arange(1000) % 100 != 1), hits & (np.arange(1000) % 5 > 0)
    known = judgements(
        load, tmp_path / "j.jsonl", {"good": hits, "worse": worse, "bad": far_worse, "fp32": hits}
    )
    points = [
        *(point(load, "measured", digest, seed) for seed, digest in enumerate(["worse", "worse", "bad"])),
        point(load, "measured, searched", "good"),
        *(point(load, "ompq", "good", seed) for seed in (0, 1)),
        point(load, "greedy", "bad"),
        point(load, "fisher", "good"),  # not one of the six
        point(load, "limpq", "", error="no labels"),
    ]
    module = load("methods_report")
    assert module.best_of_six(points, known, 3.0) == "ompq"
    found = module.gains(points, known, 3.0, "measured", "ompq")
    assert found.mean() == pytest.approx(-1.0)  # seed 2 is left out
    text = module.report(points, known, samples=64)
    assert "| measured | **-1.00 (-" in text
    assert "| measured, searched | +0.00 (+0.00 to +0.00) |" in text
    assert "| limpq | - | - | - | - | - | no labels |" in text
    assert "fp32 90.00 on 1,000 images" in text
    assert "frozen order:" not in text
    frozen = module.report([*points, point(load, "greedy, frozen order", "worse")], known, samples=64)
    assert "Greedy search minus its frozen order, mean over the budgets: -9.00 points (-" in frozen
    assert "| ompq | 0, 1 | 90.00 (90.00 to 90.00) | 90.00 |" in text


def test_what_is_missing_is_asked_method_by_method(load: Any) -> None:
    options = argparse.Namespace(
        methods=["size", "ompq"], roundings=["nearest", "compensated"], budgets=[3.0, 4.0], samples=64
    )
    known = {
        ("n", "nearest", "size", 0, 3.0, 64),
        ("n", "nearest", "size", 0, 4.0, 64),
        ("n", "nearest", "ompq", 0, 4.0, 64),
    }
    found = list(load("methods").gaps(known, "n", 0, options))
    assert found == [
        ("compensated", "size", [3.0, 4.0]),
        ("nearest", "ompq", [3.0]),
        ("compensated", "ompq", [3.0, 4.0]),
    ]


def blind_probe() -> Probe:
    def candidate(layer: Layer, bits: int) -> Any:
        raise AssertionError(f"looked at {layer.name} at {bits} bits")

    model = classifier()
    return dataclasses.replace(probe_of(model, labelled(model)), candidate=candidate)


def test_what_is_searched_once_for_both_roundings_never_looks_at_rounded_weights(load: Any) -> None:
    contenders = load("methods").CONTENDERS
    blind = [name for name, contender in contenders.items() if contender.blind]
    assert {"size", "limpq", "ompq, as published"} <= set(blind)
    for name in blind:
        contenders[name].method(blind_probe())


@pytest.fixture
def bench(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A bench on the project's own model."""
    networks = load("networks")
    monkeypatch.setattr(networks, "SHARED", tmp_path / "nowhere")
    (network,) = networks.networks()
    found = load("judgements").Judgements(tmp_path / "judgements.jsonl")
    return load("methods").Bench(network, 0, 64, 16, found)


def test_equal_plans_are_equal_files_and_are_judged_once(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.points("nearest", "size", [3.0, 4.0])
    lines = bench.judge.judgements.path.read_text().splitlines()
    assert len(lines) == 3  # the original, too
    again = type(bench)(bench.network, 1, 64, 16, bench.judge.judgements)
    monkeypatch.setattr(type(bench.judge.held_out), "outputs", None)  # nothing is to be judged any more
    second = again.points("nearest", "size", [3.0, 4.0])
    assert [p.digest for p in second] == [p.digest for p in first]
    assert bench.judge.judgements.path.read_text().splitlines() == lines


def test_a_judgement_is_what_the_file_does(bench: Any, load: Any) -> None:
    (found,) = bench.points("compensated", "measured, searched", [3.0])
    assert found.average_bits <= 3.0
    judged = bench.judge.judgements[bench.network.name, found.digest]
    labels = np.concatenate([batch.labels for batch in bench.judge.held_out.images.batches(50)])
    right = np.concatenate([output.argmax(axis=1) for output in bench.judge.held_out.expected]) == labels
    original = bench.judge.judgements[bench.network.name, load("judgements").FP32]
    np.testing.assert_array_equal(original.hits, right)
    assert original.kl == pytest.approx(0, abs=1e-9)
    assert judged.kl > 0
    assert 0.5 < judged.hits.mean() <= 1


def test_a_dear_search_sees_fewer_images_and_a_blind_one_is_shared(bench: Any) -> None:
    (frozen,) = bench.points("nearest", "greedy, frozen order", [4.0])
    (measured,) = bench.points("nearest", "measured", [4.0])
    assert (frozen.samples, measured.samples) == (16, 32)
    searches = len(bench.searches)
    for rounding in ("nearest", "compensated"):
        bench.points(rounding, "ompq", [4.0])
    assert len(bench.searches) == searches + 1


def test_no_method_starts_after_the_minutes_given(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(load("networks"), "SHARED", tmp_path / "nowhere")
    files = ["--results", str(tmp_path / "r"), "--judgements", str(tmp_path / "j")]
    output = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["methods.py", "--minutes", "-1", *files, "--output", str(output)])
    load("methods").main()
    assert not (tmp_path / "r").exists()
    assert output.read_text().startswith("# Methods")
