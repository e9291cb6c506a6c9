"""Everything a compile has to tell, as one value that turns into JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxmpq.values.latency import Latency
from onnxmpq.values.score import Score


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer of the compiled file; `sensitivity` is the measured cost of its width (None: not measured)."""

    name: str
    op: str
    params: int
    weight_bits: int  # of its codes
    activation_bits: int | None
    stored_bytes: int
    sensitivity: float | None = None
    kernel: str | None = None  # the integer kernel the runtime really chose
    reason: str | None = None  # why it is not quantized, or not integer
    container_bits: int | None = None  # that the file spends on a code, where that is more


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """A budget as it was asked, its limit and what was reached, in its own units."""

    asked: str
    kind: str
    limit: float
    reached: float | None
    met: bool | None = None  # None where it was not measured


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What the network as a whole said of the plan: its loss before and after in `Report.metric`, other plans tried and kept."""

    before: float
    after: float
    tried: int
    kept: int
    rival: str | None  # the plan that looks at no costs that it was found from


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one compile. Bytes are real ones, measured on the written file."""

    model: str
    output: str
    average_weight_bits: float
    weight_bytes: int
    fp32_weight_bytes: int
    file_bytes: int
    fp32_file_bytes: int
    budgets: tuple[BudgetReport, ...]
    layers: tuple[LayerReport, ...]
    metrics: Mapping[str, Score]  # "fp32" and "compiled"
    evaluated_on: str
    latency: tuple[Latency, ...]
    is_faster: bool | None  # than fp32 at some batch size; None where it was not timed
    provider: str
    processor: str
    target: str
    storage: str
    dequantizes: bool  # weights, at every run of ONNX Runtime, where no integer kernel reads them
    opset: int
    onnxruntime: str  # the lowest version that loads the file
    optimizations: str  # the most of its graph optimizations with which it does: "all" or "basic"
    cpus: str  # on which the measured accuracy holds
    method: str
    evaluations: int  # runs over all `sensitivity_samples` that the method made, of a changed network or with gradients
    sensitivity_samples: int
    sensitivity_unit: str  # of the layers' sensitivities
    metric: str
    calibration: str
    effort: str
    search: SearchReport | None  # None where the budgets left one plan, or a file's own loss or time decided
    float_ops: Mapping[str, str]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    peak_rss_bytes: int
    versions: Mapping[str, str]
    is_broken: bool  # the compiled model lost the function of the original

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an infinite SQNR (equal outputs) becomes null."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def to_json(self) -> str:
        return to_json(self.to_dict())


def to_json(value: Any) -> str:
    """Values, dataclasses turned into dicts, as JSON text; what JSON cannot say (infinity, NaN) as null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
