"""Compile a trained CNN in ONNX into a smaller, faster mixed-precision ONNX model.

>>> import onnxmpq
>>> report = onnxmpq.compile_model("model.onnx", ["4bit-avg"], data="calibration.npz")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxmpq.api import compile_model
    from onnxmpq.budgets.budget import Budget
    from onnxmpq.data.preprocess import Preprocess
    from onnxmpq.errors import OnnxmpqError
    from onnxmpq.evaluation import evaluate_model
    from onnxmpq.inspection import inspect_model
    from onnxmpq.values.keep import Keep
    from onnxmpq.values.report import Report

_HOMES = {
    "Budget": "budgets.budget",
    "Keep": "values.keep",
    "OnnxmpqError": "errors",
    "Preprocess": "data.preprocess",
    "Report": "values.report",
    "compile_model": "api",
    "evaluate_model": "evaluation",
    "inspect_model": "inspection",
}

__all__ = [
    "Budget", "Keep", "OnnxmpqError", "Preprocess", "Report", "compile_model", "evaluate_model", "inspect_model",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `onnxmpq --help` should not load a runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxmpq' has no attribute {name!r}")
    return getattr(import_module(f"onnxmpq.{_HOMES[name]}"), name)
