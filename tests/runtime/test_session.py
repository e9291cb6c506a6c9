from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.runtime.session import Runtime, resolve_runtime
from onnxmpq.testing import model_of


@pytest.mark.parametrize("driver", [False, True])
def test_looking_for_cuda_prints_nothing(
    driver: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where CUDA is built in and its libraries are missing, ONNX Runtime says so on both streams."""
    if driver:
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: None)
    assert resolve_runtime("auto").provider in {"cpu", "cuda"}
    assert capfd.readouterr() == ("", "")


def test_no_outputs_are_no_outputs() -> None:
    model = model_of("g (float[1] x) => (float[1] y) { y = Relu (x) }")
    assert Runtime().session(model).run({"x": np.ones(1, np.float32)}, []) == {}


def test_a_path_in_another_encoding_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xbe\xed.onnx")
    file.write_bytes(model_of("g (float[1] x) => (float[1] y) { y = Relu (x) }").SerializeToString())
    assert Runtime().session(file).outputs == ("y",)
