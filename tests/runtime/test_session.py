from __future__ import annotations

import ctypes

import pytest

from onnxmpq.runtime.session import resolve_runtime


@pytest.mark.parametrize("driver", [False, True])
def test_looking_for_cuda_prints_nothing(
    driver: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where CUDA is built in and its libraries are missing, ONNX Runtime says so on both streams."""
    if driver:
        monkeypatch.setattr(ctypes, "CDLL", lambda _name: None)
    assert resolve_runtime("auto").provider in {"cpu", "cuda"}
    assert capfd.readouterr() == ("", "")
