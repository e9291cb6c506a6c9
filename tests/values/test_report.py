import json
import math
from dataclasses import asdict

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


def test_json_has_no_infinities() -> None:
    text = to_json({"score": asdict(Score(3, sqnr=math.inf)), "list": (1.5, math.nan, None), 4: "key"})
    assert json.loads(text) == {
        "score": {"samples": 3, "top1": None, "agreement": None, "kl": None, "sqnr": None},
        "list": [1.5, None, None],
        "4": "key",
    }


def test_the_json_of_a_report_is_flat_and_keeps_its_names() -> None:
    report = Report(
        "m.onnx", "out.onnx", SizeReport(3.5, 100, 800, 200, 900), (), (),
        QualityReport({"fp32": Score(9)}, "9 samples", "any", is_broken=False),
        SpeedReport((), None, "a CPU", dequantizes=False, float_ops={"act": "why"}),
        Requirements("ort-cpu", "packed", 21, "1.23"),
        SensitivityReport("measured", 48, 128, "nats", "kl", "balanced", None),
        RunReport("cpu", "8 samples", ("a note",), {"load": 1.5}, 2048, {"onnx": "1.23"}),
    )  # fmt: skip
    assert json.loads(report.to_json()) == {
        "model": "m.onnx", "output": "out.onnx", "budgets": [], "layers": [],
        "average_weight_bits": 3.5, "weight_bytes": 100, "fp32_weight_bytes": 800, "file_bytes": 200, "fp32_file_bytes": 900,
        "metrics": {"fp32": {"samples": 9, "top1": None, "agreement": None, "kl": None, "sqnr": None}},
        "evaluated_on": "9 samples", "cpus": "any", "is_broken": False,
        "latency": [], "is_faster": None, "processor": "a CPU", "dequantizes": False, "float_ops": {"act": "why"},
        "target": "ort-cpu", "storage": "packed", "opset": 21, "onnxruntime": "1.23", "optimizations": "all",
        "method": "measured", "evaluations": 48, "sensitivity_samples": 128, "sensitivity_unit": "nats", "metric": "kl",
        "effort": "balanced", "search": None,
        "provider": "cpu", "calibration": "8 samples", "notes": ["a note"], "seconds": {"load": 1.5}, "peak_rss_bytes": 2048,
        "versions": {"onnx": "1.23"},
    }  # fmt: skip
