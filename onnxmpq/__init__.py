"""Compile a trained CNN in ONNX into a smaller, faster mixed-precision ONNX model.

>>> import onnxmpq
>>> report = onnxmpq.compile_model("model.onnx", ["4bit-avg"], data="calibration.npz")  # doctest: +SKIP
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of `typing`, which takes a while to import
if TYPE_CHECKING:
    from typing import Any

    from onnxmpq.api import compile_model
    from onnxmpq.budgets.budget import Budget
    from onnxmpq.calibrate.calibrators import Calibrator
    from onnxmpq.calibrate.statistics import Statistics
    from onnxmpq.data import Dataset
    from onnxmpq.data.preprocess import Preprocess
    from onnxmpq.errors import OnnxmpqError
    from onnxmpq.evaluation import evaluate_model
    from onnxmpq.inspection import inspect_model
    from onnxmpq.metrics.metric import Metric
    from onnxmpq.sensitivity.probe import Probe
    from onnxmpq.values.activation_range import CodeType
    from onnxmpq.values.costs import CostTable, Trajectory
    from onnxmpq.values.keep import Keep
    from onnxmpq.values.layer import Layer
    from onnxmpq.values.option import Option
    from onnxmpq.values.plan import Plan
    from onnxmpq.values.report import Report
    from onnxmpq.values.target import ActivationRules, Target, WeightRules

_HOMES = {
    # what users call, and what they give and get
    "Budget": "budgets.budget",
    "Keep": "values.keep",
    "OnnxmpqError": "errors",
    "Preprocess": "data.preprocess",
    "Report": "values.report",
    "compile_model": "api",
    "evaluate_model": "evaluation",
    "inspect_model": "inspection",
    # what a file with a target, method or calibrator of its own needs
    "ActivationRules": "values.target",
    "Calibrator": "calibrate.calibrators",
    "CodeType": "values.activation_range",
    "CostTable": "values.costs",
    "Dataset": "data",
    "Layer": "values.layer",
    "Metric": "metrics.metric",
    "Option": "values.option",
    "Plan": "values.plan",
    "Probe": "sensitivity.probe",
    "Statistics": "calibrate.statistics",
    "Target": "values.target",
    "Trajectory": "values.costs",
    "WeightRules": "values.target",
}

__all__ = [
    "ActivationRules", "Budget", "Calibrator", "CodeType", "CostTable", "Dataset", "Keep", "Layer", "Metric",
    "OnnxmpqError", "Option", "Plan", "Preprocess", "Probe", "Report", "Statistics", "Target", "Trajectory",
    "WeightRules", "compile_model", "evaluate_model", "inspect_model",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import onnxmpq` should not load a runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxmpq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"onnxmpq.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """With the public names, which are not there before they are asked for."""
    return sorted({*globals(), *__all__})
