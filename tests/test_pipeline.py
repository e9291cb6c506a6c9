"""The whole compile on the demo model and on small ones: what the written file holds, keeps and reaches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

import onnxmpq
from onnxmpq import pipeline
from onnxmpq.calibrate.calibrators import CALIBRATORS
from onnxmpq.errors import DataError, InfeasibleError, ModelError, OptionError, OutputError, VerifyError
from onnxmpq.load import stage as load
from onnxmpq.lower import draft as lowering
from onnxmpq.observer import Observer
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.testing import model_of
from onnxmpq.timing import stage as timing
from onnxmpq.timing.layer_times import LayerTimes
from onnxmpq.values.costs import UNMEASURED
from onnxmpq.values.report import Report, Requirements
from onnxmpq.verify.readback import read_weights

DIGITS_MODEL = Path(__file__).parents[1] / "models" / "digits.onnx"

MODELS = Path(__file__).parents[1] / "models"
PARAMS = 80_568  # of digits.onnx, without biases

Compile = Callable[..., Report]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The demo model with its data beside it."""
    for name in ("digits.onnx", "digits.calib.npz", "digits.eval.npz"):
        shutil.copy(MODELS / name, tmp_path)
    return tmp_path / "digits.onnx"


@pytest.mark.parametrize("seed", [-1, -7])
def test_a_seed_below_zero_is_refused(digits: Path, seed: int) -> None:
    with pytest.raises(OptionError, match="must be 0 or more"):
        onnxmpq.compile_model(digits, ["4bit-avg"], seed=seed)


def test_an_array_is_no_data_by_itself(digits: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"the given data are no data but a ndarray; give a path, .* a dict of arrays by input: ",
    ):
        onnxmpq.compile_model(digits, ["4bit-avg"], np.ones((4, 1, 8, 8), np.float32))


def saved(path: Path, body: str, inputs: str, outputs: str, opset: int = 18, **weights: np.ndarray) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    onnx.save(model_of(text, **weights), path / "m.onnx")
    return path / "m.onnx"


WEIGHT = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
ROWS = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)


def test_outputs_in_double_precision_are_compared_as_numbers(tmp_path: Path) -> None:
    model = saved(
        tmp_path, "l = MatMul (x, w) y = Cast <to = 11> (l)", "float[N, 8] x", "double[N, 5] y", w=WEIGHT
    )
    report = onnxmpq.compile_model(model, ["8bit-avg"], {"x": ROWS}, effort="fast")
    assert report.quality.metrics["compiled"].agreement == 1.0
    assert not report.quality.is_broken


def test_an_output_that_is_optional_stays_one(tmp_path: Path) -> None:
    model = saved(
        tmp_path,
        "y = MatMul (x, w) o = Optional (y)",
        "float[N, 8] x",
        "float[N, 5] y, optional(float[N, 5]) o",
        w=WEIGHT,
    )
    report = onnxmpq.compile_model(model, ["8bit-avg"], {"x": ROWS}, effort="fast")
    kinds = [o.type.WhichOneof("value") for o in onnx.load(report.output).graph.output]
    assert kinds == ["tensor_type", "optional_type"]


def test_a_budget_out_of_reach_names_the_layers_that_must_stay(tmp_path: Path) -> None:
    model = saved(
        tmp_path, "y = MatMul (x, w) z = MatMul (x, v)", "float[N, 8] x", "float[N, 5] y, float[N, 5] z",
        w=WEIGHT, v=np.where(WEIGHT > 1, np.nan, WEIGHT),
    )  # fmt: skip
    with pytest.raises(InfeasibleError, match=r"what must stay as it is: z \(its weight holds NaN or Inf\)"):
        onnxmpq.compile_model(model, ["4bit-avg"], {"x": ROWS}, effort="fast", force=True)


def test_an_opset_that_is_newer_than_a_target_is_known_to_read_is_said(digits: Path) -> None:
    model = onnx.load(digits)
    model.opset_import[0].version, model.ir_version = 26, 12
    onnx.save(model, digits)
    with pytest.raises(ModelError, match=r"opset 26, .* 25; export the model at a lower opset"):
        onnxmpq.compile_model(digits, ["4bit-avg"], effort="fast", target="portable")


@pytest.fixture
def small(digits: Path) -> Compile:
    """Compiles the demo model in the fastest way there is; options may say otherwise."""
    fast = {"samples": 32, "bits": (4, 8), "rounding": "nearest"}

    def run(*budgets: str, **options: Any) -> Report:
        return onnxmpq.compile_model(digits, budgets, **{**fast, **options})

    return run


def widths(report: Report) -> dict[str, int]:
    return {layer.name: layer.weight_bits for layer in report.layers}


def stored_widths(path: str | Path) -> list[int]:
    """The widths that a file really holds, in order."""
    return [weight.bits for weight in read_weights(onnx.load(path)).values()]


def plain_run(path: str | Path, **feeds: Any) -> list[Any]:
    """Run a file as anyone would: stock ONNX Runtime, no option set."""
    outputs: list[Any] = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
    return outputs


# Budgets


@pytest.mark.parametrize(
    ("budget", "activations"),
    [("5bit-avg", "fp32"), ("4.5bit-avg", "int8"), ("15%", "fp32"), ("7x", "int8"), ("65kB", "int8")],
)
def test_budget_holds_on_the_written_file(small: Compile, budget: str, activations: str) -> None:
    report = small(budget, activations=activations)
    (asked,) = report.budgets
    assert asked.asked == budget
    assert asked.reached is not None
    assert asked.reached <= asked.limit * (1 + 1e-9)
    assert asked.reached > 0.85 * asked.limit  # and is used
    assert report.size.file_bytes == Path(report.output).stat().st_size
    assert sorted(stored_widths(report.output)) == sorted(widths(report).values())
    score = report.quality.metrics["compiled"]
    assert score.agreement is not None
    assert score.agreement > 0.95
    assert {layer.activation_bits for layer in report.layers} == ({8} if activations == "int8" else {None})


def test_every_calibrator_gives_ranges_of_its_own(small: Compile) -> None:
    scales = {}
    for name in CALIBRATORS:
        report = small("6bit-avg", activations="int8", calibrator=name)
        assert (report.quality.metrics["compiled"].agreement or 0) > 0.95
        scales[name] = activation_scales(report.output)
    assert scales.pop("mean_minmax_3sigma") == scales["minmax"]  # as long as no sample of so few lies far out
    assert len(set(scales.values())) == len(scales)
    assert all(max(found) <= max(scales["minmax"]) for found in scales.values())


DSP = """
from onnxmpq import ActivationRules, Target, WeightRules
DSP = Target("dsp", "a signal processor", WeightRules(("native",), folds=False), ActivationRules((4,), signed={signed}))
"""


def activation_scales(path: str) -> tuple[float, ...]:
    graph = onnx.load(path).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return tuple(sorted(float(values[node.input[1]]) for node in nodes))


def test_activations_of_16_bits_are_close_to_float(small: Compile) -> None:
    options: dict[str, Any] = {"target": "portable", "bits": (8,), "rounding": "nearest"}
    found = {acts: small("99GBOPs", activations=acts, **options) for acts in ("fp32", "int8", "int16")}
    losses = {acts: report.quality.metrics["compiled"].kl or 0.0 for acts, report in found.items()}
    assert losses["int16"] < 1.5 * losses["fp32"]  # what is clipped is clipped
    assert losses["int8"] > 2 * losses["int16"]
    operations = {acts: report.budgets[0].reached or 0.0 for acts, report in found.items()}
    assert (
        operations["fp32"] > operations["int16"] == pytest.approx(operations["int8"] * 16 / 7)
    )  # 8 x 16 and 7 x 8
    assert {layer.activation_bits for layer in found["int16"].layers} == {16}
    assert found["int16"].requirements.opset == 21


def test_requantized_and_searched_with_activations_of_16_bits(small: Compile) -> None:
    report = small("5bit-avg", activations="int16", target="portable", rounding="compensated")
    assert (report.quality.metrics["compiled"].agreement or 0) > 0.97
    assert all(layer.kernel is None for layer in report.layers)  # ONNX Runtime has none


@pytest.mark.parametrize("signed", [False, True])
def test_activations_of_4_bits(small: Compile, tmp_path: Path, signed: bool) -> None:
    (tmp_path / "dsp.py").write_text(DSP.format(signed=signed), encoding="utf-8")
    options: dict[str, Any] = {"target": f"{tmp_path}/dsp.py:DSP", "rounding": "compensated"}
    report = small("4bit-avg", **options)  # int4 is the only kind that the target has
    assert {layer.activation_bits for layer in report.layers} == {4}
    assert all(layer.kernel is None for layer in report.layers)  # ONNX Runtime has none
    assert report.requirements == Requirements("dsp", "native", 21, "1.19", "basic")
    assert onnxmpq.inspect_model(Path(report.output)).requirements == report.requirements
    assert {la.reason for la in report.layers} == {
        "ONNX Runtime has no integer kernels for 4-bit activations"
    }
    model = onnx.load(report.output)
    zero_points = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {t.data_type for t in model.graph.initializer if t.name in zero_points}
    assert kinds == {onnx.TensorProto.INT4 if signed else onnx.TensorProto.UINT4}
    others = small("4bit-avg", calibrator="minmax", **options)
    loss, worse = (found.quality.metrics["compiled"].kl or 0.0 for found in (report, others))
    assert loss < worse
    assert (report.quality.metrics["compiled"].agreement or 0) > 0.9


def test_several_budgets_hold_at_once(small: Compile) -> None:
    report = small("6bit-avg", "60kB", "60MBOPs", activations="int8")
    assert [b.asked for b in report.budgets] == ["6bit-avg", "60kB", "60MBOPs"]
    assert all(b.reached is not None and b.reached <= b.limit for b in report.budgets)


def test_a_loss_budget_takes_the_smallest_file_that_keeps_it(small: Compile) -> None:
    report = small("drop=2%", bits=(2, 4, 8), samples=128, activations="fp32")
    assert report.size.average_weight_bits < 8
    assert any("sure of its classes" in note for note in report.run.notes)  # the digits are easy
    (budget,) = report.budgets
    before, after = report.quality.metrics["fp32"].top1, report.quality.metrics["compiled"].top1
    assert before is not None
    assert after is not None
    assert budget.reached == pytest.approx(before - after)


def test_a_budget_that_decides_alone_measures_nothing(small: Compile) -> None:
    report = small("8bit-avg", activations="fp32")
    assert set(widths(report).values()) == {8}
    assert any("sensitivity is not measured" in note for note in report.run.notes)
    assert all(layer.sensitivity is None for layer in report.layers)


def test_a_file_budget_that_holds_the_widest_plan_measures_nothing(small: Compile) -> None:
    report = small("200kB", activations="int8", rounding="compensated")
    assert set(widths(report).values()) == {7}  # codes that every CPU sums exactly
    assert any("sensitivity is not measured" in note for note in report.run.notes)
    edge = small(f"{report.size.file_bytes}B", activations="int8", rounding="compensated")
    assert edge.size.file_bytes == report.size.file_bytes
    assert any("sensitivity is not measured" in note for note in edge.run.notes)


def test_a_budget_that_cannot_be_met_says_the_least(small: Compile, digits: Path) -> None:
    with pytest.raises(InfeasibleError, match="the smallest this model gets is 4bit-avg"):
        small("3bit-avg")
    with pytest.raises(
        InfeasibleError, match=r"gets is 5\.6\d*bit-avg; without --keep 'stage3/\*=8' it is 4bit-avg"
    ):
        small("5bit-avg", keep=["stage3/*=8"])
    with pytest.raises(InfeasibleError, match=r"gets is [\d.]+x; with 1 among --bits it is 2\d\.\d+x$"):
        small("13x")
    with pytest.raises(
        InfeasibleError, match=r"30KiB cannot be met: the smallest this model gets is 50[.\d]*KiB"
    ):
        small("30KiB")
    with pytest.raises(InfeasibleError, match=r"gets is 8bit-avg; with --storage packed it is 4bit-avg"):
        small("5bit-avg", storage="int8")
    assert not digits.with_name("digits.mpq.onnx").exists()


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_takes_its_real_size(small: Compile, bits: int) -> None:
    report = small(f"{bits}bit-avg", bits=(bits,), activations="fp32")
    assert set(stored_widths(report.output)) == {bits}
    assert report.size.weight_bytes == sum(layer.stored_bytes for layer in report.layers)
    # Everything but codes and scales: biases, the graph, the unpacking.
    assert report.size.file_bytes < report.size.weight_bytes + 25_000
    assert report.size.average_weight_bits == bits


# Operations


def operations(tmp_path: Path, batch: str, body: str, inputs: str = "") -> tuple[Report, float]:
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
      g (float[{batch}, 3, 8, 8] x{inputs}) => (float[{batch}, 5] y) {{
        a = Conv (x, w)
        p = GlobalAveragePool (a)
        f = Flatten (p)
        {body}
      }}"""
    model, rng = parse_model(text), np.random.default_rng(0)
    for name, shape in {"w": (4, 3, 3, 3), "v": (4, 5)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "m.onnx")
    report = onnxmpq.compile_model(
        tmp_path / "m.onnx", ["1GBOPs"], bits=(8,), activations="fp32", verify=False
    )
    (budget,) = report.budgets
    assert budget.reached is not None
    return report, budget.reached


@pytest.mark.parametrize("batch", ["1", "4"])
def test_operations_are_those_of_one_sample(tmp_path: Path, batch: str) -> None:
    _, reached = operations(tmp_path, batch, "y = MatMul (f, v)")
    assert reached == (108 * 36 + 20) * 8 * 32


def test_operations_that_are_not_known_are_said(tmp_path: Path) -> None:
    body = """y = If (flag) <
      then_branch = t () => (float[1, 5] u) { u = MatMul (f, v) },
      else_branch = e () => (float[1, 5] o) { m = MatMul (f, v) o = Neg (m) }>"""
    report, reached = operations(tmp_path, "1", body, ", bool[1] flag")
    assert reached == 108 * 36 * 8 * 32
    assert any(note.startswith("the BOPs leave out u:") for note in report.run.notes)


# Latency


def test_a_latency_budget_lets_layers_stay_in_float(small: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [layer.name for layer in small("8bit-avg", activations="int8").layers]
    times = LayerTimes(dict.fromkeys(names, 0.001), dict.fromkeys(names, 0.002), 0.032, 0.016)
    monkeypatch.setattr(timing, "layer_times", lambda *_: times)
    monkeypatch.setattr(lowering, "slowdown", lambda *_: 0.73)
    report = small("latency=0.75x", "9bit-avg", activations="int8")
    floats = [layer for layer in report.layers if layer.activation_bits is None]
    assert 1 <= len(floats) <= 7  # 16 ms, and one more for each, within 24 ms
    assert all((layer.kernel is None) == (layer in floats) for layer in report.layers)
    assert {layer.reason for layer in floats} == {"the better choice under the budgets"}
    assert {layer.weight_bits for layer in floats} == {32}
    assert report.size.average_weight_bits <= 9
    assert report.budgets[0].reached == pytest.approx(1 / report.speed.latency[0].speedup)
    assert report.quality.metrics["compiled"].agreement == pytest.approx(1, abs=0.02)


def test_a_latency_that_no_file_has_says_the_least_measured(small: Compile) -> None:
    with pytest.raises(InfeasibleError, match=r"the least measured is \d\.\d+x, .* ms against .* ms of fp32"):
        small("latency=0.001x", activations="int8")


# Options


def test_kept_layers(small: Compile) -> None:
    keep = ["head=fp16", "stem=fp32", "stage1/*=8/fp32", "op:Nothing*=8", "stage3/*/conv?=4"]
    with pytest.raises(OptionError, match=r"op:Nothing"):
        small("16bit-avg", keep=keep)
    keep.remove("op:Nothing*=8")
    report = small("16bit-avg", keep=keep, activations="int8")
    layers = {layer.name: layer for layer in report.layers}
    assert (layers["head"].weight_bits, layers["head"].activation_bits) == (16, None)
    assert (layers["stem"].weight_bits, layers["stem"].activation_bits) == (32, None)
    assert (layers["stage1/block1/conv1"].weight_bits, layers["stage1/block1/conv1"].activation_bits) == (
        8,
        None,
    )
    assert layers["stage3/block1/conv2"].weight_bits == 4
    mean = sum(layer.params * layer.weight_bits for layer in report.layers) / PARAMS
    assert report.size.average_weight_bits == pytest.approx(mean)


@pytest.mark.parametrize(
    ("method", "metric"),
    [("measured", "nse"), ("size", "kl"), ("greedy", "kl"), ("ompq", "kl"), ("csmpq", "nse")],
)
def test_methods_and_metrics(small: Compile, method: str, metric: str) -> None:
    report = small("6bit-avg", method=method, metric=metric, activations="fp32")
    assert (report.sensitivity.method, report.sensitivity.metric) == (method, metric)
    units = {"size": "squared bits", "ompq": "orthogonality", "csmpq": "separability"}
    assert report.sensitivity.unit == units.get(method, metric)
    assert set(widths(report).values()) == {4, 8}


def test_options_that_make_no_sense(small: Compile) -> None:
    for options, words in (
        ({"bits": ()}, "widths"),
        ({"bits": (9,)}, "widths"),
        ({"activations": "int2"}, "int8, dynamic, int16, int4, fp32"),
        ({"calibrator": "guess"}, "mean_minmax_3sigma"),
        ({"target": "toaster"}, "ort-cpu"),
        ({"method": "guess"}, "measured"),
        ({"shapes": {"picture": (1, 1, 8, 8)}}, "image"),
    ):
        with pytest.raises(OptionError, match=words):
            small("4bit-avg", **options)
    with pytest.raises(OptionError, match="no budget"):
        small()


# What is written


def test_the_report_says_all_that_was_promised(small: Compile, tmp_path: Path) -> None:
    fields = json.loads(small("5bit-avg").to_json())
    assert {
        "average_weight_bits", "weight_bytes", "file_bytes", "fp32_file_bytes", "budgets", "layers", "metrics",
        "seconds", "peak_rss_bytes",
    } <= fields.keys()  # fmt: skip
    assert {"asked", "reached"} <= fields["budgets"][0].keys()
    wanted = {"name", "op", "params", "weight_bits", "activation_bits", "reason", "sensitivity"}
    assert all(wanted <= layer.keys() for layer in fields["layers"])
    assert sum(layer["params"] for layer in fields["layers"]) == PARAMS
    assert fields["metrics"]["fp32"]["samples"] == fields["metrics"]["compiled"]["samples"] == 500
    assert {"load", "normalize", "calibrate", "sensitivity", "allocate", "write", "verify"} <= fields[
        "seconds"
    ].keys()
    assert fields["peak_rss_bytes"] > 50e6
    assert fields["fp32_file_bytes"] == (tmp_path / "digits.onnx").stat().st_size
    assert fields["versions"].keys() >= {"onnxmpq", "onnx", "numpy"}


def test_the_model_keeps_what_its_owner_wrote(digits: Path) -> None:
    model = onnx.load(digits)
    onnx.helper.set_model_props(model, {"owner": "me", "labels": "0..9"})
    model.doc_string, model.graph.doc_string, model.graph.name = "a model", "a graph", "my graph"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "how_many"
    onnx.save(model, digits)
    report = onnxmpq.compile_model(digits, ["8bit-avg"], activations="fp32", samples=32, rounding="nearest")
    written = onnx.load(report.output)
    props = {p.key: p.value for p in written.metadata_props}
    assert {"owner": "me", "labels": "0..9"}.items() <= props.items()
    assert all(key.startswith("onnxmpq.") for key in props.keys() - {"owner", "labels"})
    assert (written.doc_string, written.graph.doc_string, written.graph.name) == (
        "a model",
        "a graph",
        "my graph",
    )
    assert list(written.graph.input) == list(model.graph.input)
    assert list(written.graph.output) == list(model.graph.output)
    assert not written.graph.value_info
    assert not any(n.doc_string or n.metadata_props for n in written.graph.node)


def test_the_file_runs_in_stock_onnxruntime(small: Compile, digits: Path) -> None:
    data = np.load(digits.with_name("digits.eval.npz"))
    report = small("4bit-avg", activations="int8")
    (scores,) = plain_run(report.output, image=data["image"])
    top1 = float((scores.argmax(axis=1) == data["labels"]).mean())
    assert top1 == pytest.approx(report.quality.metrics["compiled"].top1)
    assert top1 > 0.95


def test_the_same_input_gives_the_same_bytes(small: Compile, tmp_path: Path) -> None:
    first = small("5bit-avg", output=tmp_path / "a.onnx")
    second = small("5bit-avg", output=tmp_path / "b.onnx")
    assert Path(first.output).read_bytes() == Path(second.output).read_bytes()


def test_the_default_options(digits: Path) -> None:
    report = onnxmpq.compile_model(digits, ["4bit-avg"], samples=64)
    assert 3.9 < report.size.average_weight_bits <= 4
    after = report.quality.metrics["compiled"].top1
    assert after is not None
    assert after > 0.98


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_threads_change_nothing(
    small: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activations: str
) -> None:
    files = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(load, "resolve_runtime", lambda _, n=threads: Runtime("cpu", n))
        report = small(
            "4bit-avg", bits=(2, 3, 4, 8), rounding="compensated", activations=activations,
            output=tmp_path / f"{threads}.onnx", samples=128,
        )  # fmt: skip
        files.append(Path(report.output).read_bytes())
        assert any("rounded again" in note for note in report.run.notes)
    assert files[0] == files[1] == files[2]


def test_one_core_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores, and a system that can do without one")
    code = (
        "import os, sys; os.sched_setaffinity(0, range(int(sys.argv[1]))); import onnxmpq; "
        "onnxmpq.compile_model(sys.argv[2], ['5bit-avg'], samples=32, bits=(4, 8), activations='int8', output=sys.argv[3])"
    )

    def compiled(cores: int, limits: dict[str, str]) -> bytes:
        output = tmp_path / f"{cores}.onnx"
        command = [sys.executable, "-c", code, str(cores), str(digits), str(output)]
        subprocess.run(command, check=True, env={**os.environ, **limits})
        return output.read_bytes()

    assert compiled(1, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}) == compiled(2, {})


def test_a_failed_compile_leaves_an_older_file_alone(
    small: Compile, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = digits.with_name("digits.mpq.onnx")
    older.write_bytes(b"older")
    with pytest.raises(OutputError, match="never overwritten"):
        small("8bit-avg", output=digits, activations="fp32")
    monkeypatch.setattr(pipeline, "written_model", _fails)
    with pytest.raises(OutputError, match="full"):
        small("8bit-avg", activations="fp32")
    assert older.read_bytes() == b"older"
    assert not list(digits.parent.glob(".onnxmpq*"))


def test_a_file_that_fails_its_check_is_not_left(
    small: Compile, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise VerifyError("not the plan's")

    monkeypatch.setattr("onnxmpq.verify.stage.verify_file", broken)
    older = digits.with_name("digits.mpq.onnx")
    older.write_bytes(b"older")
    with pytest.raises(VerifyError):
        small("8bit-avg", activations="fp32")
    assert older.read_bytes() == b"older"
    assert not list(digits.parent.glob(".onnxmpq*"))


def _fails(*_: Any, **__: Any) -> int:
    raise OutputError("the disk is full")


# Data


def test_siblings_are_found(small: Compile) -> None:
    report = small("8bit-avg")
    assert "digits.calib.npz" in report.run.calibration
    assert report.quality.evaluated_on.startswith("500 samples of ")
    assert sum(note.startswith("using ") for note in report.run.notes) == 2
    assert 8 in {layer.activation_bits for layer in report.layers}  # the default with real data


def test_without_data_noise_stands_in_and_says_so(small: Compile, digits: Path) -> None:
    digits.with_name("digits.calib.npz").unlink()
    digits.with_name("digits.eval.npz").unlink()
    report = small("8bit-avg")
    assert any("16 synthetic inputs stand in" in note for note in report.run.notes)
    assert report.quality.evaluated_on == "16 other synthetic inputs"
    assert report.quality.metrics["compiled"].top1 is None
    assert {layer.activation_bits for layer in report.layers} == {None}


def test_a_part_of_the_data_is_held_back(small: Compile, digits: Path) -> None:
    digits.with_name("digits.eval.npz").unlink()
    report = small("8bit-avg", samples=40)
    assert report.run.calibration.startswith("40 samples")
    assert "held back" in report.quality.evaluated_on
    assert report.quality.metrics["compiled"].samples == 10


def test_arrays_as_data(digits: Path) -> None:
    data = dict(np.load(digits.with_name("digits.calib.npz")))
    report = onnxmpq.compile_model(digits, ["8bit-avg"], data, samples=32, rounding="nearest")
    assert "the given arrays" in report.run.calibration


def test_a_callable_as_data(digits: Path) -> None:
    data = np.load(digits.with_name("digits.calib.npz"))

    def samples() -> Any:
        yield from ({"image": data["image"][start : start + 8]} for start in range(0, 40, 8))

    report = onnxmpq.compile_model(digits, ["8bit-avg"], samples, samples=32, rounding="nearest")
    assert report.quality.metrics["compiled"].samples == 500


def test_bad_evaluation_data_stop_before_anything_is_written(small: Compile, digits: Path) -> None:
    images = np.load(digits.with_name("digits.eval.npz"))["image"].copy()
    images[3] = np.nan
    np.savez(digits.with_name("digits.eval.npz"), image=images)
    with pytest.raises(DataError, match="NaN"):
        small("8bit-avg", activations="fp32")
    assert not digits.with_name("digits.mpq.onnx").exists()


# Models


def save(text: str, path: Path, **shapes: Sequence[int]) -> Path:
    model = parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, path)
    return path


def test_free_dimensions_stay_free(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, C, H, W] x) => (float[N, 4, P, Q] y) { h = Conv (x, w) y = Relu (h) }"""
    model = save(text, tmp_path / "m.onnx", w=(4, 3, 3, 3))
    report = onnxmpq.compile_model(model, ["8bit-avg"], verify=False)
    assert any("compiling at 1x3x224x224" in note for note in report.run.notes)
    assert onnx.load(report.output).graph.input[0] == onnx.load(model).graph.input[0]
    image = np.ones((3, 3, 9, 7), np.float32)
    (got,), (wanted,) = plain_run(report.output, x=image), plain_run(model, x=image)
    np.testing.assert_allclose(got, wanted, atol=0.1)
    smaller = onnxmpq.compile_model(model, ["8bit-avg"], shapes={"x": (1, 3, 16, 16)})
    assert not any("compiling at" in note for note in smaller.run.notes)


def test_an_output_without_a_type(digits: Path) -> None:
    model = onnx.load(digits)
    model.graph.output[0].ClearField("type")
    onnx.save(model, digits)
    onnxmpq.compile_model(digits, ["8bit-avg"], activations="fp32", samples=32, rounding="nearest")


def test_an_old_opset(tmp_path: Path) -> None:
    text = """<ir_version: 3, opset_import: ["" : 7]>
    g (float[1, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[1, 4, 12, 12] y) {
      h = Conv (x, w)
      y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (h)
    }"""
    model = save(text, tmp_path / "m.onnx", w=(4, 3, 3, 3))
    report = onnxmpq.compile_model(model, ["8bit-avg"], activations="fp32")
    assert [i.name for i in onnx.load(report.output).graph.input] == ["x"]
    score = report.quality.metrics["compiled"]
    assert score.sqnr is not None
    assert score.sqnr > 35


def test_classes_behind_an_argmax_are_compared(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, 3, 8, 8] x) => (int64[N, 1, 6, 6] y) { h = Conv (x, w) y = ArgMax <axis = 1> (h) }"""
    model = save(text, tmp_path / "m.onnx", w=(4, 3, 3, 3))
    score = onnxmpq.compile_model(model, ["8bit-avg"]).quality.metrics["compiled"]
    assert score.sqnr is None
    assert score.agreement is not None
    assert 0.9 < score.agreement < 1


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_a_compiled_file_is_refused(small: Compile, activations: str) -> None:
    report = small("8bit-avg", activations=activations)
    with pytest.raises(ModelError, match="compiled by onnxmpq already"):
        onnxmpq.compile_model(report.output, ["8bit-avg"], activations=activations)


def test_a_folder_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path, Path()):
        with pytest.raises(ModelError, match="is a folder"):
            onnxmpq.compile_model(name, ["8bit-avg"])


def test_no_input_of_a_compile_is_written_over(tmp_path: Path) -> None:
    model, data = tmp_path / "digits.onnx", tmp_path / "some.npz"
    model.write_bytes(DIGITS_MODEL.read_bytes())
    data.write_bytes(DIGITS_MODEL.with_name("digits.calib.npz").read_bytes())
    before = data.read_bytes()
    with pytest.raises(OutputError, match="never overwritten"):
        onnxmpq.compile_model(model, ["8bit-avg"], data, output=data)
    assert data.read_bytes() == before


def test_a_method_of_the_users_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    metric = tmp_path / "mine.py"
    metric.write_text(
        "def broken(probe):\n    raise RuntimeError('disk on fire')\n\ndef empty(probe):\n    return None\n"
    )
    for name, message in (("broken", "disk on fire"), ("empty", "wanted a CostTable")):
        with pytest.raises(OptionError, match=message):
            onnxmpq.compile_model(
                DIGITS_MODEL, ["4bit-avg"], method=f"{metric}:{name}", samples=16, rounding="nearest",
                output=tmp_path / "out.onnx",
            )  # fmt: skip


def test_training_data_are_for_methods_that_train(small: Compile, digits: Path) -> None:
    data = digits.with_suffix(".eval.npz")
    report = small("6bit-avg", method="limpq", training=data, activations="fp32")
    with np.load(data) as arrays:
        assert report.sensitivity.samples == len(arrays["labels"])
    assert small("6bit-avg", method="limpq", activations="fp32").sensitivity.samples == 32
    assert any(
        "takes none of it" in note for note in small("6bit-avg", training=data, method="size").run.notes
    )
    assert not any("takes none of it" in note for note in report.run.notes)
    with pytest.raises(OutputError, match="input of the compile, which is never overwritten"):
        small("6bit-avg", training=data, output=data)


def test_labels_that_no_class_can_be_are_found_before_anything_is_measured(
    small: Compile, digits: Path
) -> None:
    with np.load(digits.with_suffix(".eval.npz")) as arrays:
        wrong = {name: arrays[name] for name in arrays.files}
    wrong["labels"] = wrong["labels"] + 7
    for options in ({"training": wrong, "method": "limpq"}, {"data": wrong}):
        with pytest.raises(DataError, match=r"labels of .* go up to 16, but output .* has 10 classes"):
            small("6bit-avg", **options)
    assert small(
        "6bit-avg", data=wrong, force=True
    ).output  # a network of features, say, and whose labels nobody reads
    with pytest.raises(DataError, match="go up to 16"):
        small("6bit-avg", data=wrong, force=True, method="first-order")


def test_semilayers_of_different_widths_are_written(small: Compile) -> None:
    report = small("5bit-avg", method="semilayer", activations="fp32", samples=16)
    assert len(report.layers) > 16
    assert report.size.average_weight_bits <= 5


@pytest.mark.parametrize("method", ["greedy", "semilayer", "first-order", "limpq"])
def test_missing_labels_are_found_before_anything_is_measured(
    small: Compile, digits: Path, method: str
) -> None:
    with np.load(digits.with_suffix(".calib.npz")) as arrays:
        unlabelled = {name: arrays[name] for name in arrays.files if name != "labels"}
    begun: list[str] = []

    class Watching(Observer):
        def stage(self, name: str) -> None:
            begun.append(name)

    with pytest.raises(DataError, match=f"method {method} .* have no"):
        small("6bit-avg", method=method, data=unlabelled, observer=Watching())
    assert begun == ["load", "normalize"]


def test_codes_of_integer_layers_fit_every_cpu_unless_told(small: Compile) -> None:
    report = small("8bit-avg", bits=(8,), keep=["head=8/fp32"])
    assert set(widths(report).values()) == {7, 8}
    assert widths(report)["head"] == 8  # computes in float
    assert (report.quality.cpus, report.size.average_weight_bits < 8) == ("any", True)
    assert any("--isa vnni" in note for note in report.run.notes)
    fast = small("8bit-avg", bits=(8,), isa="vnni", activations="int8")
    assert set(widths(fast).values()) == {8}
    assert "16 layers with 8-bit codes saturate" in fast.quality.cpus
    assert (report.requirements.target, report.requirements.storage) == ("ort-cpu", "packed")


@pytest.mark.parametrize("storage", ["native", "int8"])
def test_budgets_count_what_the_file_holds(small: Compile, storage: str) -> None:
    report = small("8bit-avg", bits=(3,), storage=storage, activations="fp32")
    container = {"native": 4, "int8": 8}[storage]
    assert {layer.container_bits for layer in report.layers} == {8 if storage == "int8" else None}
    assert report.size.average_weight_bits == container
    assert stored_widths(report.output) == [container] * len(report.layers)
    with pytest.raises(InfeasibleError, match=f"the smallest this model gets is {container}bit-avg"):
        small("3bit-avg", bits=(3,), storage=storage)


def test_a_target_brings_its_storage_and_says_whose_figures_these_are(small: Compile) -> None:
    report = small("8bit-avg", target="tensorrt")
    assert report.requirements == Requirements("tensorrt", "native", 17, "1.15")
    assert any("the file is for TensorRT" in note for note in report.run.notes)
    model = onnx.load(report.output)
    types = {t.name: t.data_type for t in model.graph.initializer}
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert quantizers
    assert {types[n.input[2]] for n in quantizers} == {onnx.TensorProto.INT8}
    with pytest.raises(OptionError, match="takes no weights stored 'packed'"):
        small("8bit-avg", target="tensorrt", storage="packed")
    with pytest.raises(OptionError, match="any or vnni"):
        small("8bit-avg", isa="avx2")


def test_layers_before_a_sum_may_stay_in_float_for_a_target_that_fuses_one(small: Compile) -> None:
    options: dict[str, Any] = {"bits": (8, 32), "target": "tensorrt", "method": "size"}
    report = small("14bit-avg", **options)
    assert {layer.weight_bits for layer in report.layers} == {8, 32}


# Networks that rounding once more must leave alone

ODD = {
    "a weight on the left": """g (float[n, 6, 8] x) => (float[n, 4, 8] y) { h = Relu (x)  y = MatMul (w46, h) }""",
    "a stack of weights": """g (float[n, 4, 5, 6] x) => (float[n, 4, 5, 8] y) { y = MatMul (x, w468) }""",
    "a transposed input": """g (float[6, 3] x) => (float[3, 8] y) { y = Gemm <transA = 1> (x, w68) }""",
    "rows that the data choose": """g (float[n, 6] x) => (float[m, 5] y) {
        h = MatMul (x, w68)  m = ReduceMax <axes = [1], keepdims = 0> (h)  c = Greater (m, one)
        f = Compress <axis = 0> (h, c)  y = MatMul (f, w85) }""",
    "a weight that is read twice": """g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, k)  r = Relu (a)  y = Conv <pads = [1, 1, 1, 1]> (r, k) }""",
    "a sum that is an output beside its part": """g (float[n, 4, 6, 6] x) => (float[n, 4, 6, 6] y, float[n, 4, 6, 6] a) {
        a = Conv <pads = [1, 1, 1, 1]> (x, k)  y = Add (a, x) }""",
}  # fmt: skip
WEIGHTS = {"w46": (4, 6), "w468": (4, 6, 8), "w68": (6, 8), "w85": (8, 5), "k": (4, 4, 3, 3), "one": ()}


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("kind", ODD)
def test_networks_that_are_odd_to_round_behind(tmp_path: Path, kind: str, activations: str) -> None:
    model = parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {ODD[kind]}')
    rng = np.random.default_rng(0)
    for name in [n for n in WEIGHTS if any(n in node.input for node in model.graph.node)]:
        value = rng.standard_normal(WEIGHTS[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "m.onnx")
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    whole = not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    arrays = {"x": rng.standard_normal((64, *shape) if whole else (64, *shape[1:])).astype(np.float32)}
    report = onnxmpq.compile_model(
        tmp_path / "m.onnx", ["4bit-avg"], arrays, activations=activations, bits=(2, 4, 8), metric="nse",
        output=tmp_path / "o.onnx",
    )  # fmt: skip
    assert report.size.average_weight_bits <= 4


@pytest.mark.parametrize("method", [name for name in METHODS if name != "measured"])
def test_where_no_layer_has_a_choice_no_method_is_asked(small: Compile, method: str) -> None:
    report = small("drop=50%", keep=["*=4"], method=method)
    assert set(widths(report).values()) == {4}
    assert report.sensitivity.method == UNMEASURED
