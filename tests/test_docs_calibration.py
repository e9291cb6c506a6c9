"""The examples of docs/calibration.md run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from shared import ROOT

import onnxmpq
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Floats

TEXT = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
RNG = np.random.default_rng(0)


def weight(*shape: int) -> Floats:
    found: Floats = RNG.standard_normal(shape).astype(np.float32)
    return found


def images() -> onnx.ModelProto:
    return model_of(
        "g (float[n, 3, 32, 32] images) => (float[n, 10] logits) "
        "{ a = Conv <strides = [2, 2]> (images, w) b = Relu (a) c = GlobalAveragePool (b) d = Flatten (c) "
        "logits = MatMul (d, v) }",
        w=weight(16, 3, 3, 3), v=weight(16, 10),
    )  # fmt: skip


def encoder() -> onnx.ModelProto:
    return model_of(
        "g (int64[n, t] input_ids, int64[n, t] attention_mask) => (float[n, 16] embedding) "
        "{ e = Gather (table, input_ids) h = MatMul (e, w) m = Cast <to = 1> (attention_mask) "
        "u = Unsqueeze (m, last) k = Mul (h, u) s = ReduceSum <keepdims = 0> (k, middle) "
        "c = ReduceSum (m, middle) embedding = Div (s, c) }",
        table=weight(50, 16), w=weight(16, 16), last=np.array([-1]), middle=np.array([1]),
    )  # fmt: skip


def stream() -> onnx.ModelProto:
    return model_of(
        "g (float[n, 40] window, float[2, n, 8] state, int64 rate) => (float[n, 8] speech, float[2, n, 8] new_state) "
        "{ r = Cast <to = 1> (rate) f = Mul (r, scale) x = Mul (window, f) h = MatMul (x, w) "
        "s = ReduceMean <axes = [0], keepdims = 0> (state) a = Add (h, s) speech = Tanh (a) "
        "u = Unsqueeze (speech, first) new_state = Concat <axis = 0> (u, u) }",
        w=weight(40, 8), scale=np.array(1 / 16000, np.float32), first=np.array([0]),
    )  # fmt: skip


def example(name: str, folder: Path) -> Path:
    """The code block that begins with `# name`, as a file."""
    found = re.search(rf"```python\n(# {re.escape(name)}\n.*?)```", TEXT, re.DOTALL)
    assert found is not None, name
    (folder / name).write_text(found[1], encoding="utf-8")
    return folder / name


def quantized(report: onnxmpq.Report) -> int:
    return sum(layer.weight_bits <= 8 for layer in report.layers)


def test_arrays_of_an_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, example("arrays.py", tmp_path)], check=True)
    onnx.save(images(), "model.onnx")
    assert quantized(onnxmpq.compile_model("model.onnx", "4bit-avg", "calib.npz", effort="fast")) == 2


@pytest.mark.parametrize(
    ("model", "reference"), [("encoder", "tokens.py:data"), ("stream", "stream.py:windows")]
)
def test_callables(model: str, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save({"encoder": encoder, "stream": stream}[model](), f"{model}.onnx")
    example(reference.partition(":")[0], tmp_path)
    report = onnxmpq.compile_model(f"{model}.onnx", "8bit-avg", reference, effort="fast")
    assert quantized(report) >= 1
    assert not report.quality.lost


def test_a_training_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(images(), "model.onnx")
    done = subprocess.run(
        [sys.executable, example("pipeline.py", tmp_path)], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == Path("small.onnx").stat().st_size
