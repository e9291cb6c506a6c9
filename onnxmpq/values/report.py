"""Everything a compile has to tell, as one value that turns into JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxmpq.values.latency import Latency
from onnxmpq.values.other_weight import OtherWeight
from onnxmpq.values.score import Score

_FLAT_NAMES = {"samples": "sensitivity_samples", "unit": "sensitivity_unit"}


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
class SizeReport:
    """Bytes are real ones, measured on the written file; those of weights have their scales with them."""

    average_weight_bits: float
    weight_bytes: int
    fp32_weight_bytes: int
    file_bytes: int
    fp32_file_bytes: int
    other_weights: tuple[OtherWeight, ...] = ()  # that no layer holds, of those that are not small


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What the file gives, judged on samples; no metrics where it was not run."""

    metrics: Mapping[str, Score]  # "fp32" and "compiled"
    evaluated_on: str
    cpus: str  # on which the measured accuracy holds
    is_broken: bool  # the compiled model lost the function of the original
    lost: tuple[str, ...] = ()  # what of which outputs
    cause: str | None = None  # of that, and what to type next
    unjudged: str | None = None  # why nothing could be judged, though it was to be


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """How fast the file is, and what in it is not in integers."""

    latency: tuple[Latency, ...]
    is_faster: bool | None  # than fp32 at some batch size; None where it was not timed
    processor: str
    dequantizes: bool  # weights, at every run of ONNX Runtime, where no integer kernel reads them
    float_ops: Mapping[str, str]  # operators between layers that stay in float, and why


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What the network as a whole said of the plan: its loss and that of what ships, in `SensitivityReport.metric`."""

    before: float
    after: float
    rival: str | None  # the plan that looks at no costs that ships in its place


@dataclass(frozen=True, slots=True)
class Requirements:
    """The target and storage that a file was written for, and the least that it needs."""

    target: str
    storage: str
    opset: int
    onnxruntime: str  # the lowest version that loads the file
    optimizations: str = "all"  # the most of its graph optimizations with which it does: "all" or "basic"

    def __str__(self) -> str:
        limited = f" at {self.optimizations} graph optimizations" if self.optimizations != "all" else ""
        return f"opset {self.opset}, ONNX Runtime {self.onnxruntime}{limited}"


@dataclass(frozen=True, slots=True)
class SensitivityReport:
    """How it was found which layers need their bits."""

    method: str
    evaluations: int  # runs over all `samples` that the method made, of a changed network or with gradients
    samples: int
    unit: str  # of the layers' sensitivities
    metric: str  # of the network's loss
    effort: str
    search: SearchReport | None  # None where the budgets left one plan, or a file's own loss or time decided


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the compile itself ran on and with, and what it took."""

    provider: str
    calibration: str
    notes: tuple[str, ...]
    seconds: Mapping[str, float]  # by stage
    peak_rss_bytes: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one compile, in groups; its JSON is flat, and its names are attributes, too: `report.file_bytes`."""

    model: str
    output: str
    size: SizeReport
    budgets: tuple[BudgetReport, ...]
    layers: tuple[LayerReport, ...]
    quality: QualityReport
    speed: SpeedReport
    requirements: Requirements
    sensitivity: SensitivityReport
    run: RunReport

    def __getattr__(self, name: str) -> Any:
        """A field of a group by its name in the JSON."""
        if name not in _HOMES:
            raise AttributeError(f"a report has no {name!r}", name=name, obj=self)
        group, field = _HOMES[name]
        return getattr(getattr(self, group), field)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by flat names, those that readers of the JSON know; an infinite SQNR (equal outputs) becomes null."""
        flat: dict[str, Any] = {}
        for name, value in _plain(dataclasses.asdict(self)).items():
            flat |= value if isinstance(value, dict) else {name: value}  # the fields of groups stand loose
        return {_FLAT_NAMES.get(name, name): value for name, value in flat.items()}

    def to_json(self) -> str:
        return to_json(self.to_dict())


_GROUPS = {
    "size": SizeReport, "quality": QualityReport, "speed": SpeedReport, "requirements": Requirements,
    "sensitivity": SensitivityReport, "run": RunReport,
}  # fmt: skip
# Where a name of the JSON stands: its group and field.
_HOMES = {
    _FLAT_NAMES.get(field.name, field.name): (group, field.name)
    for group, kind in _GROUPS.items()
    for field in dataclasses.fields(kind)
}


def to_json(value: Any) -> str:
    """Values, dataclasses turned into dicts, as JSON text; what JSON cannot say (infinity, NaN) as null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
