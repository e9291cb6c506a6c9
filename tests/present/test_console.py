from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from onnxmpq.budgets.budget import Budget
from onnxmpq.budgets.kind import Form, Kind
from onnxmpq.evaluation import Evaluation
from onnxmpq.inspection import InspectedLayer, Inspection
from onnxmpq.present.console import ConsoleObserver, show_evaluation, show_inspection, show_report
from onnxmpq.values.latency import Latency
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.report import (
    BudgetReport,
    LayerReport,
    QualityReport,
    Report,
    Requirements,
    RunReport,
    SearchReport,
    SensitivityReport,
    SizeReport,
    SpeedReport,
)
from onnxmpq.values.score import OutputScore, Score

Capture = pytest.CaptureFixture[str]

LAYERS = (
    LayerReport("[/stem]", "Conv", 432, 4, 8, 232, 1.5e-5, "QLinearConv"),
    LayerReport("block/:up:", "ConvTranspose", 1000, 3, 8, 391, 0.02, None, "no integer kernel"),
    LayerReport("head", "Gemm", 480, 32, None, 1920),
    LayerReport("loose", "MatMul", 0, 32, None, 0, reason="its weight is not constant"),
)


def scored(samples: int, top1: float | None = None, **measures: Any) -> Score:
    """A score of one output, a classifier's where nothing else is said."""
    return Score(samples, top1, outputs={"y": OutputScore(OutputKind.LOGITS, **measures)})


REPORT = Report(
    model="m.onnx",
    output="[out].onnx",
    size=SizeReport(
        average_weight_bits=10.512,
        weight_bytes=2543,
        fp32_weight_bytes=7648,
        file_bytes=3000,
        fp32_file_bytes=9000,
    ),
    budgets=(),
    layers=LAYERS,
    quality=QualityReport(
        metrics={
            "fp32": Score(500, 0.9, 1.0, 0.0, None),
            "compiled": scored(500, 0.888, agreement=0.95, kl=0.0123, sqnr=20.0),
        },
        evaluated_on="500 samples of x.npz",
        cpus="any",
        is_broken=False,
    ),
    speed=SpeedReport(
        latency=(Latency(1, 0.002, 0.001, 2.0), Latency(16, 0.01, 0.02, 0.5)),
        is_faster=True,
        processor="Fast CPU",
        dequantizes=False,
        float_ops={"act": "HardSwish has no integer kernel"},
    ),
    requirements=Requirements("ort-cpu", "packed", 21, "1.23"),
    sensitivity=SensitivityReport(
        method="measured",
        evaluations=48,
        samples=128,
        unit="nats",
        metric="kl",
        effort="balanced",
        search=None,
    ),
    run=RunReport(
        provider="cpu",
        calibration="512 samples of y.npz",
        notes=(),
        seconds={"load": 1.0, "sensitivity": 1.5, "verify": 1.0},
        peak_rss_bytes=123_000_000,
        versions={},
    ),
)


def but(*layers: LayerReport, **groups: Mapping[str, Any]) -> Report:
    """The report with these fields of its groups changed, and these layers where there are any."""
    changed = {name: replace(getattr(REPORT, name), **fields) for name, fields in groups.items()}
    return replace(REPORT, layers=layers or LAYERS, **changed)


def shown(report: Report, capsys: Capture) -> str:
    show_report(report)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.isprintable() or "\n" in printed.out
    return printed.out


def test_short_times_are_microseconds(capsys: Capture) -> None:
    fast = but(speed={"latency": (Latency(1, 1.2e-3, 0.00004, 30.0),)})
    assert "1.20 ms -> 40 µs (30.00x faster here)" in shown(fast, capsys)


def test_a_difference_that_rounds_to_none_is_none(capsys: Capture) -> None:
    same = but(speed={"latency": (Latency(1, 1.001e-3, 1e-3, 1.001), Latency(8, 1e-3, 1.001e-3, 0.999))})
    printed = shown(same, capsys)
    assert printed.count("1.00 ms -> 1.00 ms (as fast here)") == 2


def test_a_report(capsys: Capture) -> None:
    text = shown(REPORT, capsys)
    for words in (
        "[/stem]", "block/:up:", "QLinearConv", "[out].onnx", "9,000 -> 3,000 bytes (3.00x smaller)",
        "10.512 bits on average", "90.00% -> 88.80% (-1.20 points)", "95.00% same class as fp32, 500 samples",
        "0.0123 nats", "2.00 ms -> 1.00 ms (2.00x faster here)", "(2.00x slower here)", "3.5 s", "123 MB", "opset 21",
        "stays float: block/:up:: no integer kernel", "stays float: loose: its weight is not constant",
        "stays float: act: HardSwish has no integer kernel", "500 samples of x.npz", "Fast CPU",
        "measured, 48 evaluations, 128 samples, 1.5 s", " nats ",
        "1 of 4 layers as integer kernels (1 QLinearConv), 3 in float",
    ):  # fmt: skip
        assert words in text
    assert "LOST" not in text
    assert "\x1b" not in text  # no colours into a pipe


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (SearchReport(2.0, 1.0, "the uniform plan"), "the uniform plan: kl 2 -> 1 before requantizing"),
    ],
)
def test_a_search_says_which_rival_ships(search: SearchReport, said: str, capsys: Capture) -> None:
    line = next(
        text
        for text in shown(but(sensitivity={"search": search}), capsys).splitlines()
        if "requantizing" in text
    )
    assert line.split(maxsplit=1) == ["search", said]
    nothing = SearchReport(0.5, 0.5, None)
    assert "requantizing" not in shown(but(sensitivity={"search": nothing}), capsys)


def test_every_layer_is_a_line(capsys: Capture) -> None:
    lines = shown(REPORT, capsys).splitlines()
    for layer in LAYERS:
        assert sum(line.startswith(layer.name + " ") for line in lines) == 1


def test_a_broken_result_is_said_in_the_last_line_with_its_cause(capsys: Capture) -> None:
    lost = {"is_broken": True, "lost": ("output 'y' is at 3.0 dB",), "cause": "its weights did it"}
    line = shown(but(quality=lost), capsys).splitlines()[-1]
    assert line.startswith("LOST: this file no longer does what the model did")
    assert line.endswith("output 'y' is at 3.0 dB: its weights did it")


def test_several_outputs_are_a_line_each(capsys: Capture) -> None:
    outputs = {
        "boxes": OutputScore(OutputKind.VALUES, sqnr=34.1, worst="channels 4 to 11", worst_sqnr=-1.8),
        "map": OutputScore(
            OutputKind.HEATMAP, sqnr=20.0, before_sigmoid=15.0, agreement=0.999, is_silent=True
        ),
        "ids": OutputScore(agreement=1.0),
    }
    metrics = {"fp32": Score(5), "compiled": Score(5, outputs=outputs)}
    text = shown(but(quality={"metrics": metrics}), capsys)
    assert "output boxes     34.1 dB, channels 4 to 11 -1.8 dB (SQNR to fp32)" in text
    assert "99.90% on the same side of 0.5 as fp32, 5 samples (agreement); 15.0 dB (before sigmoid)" in text
    assert "the samples hardly excite it" in text
    assert "output ids       100.00% equal values, 5 samples (agreement)" in text


def test_a_gain_in_size_only_is_said_last_with_its_reason(capsys: Capture) -> None:
    times = Latency(1, 0.002, 0.002, 1.0), Latency(8, 0.01, 0.02, 0.5)
    slow = {"is_faster": False, "latency": times}
    said = shown(but(speed=slow), capsys).splitlines()[-1]
    assert said.startswith("SIZE ONLY: ")
    assert "1.00x fp32's time at batch 1, 2.00x fp32's time at batch 8" in said
    assert "1 of 4 layers run as integer kernels" in said
    floats = tuple(replace(layer, activation_bits=None, kernel=None) for layer in LAYERS)
    said = shown(but(*floats, speed=slow), capsys)
    assert "so layers compute as before; --activations int8" in said.splitlines()[-1]
    assert "0 of 4 layers as integer kernels, 4 in float" in said
    larger = shown(but(speed=slow, size={"file_bytes": 9000}), capsys).splitlines()[-1]
    assert larger.startswith("NO GAIN: this file is no faster here (")
    assert "SIZE ONLY" not in shown(REPORT, capsys)


def test_weights_that_are_dequantized_at_every_run_are_the_reason_why_a_file_is_slow(capsys: Capture) -> None:
    slow: dict[str, Any] = {
        "speed": {"is_faster": False, "dequantizes": True},
        "requirements": {"storage": "native"},
    }
    said = shown(but(**slow), capsys).splitlines()[-1]
    assert (
        "kernels, for the others native weights are dequantized at every run, and 1 operator between" in said
    )
    assert "--activations fp32" not in said
    floats = tuple(replace(layer, activation_bits=None, kernel=None) for layer in LAYERS)
    said = shown(but(*floats, **slow), capsys).splitlines()[-1]
    assert "activations stay in fp32, so native weights are dequantized at every run; --activations" in said


def test_what_keeps_most_operators_in_float_is_said_once(capsys: Capture) -> None:
    ops = {f"act{i}": "HardSwish has no integer kernel" for i in range(44)}
    text = shown(but(speed={"is_faster": False, "float_ops": ops}), capsys)
    assert "stays float: act0, act1, act2 and 41 more: HardSwish has no integer kernel" in text
    assert "44 operators between them in float (HardSwish has no integer kernel)" in text.splitlines()[-1]
    assert text.count("act7") == 0


def test_activations_without_kernels_are_the_reason_why_a_file_is_slow(capsys: Capture) -> None:
    narrow = tuple(replace(layer, activation_bits=4, kernel=None) for layer in LAYERS)
    basic = {"optimizations": "basic"}
    said = shown(but(*narrow, speed={"is_faster": False}, requirements=basic), capsys)
    assert said.splitlines()[-1].endswith(
        "has no integer kernels for 4-bit activations, and computes in float between them"
    )
    assert "ONNX Runtime 1.23 at basic graph optimizations (" in said


def test_nothing_measured(capsys: Capture) -> None:
    speed: dict[str, Any] = {"latency": (), "float_ops": {}}
    text = shown(but(quality={"metrics": {}}, speed=speed, run={"peak_rss_bytes": 0}), capsys)
    assert "judged on" not in text
    assert "memory" not in text


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (scored(5, sqnr=float("inf")), "equal"),
        (scored(5, sqnr=31.25), "SQNR to fp32     31.2 dB"),
        (scored(5, agreement=0.5), "50.00% same class as fp32, 5 samples"),
        (scored(1, cosine=0.98765), "cosine to fp32   0.9877"),
        (scored(5, sqnr=30.0, moved=0.25), "25.00% of the values became NaN or Inf"),
        (Score(5), "judged on"),
    ],
)
def test_scores_of_every_kind(score: Score, words: str, capsys: Capture) -> None:
    assert words in shown(but(quality={"metrics": {"fp32": Score(5), "compiled": score}}), capsys)


@pytest.mark.parametrize(
    ("word", "reached", "words"),
    [
        ("4bit-avg", 3.99649, "3.996 bits"),
        ("1.5MB", 1_499_000.0, "1,499,000 bytes"),
        ("8x", 0.12, "12.00% of fp32 (8.33x)"),
        ("2.1GBOPs", 2.05e9, "2.05 GBOPs"),
        ("drop=1%", 0.004, "0.40% on the data judged on"),
        ("drop=1%", 0.02, "2.00% on the data judged on, more than on the data that chose it"),
        ("drop=1%", None, "not measured"),
        ("latency=0.7x", 0.6543, "0.654 of fp32's time, batch 1"),
        ("latency=5ms", 4.5678, "4.57 ms, batch 1"),
        ("latency=50us", 0.0294, "29 µs, batch 1"),
    ],
)
def test_budgets_of_every_kind(word: str, reached: float | None, words: str, capsys: Capture) -> None:
    budget = Budget.parse(word)
    asked = BudgetReport(word, str(budget.kind), budget.limit, reached)
    assert f"{word}: reached {words}\n" in shown(replace(REPORT, budgets=(asked,)), capsys)


def test_a_kind_of_budget_says_itself_what_was_reached_and_missed(capsys: Capture) -> None:
    kind = Kind(
        name="share of MACs with 16-bit inputs",
        forms=(Form("a16={}%", float),),
        words=lambda reached, limit: f"{reached:.0%} of all MACs, {limit:.0%} asked",
        missed="as counted",
    )
    report = replace(REPORT, budgets=(BudgetReport("a16=15%", kind.name, 0.15, 0.4, False),))
    show_report(report, [kind])
    text = capsys.readouterr().out
    assert "a16=15%: reached 40% of all MACs, 15% asked\n" in text
    assert text.endswith("MISSED: budget a16=15% does not hold as counted\n")


def test_an_inspection(capsys: Capture) -> None:
    layers = (
        InspectedLayer("a", "Conv", (4, 3, 3, 3), 32, None, 432),
        InspectedLayer("[b]", "MatMul", (0,), 32, None, 0, "not constant"),
    )
    show_inspection(Inspection("m.onnx", 13, "pytorch", 1234, False, layers))
    text = capsys.readouterr().out
    for words in (
        "m.onnx: opset 13, 1,234 bytes",
        "4x3x3x3",
        "[b]",
        "not constant",
        "1 of 2 layers can be quantized",
    ):
        assert words in text
    stored = InspectedLayer("a", "Conv", (4, 2), 4, 8, 20), InspectedLayer("b", "Gemm", (4, 2), 16, None, 16)
    show_inspection(Inspection("m.onnx", 21, "onnxmpq", 99, True, stored))
    assert "1 of 2 layers are quantized, 10.000 bits a weight on average" in capsys.readouterr().out


def test_an_evaluation(capsys: Capture) -> None:
    alone: dict[str, Any] = {
        "model": "[m].onnx", "reference": None, "data": "9 samples of d.npz", "score": scored(9, 0.5, agreement=1.0, kl=0.0),
        "reference_score": Score(9, 0.75, 1.0, 0.0), "file_bytes": 100, "reference_bytes": 400,
        "latency": Latency(1, 0.002, 0.001, 2.0),
    }  # fmt: skip
    show_evaluation(Evaluation(**alone))
    text = capsys.readouterr().out
    assert "[m].onnx on 9 samples of d.npz" in text
    assert "50.00%" in text
    assert "agreement" not in text
    show_evaluation(Evaluation(**{**alone, "reference": "f.onnx"}))
    text = capsys.readouterr().out
    for words in ("f.onnx", "75.00% -> 50.00%", "agreement", "400 -> 100 bytes", "faster"):
        assert words in text


def test_progress_goes_to_stderr_line_by_line_where_nobody_watches(capsys: Capture) -> None:
    with ConsoleObserver() as observer:
        observer.note("[/note] " + "long " * 60)
        observer.stage("load")
        observer.progress(1, 2)
        observer.stage("verify")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert [line.split()[0] for line in lines] == ["[/note]", "load", "verify"]


def said(capsys: Capture, monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float]) -> list[str]:
    """The lines of a compile whose clock gives these seconds: a stage of 100 units, and one of 900 with progress."""
    now = iter(seconds)
    monkeypatch.setattr(
        "onnxmpq.present.console.time", SimpleNamespace(perf_counter=lambda: next(now, seconds[-1]))
    )
    with ConsoleObserver() as observer:
        observer.stage("calibrate")
        observer.progress(1, 1)
        observer.expect({"calibrate": 100, "round": 900}, "--effort fast")
        observer.stage("round")
        for _ in seconds[5:]:
            observer.progress(1, 2)
    return capsys.readouterr().err.splitlines()


def test_a_compile_says_how_long_it_will_take_as_soon_as_it_knows_a_pace(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # begins, progress, expected, ended, the next one begins, half of it, soon after, later
    lines = said(capsys, monkeypatch, [0.0, 10.0, 10.0, 10.0, 10.0, 60.0, 61.0, 100.0])
    assert lines == [
        "about 90 s ahead",
        "calibrate    10.0 s",
        "round        55% of all done, about 50 s ahead",
        "round        55% of all done, about 90 s ahead",
        "round        90.0 s",
    ]


def test_a_long_stage_before_that_tells_of_itself(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 30.0])
    monkeypatch.setattr("onnxmpq.present.console.time", SimpleNamespace(perf_counter=lambda: next(now, 30.0)))
    with ConsoleObserver() as observer:
        observer.stage("calibrate")
        observer.progress(1, 4)
        observer.progress(3, 4)
    assert capsys.readouterr().err.splitlines() == [
        "calibrate    75% of it done, about 10 s ahead",
        "calibrate    30.0 s",
    ]


def test_a_very_long_compile_says_what_would_be_shorter(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = said(capsys, monkeypatch, [0.0, 100.0, 100.0, 100.0, 100.0])
    assert first == "about 15 min ahead; --effort fast would be sooner"


def test_a_short_compile_says_nothing_of_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(capsys, monkeypatch, [0.0, 1.0, 1.0, 1.0, 1.0, 5.0]) == [
        "calibrate    1.0 s",
        "round        4.0 s",
    ]


def test_an_error_ends_the_progress_without_claiming_the_stage(capsys: Capture) -> None:
    def fails() -> None:
        with ConsoleObserver() as observer:
            observer.stage("load")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fails()
    assert capsys.readouterr().err == ""


def test_a_quiet_observer_says_nothing(capsys: Capture) -> None:
    with ConsoleObserver(quiet=True) as observer:
        observer.note("note")
        observer.stage("load")
    assert capsys.readouterr() == ("", "")
