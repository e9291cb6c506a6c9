import copy
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import pytest

from onnxmpq.values.report import (
    QualityReport,
    Report,
    Requirements,
    RunReport,
    SensitivityReport,
    SizeReport,
    SpeedReport,
    to_json,
)
from onnxmpq.values.score import Score

REPORT = Report(
    "m.onnx", "out.onnx", SizeReport(3.5, 100, 800, 200, 900), (), (),
    QualityReport({"fp32": Score(9)}, "9 samples", "any", is_broken=False),
    SpeedReport((), None, "a CPU", dequantizes=False, float_ops={"act": "why"}),
    Requirements("ort-cpu", "packed", 21, "1.23"),
    SensitivityReport("measured", 48, 128, "nats", "kl", "balanced", None),
    RunReport("cpu", "8 samples", ("a note",), {"load": 1.5}, 2048, {"onnx": "1.23"}),
)  # fmt: skip


def _as_json(score: Score) -> Any:
    return json.loads(json.dumps(asdict(score)))


def test_json_has_no_infinities() -> None:
    text = to_json({"score": asdict(Score(3, sqnr=math.inf)), "list": (1.5, math.nan, None), 4: "key"})
    assert json.loads(text) == {
        "score": _as_json(Score(3)),
        "list": [1.5, None, None],
        "4": "key",
    }


def test_the_json_of_a_report_is_flat_and_keeps_its_names() -> None:
    assert json.loads(REPORT.to_json()) == {
        "model": "m.onnx", "output": "out.onnx", "budgets": [], "layers": [],
        "average_weight_bits": 3.5, "weight_bytes": 100, "fp32_weight_bytes": 800, "file_bytes": 200, "fp32_file_bytes": 900, "other_weights": [],
        "metrics": {"fp32": _as_json(Score(9))},
        "evaluated_on": "9 samples", "cpus": "any", "is_broken": False, "lost": [], "cause": None, "unjudged": None,
        "latency": [], "is_faster": None, "processor": "a CPU", "dequantizes": False, "float_ops": {"act": "why"},
        "target": "ort-cpu", "storage": "packed", "opset": 21, "onnxruntime": "1.23", "optimizations": "all",
        "method": "measured", "evaluations": 48, "sensitivity_samples": 128, "sensitivity_unit": "nats", "metric": "kl",
        "effort": "balanced", "search": None,
        "provider": "cpu", "calibration": "8 samples", "notes": ["a note"], "seconds": {"load": 1.5}, "peak_rss_bytes": 2048,
        "versions": {"onnx": "1.23"},
    }  # fmt: skip


def test_every_name_of_the_json_is_an_attribute() -> None:
    flat = REPORT.to_dict()
    for name, value in flat.items():
        assert to_json(_plain(getattr(REPORT, name))) == to_json(value), name
    assert REPORT.file_bytes == REPORT.size.file_bytes == 200
    assert REPORT.sensitivity_samples == 128
    with pytest.raises(AttributeError, match="no 'file_byte'"):
        _ = REPORT.file_byte
    assert not hasattr(REPORT, "__fspath__")


def test_a_report_can_be_copied_and_pickled() -> None:
    for other in (copy.copy(REPORT), copy.deepcopy(REPORT), pickle.loads(pickle.dumps(REPORT))):
        assert other == REPORT
        assert other.file_bytes == 200


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
