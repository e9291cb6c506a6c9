"""The benchmarks: their statistics, their data, and that they run on the project's own model."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from shared import ROOT, needs_shared

import onnxmpq
from onnxmpq.values.option import Option

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def flipped(before: np.ndarray[Any, Any], lost: int, won: int) -> np.ndarray[Any, Any]:
    after = before.copy()
    after[np.flatnonzero(before)[:lost]] = False
    after[np.flatnonzero(~before)[:won]] = True
    return after


def test_the_interval_is_that_of_the_paired_differences(load: Any) -> None:
    before = np.arange(1000) % 10 > 0
    after = flipped(before, lost=60, won=20)
    low, high = load("accuracy").interval(before, after)
    spread = 1.96 * 100 * (before.astype(int) - after).std() / np.sqrt(1000)  # normal approximation
    assert (low, high) == pytest.approx((4 - spread, 4 + spread), abs=0.15)


def test_the_interval_agrees_with_resampled_images(load: Any) -> None:
    before = np.arange(200) % 4 > 0
    after = flipped(before, lost=9, won=2)
    rows = np.random.default_rng(1).integers(200, size=(20_000, 200))
    drops = 100 * (before[rows].mean(axis=1) - after[rows].mean(axis=1))
    assert load("accuracy").interval(before, after) == pytest.approx(
        np.quantile(drops, [0.025, 0.975]), abs=0.51
    )


def test_equal_models_have_an_interval_of_zero(load: Any) -> None:
    hits = np.arange(50) % 2 == 0
    assert load("accuracy").interval(hits, hits) == (0.0, 0.0)


def test_images_of_an_npz_are_normalised_and_labels_stay_with_the_test_set(load: Any, tmp_path: Path) -> None:
    module = load("networks")
    images = np.random.default_rng(0).integers(256, size=(7, 3, 4, 4), dtype=np.uint8)
    path = tmp_path / "images.npz"
    np.savez(path, images=images, labels=np.arange(7))
    preprocess = module.Preprocess.parse("imagenet")
    network = module.Network("n", tmp_path / "n.onnx", path, path, preprocess)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with np.load(module.calibration(network, scratch)) as arrays:
        assert arrays.files == ["input"]
        calibration = arrays["input"]
    wanted = (images[3, 1] / 255 - 0.456) / 0.224
    np.testing.assert_allclose(calibration[3, 1], wanted, atol=1e-6)
    streamed = list(module.evaluation(network)())
    np.testing.assert_array_equal(np.concatenate([part["input"] for part in streamed]), calibration)
    np.testing.assert_array_equal(np.concatenate([part["labels"] for part in streamed]), np.arange(7))


def test_a_zip_loses_the_folders_that_are_its_labels(load: Any, tmp_path: Path) -> None:
    module = load("networks")
    names = ["0/a.jpg", "1/a.jpg", "10/b.jpg"]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    path = tmp_path / "images.zip"
    network = module.Network("n", tmp_path / "n.onnx", path, path, module.Preprocess.parse("tf"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with zipfile.ZipFile(module.calibration(network, scratch)) as archive:
        assert archive.namelist() == ["0_a.jpg", "1_a.jpg", "10_b.jpg"]
        assert [archive.read(name).decode() for name in archive.namelist()] == names
    assert module.evaluation(network) == path


def test_the_projects_own_network_stands_in_for_the_shared_ones(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("networks")
    monkeypatch.setattr(module, "SHARED", tmp_path / "nowhere")
    (network,) = module.networks()
    assert "running on the project's own models/digits" in capsys.readouterr().out
    data = module.open_samples(network, module.calibration(network, tmp_path), samples=5)
    assert (data.count, data.has_labels) == (5, False)
    assert module.open_samples(network, module.evaluation(network), samples=None).has_labels
    with pytest.raises(SystemExit, match="no network vgg; there are digits"):
        module.networks(["vgg"])


def test_accuracy_is_told_as_means_over_seeds(load: Any) -> None:
    module = load("accuracy")
    blank = {
        "model": "n",
        "budget": 2.5,
        "activations": "fp32",
        "recipe": "balanced",
        "samples": 512,
        "commit": "a",
    }
    seeds = [
        module.Result(
            **blank, seed=seed, fp32_top1=92.0, top1=top1, lowest_drop=0.5, highest_drop=high, images=9
        )
        for seed, top1, high in [(0, 91.0, 1.5), (1, 90.0, 2.5)]
    ]
    other = module.Result(**{**blank, "recipe": "uniform"}, seed=0, error="too small")
    refused, row = module.means([*seeds, other])
    assert row[:5] == ["n", "2.5", "fp32", "balanced", "0, 1"]
    assert row[9:12] == ["90.50", "90.00", "1.50 (0.50 to 2.00)"]
    assert refused[3] == "uniform"
    assert refused[-1] == "refused: too small"
    assert len(refused) == len(row)


def test_a_point_measured_again_replaces_the_former(load: Any, tmp_path: Path) -> None:
    module, path = load("accuracy"), tmp_path / "r.jsonl"
    first = module.Result("n", 3.0, "int8", "max", 1, 512, "abc", top1=90.25)
    fewer = module.Result("n", 3.0, "int8", "max", 1, 64, "abc", top1=89.0)
    again = module.Result("n", 3.0, "int8", "max", 1, 512, "def", top1=90.5)
    for result in (first, fewer, again):
        module.append(path, result)
    assert list(module.read(path).values()) == [again, fewer]


@pytest.mark.parametrize(("arguments", "measured"), [([], 1), (["--again"], 2), (["--minutes", "-1"], 0)])
def test_a_run_goes_on_where_the_last_one_stopped(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], measured: int
) -> None:
    module = load("accuracy")
    calls = []

    def fake(self: Any, recipe: str, budget: float) -> Any:
        calls.append(budget)
        return module.Result(
            "digits", budget, self.activations, recipe, self.seed, self.samples, "a", images=1
        )

    monkeypatch.setattr(module.Bench, "result", fake)
    monkeypatch.setattr(module, "networks", lambda _names: [load("networks").digits()["digits"]])
    results, output = tmp_path / "r.jsonl", tmp_path / "t.md"
    module.append(results, module.Result("digits", 4.0, "fp32", "balanced", 0, 512, "abc", images=1))
    words = [
        "--budgets",
        "4",
        "3",
        "--activations",
        "fp32",
        "--results",
        str(results),
        "--output",
        str(output),
    ]
    monkeypatch.setattr("sys.argv", ["accuracy.py", *words, *arguments])
    module.main()
    assert len(calls) == measured
    assert "| digits | 4 | fp32 | balanced | 0 |" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("recipe", "budget", "activations", "named"),
    [
        ("balanced", 3.0, "int8", {}),
        ("size", 3.0, "fp32", {"method": "size"}),
        ("uniform", 3.5, "int8", {"bits": (3,)}),
        ("uniform, nearest", 2.0, "fp32", {"bits": (2,), "rounding": "nearest"}),
    ],
)
def test_recipes_that_share_a_rounding_come_to_what_a_compile_writes(
    load: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    budget: float,
    activations: str,
    named: dict[str, Any],
) -> None:
    networks, module = load("networks"), load("accuracy")
    monkeypatch.setattr(networks, "SHARED", tmp_path / "nowhere")
    (network,) = networks.networks()
    bench = module.Bench(module.HeldOut(network, module.Runtime()), activations, 1, 96, tmp_path)
    for before in ("fast", recipe):  # whatever was found before on the same rounding
        draft, seconds = bench.drafted(before, budget)
    written = tmp_path / "compiled.onnx"
    report = onnxmpq.compile_model(
        network.model, [f"{budget:g}bit-avg"], networks.calibration(network, tmp_path), output=written,
        activations=activations, samples=96, seed=1, provider="cpu", verify=False, **named,
    )  # fmt: skip
    assert draft.written().SerializeToString(deterministic=True) == onnx.load(written).SerializeToString(
        deterministic=True
    )
    assert report.size.file_bytes == draft.written().ByteSize()
    assert seconds > 0


def test_a_uniform_recipe_takes_the_widest_width_that_a_layer_may_have(load: Any) -> None:
    options = {"a": [Option(bits, 8) for bits in (2, 3, 7)], "b": [Option(32)]}
    uniform = load("accuracy").uniform
    assert uniform(options, "uniform", 8.0) == {"a": (Option(7, 8),), "b": (Option(32),)}
    assert uniform(options, "uniform, nearest", 2.5) == {"a": (Option(2, 8),), "b": (Option(32),)}
    assert uniform(options, "max", 2.5) == options


def test_a_figure_stands_beside_its_limit(load: Any) -> None:
    module = load("speed")
    assert module.against(1.019, 1.02) == "1.019 (<= 1.02)"
    assert module.against(1.031, 1.03) == "**1.031 (<= 1.03)**"


def test_sections_that_were_not_run_stay_as_they_were(load: Any) -> None:
    module = load("speed")
    first = module.merged("", ["## A\n\none\n", "## B\n\ntwo\n\n## C\n\nthree\n"])
    second = module.merged(first, ["## B\n\nnew\n"])
    assert [line for line in second.splitlines() if line.startswith("#")] == [
        "# Speed",
        "## A",
        "## B",
        "## C",
    ]
    assert second == first.replace("two", "new")
    assert second.count("onnxruntime") == 3  # each with its machine and versions


def test_ratios_are_medians_over_rounds_of_the_same_round(load: Any) -> None:
    module = load("speed")
    names = [module.FP32, module.STATIC, *map(module.ours, module.INT8_BITS), module.WEIGHT_ONLY]
    rounds = [
        [10.0, 4.0, 2.0, 4.0, 5.0, 10.0],
        [20.0, 8.0, 4.0, 8.0, 10.0, 20.0],
        [1.0, 9.0, 9.0, 9.0, 9.0, 9.0],
    ]
    found = [cell.strip("*").split()[0] for cell in module.ratio_cells(names, rounds)]
    assert found == ["0.500", "1.000", "1.250", "0.200", "0.400", "0.500", "1.000"]


@pytest.mark.slow
def test_the_wide_network_has_25_million_weights_and_runs(load: Any, tmp_path: Path) -> None:
    weights = load("files").write_wide(tmp_path / "wide.onnx")
    assert 23e6 < weights < 27e6
    seconds, peak = load("loading").load_cost(tmp_path / "wide.onnx", threads=1)
    assert seconds > 0
    assert peak > 4 * weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "wanted"),
    [
        (
            "accuracy.py",
            ["--activations", "int8"],
            ["drop in points", "| digits | 4 | int8 | balanced | 0 |"],
        ),
        (
            "methods.py",
            ["--methods", "size", "ompq, as published", "--seeds", "0", "--results", "results.jsonl"],
            ["## digits, nearest rounding", "## digits, compensated rounding", "| ompq, as published |"],
        ),
        (
            "calibrators.py",
            ["--seeds", "0", "--results", "results.jsonl"],
            [
                "| digits | int8 | mean_minmax_3sigma |",
                "| digits | int4 | entropy |",
                "| mean_minmax_3sigma | 1.000 | 1.000 |",
            ],
        ),
        (
            "ablation.py",
            ["--budgets", "3", "--variants", "base", "no-odd", "--results", "results.jsonl"],
            ["| digits | 64 | 3 | base | 0 |", "| digits | 64 | 3 | no-odd | 0 |"],
        ),
        ("drops.py", ["--limits", "5", "--seeds", "0"], ["| digits | 5 % | 64 | no | 0 |", "1 of 1"]),
        (
            "runtimes.py",
            ["--files", "qnn/native, 8 bits, int8", "--rounding", "nearest", "--results", "results.jsonl"],
            ["| digits | qnn/native, 8 bits, int8, nearest |", "Not there when this was measured: qnn,"],
        ),
        ("speed.py", [], ["## Peak memory", "## Making a session", "## The sensitivity stage", "## Latency"]),
    ],
)
def test_a_script_runs_on_the_projects_own_model(
    script: str, arguments: list[str], wanted: list[str], tmp_path: Path
) -> None:
    away = tmp_path / "onnxmpq"  # a checkout with no ../shared beside it
    for folder in ("benchmarks", "models"):
        shutil.copytree(ROOT / folder, away / folder)
    output = tmp_path / "table.md"
    path = str(away / "benchmarks" / script)
    command = [sys.executable, path, "--samples", "64", *arguments, "--output", str(output)]
    subprocess.run(command, check=True, cwd=tmp_path)
    text = output.read_text(encoding="utf-8")
    assert all(piece in text for piece in wanted)


def test_what_a_runtime_says_that_fails_is_told_without_paths_and_traces(load: Any, tmp_path: Path) -> None:
    module = load("runtimes")
    script = tmp_path / "fails.py"
    words = "\x1b[31mno a|b in %s/m.onnx\x1b[m\n\nStack backtrace:\n 0: main"
    script.write_text(f"import sys\nsys.exit('SAID:' + {words!r} % {str(tmp_path)!r})\n", encoding="utf-8")
    command = [sys.executable, str(script)]
    given = module.ran(command, tmp_path / "m.onnx", np.zeros((2, 3), np.float32), tmp_path)
    assert given == "no a/b in /m.onnx"
    assert module.judged(np.eye(2), given) == {"said": given}
    assert module.version([str(tmp_path / "none")]) is None


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["resnet56", "mobilenetv2", "squeezenet"])
def test_a_file_spends_what_its_plan_says(load: Any, name: str, activations: str) -> None:
    (network,) = load("networks").networks([name])
    module = load("bytes")
    for average in module.AVERAGES:
        found = module.spend(network, average, activations)
        assert found.data <= 1.03 * found.planned, average
        factor = 1.5 if activations == "fp32" else 2.5
        assert found.rest <= factor * found.fp32_rest + 8_000, average


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_the_demo_file_spends_what_its_plan_says(
    load: Any, activations: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load("networks")
    monkeypatch.setattr(module, "SHARED", tmp_path)
    digits = module.digits()["digits"]
    found = load("bytes").spend(digits, 3.0, activations)
    assert found.data_holds
    assert found.rest_holds


def test_files_for_tensorrt_are_compared_and_no_errors(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("same_files")
    monkeypatch.setattr(script, "SHARED", tmp_path / "nothing")
    arguments = dict(script.cases("wide", tmp_path))["digits target tensorrt"]
    assert not script.compiled([*arguments, "--samples", "16"], tmp_path).startswith("no file")


def test_a_row_of_the_zoo_tells_what_was_judged_or_refused(load: Any, tmp_path: Path) -> None:
    zoo = load("zoo")
    line = {
        "name": "ocr", "how": "4bit-avg", "file_ratio": 6.9, "sqnr_db": [21.04, 30.0], "task": {"texts": 0.81234567},
        "speed": {"batch1": {"ratio": 1.31}, "batch8": "the batch is fixed"}, "seconds": 12, "processor": "a CPU", "commit": "abc", "samples": 64,
        "effort": "fast",
    }  # fmt: skip
    older = {**line, "file_ratio": 1.0}
    refused = {
        "name": "ocr",
        "how": "onnxruntime",
        "refused": "no kernel",
        "processor": "a CPU",
        "commit": "-",
    }
    results = tmp_path / "results.jsonl"
    results.write_text("\n".join(map(json.dumps, [older, line, refused])), encoding="utf-8")
    first, second = zoo.rows(zoo.read(results))
    assert first == [
        "ocr", "4bit-avg", "64, fast", "6.90x", "1.31x", "-", "texts 0.8123", "21.0, 30.0", "12 s", "a CPU", "abc",
    ]  # fmt: skip
    assert second[:4] == ["ocr", "onnxruntime", "-", "refused: no kernel"]


def test_a_row_of_the_exports_tells_what_was_measured_or_refused(load: Any, tmp_path: Path) -> None:
    exports = load("exports")
    line = {
        "name": "vit-legacy-17", "budget": "8bit-avg", "file_ratio": 3.9, "quantized": 0.9912, "integer": 12, "layers": 50,
        "speed": 1.31, "sqnr_db": [31.04, 24.26], "noise_db": [50.0, 40.0], "seconds": 12, "commit": "abc",
    }  # fmt: skip
    refused = {"name": "vit-dynamo-20", "budget": "8bit-avg", "refused": "no kernel", "commit": "abc"}
    results = tmp_path / "results.jsonl"
    results.write_text("\n".join(map(json.dumps, [{**line, "speed": 0.5}, line, refused])), encoding="utf-8")
    first, second = exports.table_rows(exports.read(results))
    assert first[:5] == ["vit", "dynamo", "20", "8bit-avg", "refused: no kernel"]
    assert second == [
        "vit", "legacy", "17", "8bit-avg", "3.90x", "99.1%", "12 of 50", "1.31x", "24.3 dB", "40.0 dB", "12 s", "abc",
    ]  # fmt: skip


def test_weight_bytes_are_those_of_floats_that_are_not_small(load: Any, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8] x) => (float[1, 8] y) { y = Identity(x) }'
    )
    arrays = {"large": np.zeros(2000, np.float32), "small": np.zeros(1000, np.float32)}
    arrays |= {"codes": np.zeros(5000, np.int8), "half": np.zeros(3000, np.float16)}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "model.onnx")
    assert load("exports").float_bytes(tmp_path / "model.onnx") == 2000 * 4 + 3000 * 2


def test_chains_of_any_depth_run_and_widths_of_any_number_of_layers_are_chosen(load: Any) -> None:
    depth = load("depth")
    model = depth.chain(5)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 5
    assert depth.allocated(60) > 0
