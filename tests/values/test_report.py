import json
import math
from dataclasses import asdict

from onnxmpq.values.report import to_json
from onnxmpq.values.score import Score


def test_json_has_no_infinities() -> None:
    text = to_json({"score": asdict(Score(3, sqnr=math.inf)), "list": (1.5, math.nan, None), 4: "key"})
    assert json.loads(text) == {
        "score": {"samples": 3, "top1": None, "agreement": None, "kl": None, "sqnr": None},
        "list": [1.5, None, None],
        "4": "key",
    }
