"""Plans as the files they would become: their bytes, their loss, their time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx

from onnxmpq.context.prepared import Prepared
from onnxmpq.context.setting import Setting
from onnxmpq.lower.channel_groups import joined, split
from onnxmpq.lower.file_bytes import FileBytes
from onnxmpq.lower.lower_plan import known_names, lower, planned_opset, prove_opset
from onnxmpq.metrics.latency import slowdown
from onnxmpq.metrics.score import loss_of_function
from onnxmpq.onnx_io.default_attributes import drop_defaults
from onnxmpq.onnx_io.short_names import shorten_names
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import Sensitivity, Trajectory
from onnxmpq.values.group import Group, Groups, Unit, divided
from onnxmpq.values.placement import Placement
from onnxmpq.values.plan import Plan


@dataclass(frozen=True)
class Draft:
    """A plan and what its file is made of: `units` are stored apart, and each is a layer of the prepared model."""

    setting: Setting
    candidates: Candidates
    plan: Plan
    units: tuple[Unit, ...]
    sizes: FileBytes = field(default_factory=FileBytes, compare=False, repr=False)

    @property
    def prepared(self) -> Prepared:
        return self.setting.prepared

    @property
    def placement(self) -> Placement:
        """Where activations are quantized under the plan."""
        return self.setting.quantized.of(self.plan, self.prepared)

    @property
    def constants(self) -> dict[str, Array]:
        """What its layers compute with, by name."""
        return self.candidates.under(self.prepared.layers, self.plan)

    def lowered(self) -> onnx.ModelProto:
        """The model that holds the plan."""
        setting = self.setting
        return lower(self.prepared, self.plan, self.candidates, setting.quantized, setting.request.target)

    def file_size(self) -> int:
        """Bytes of its file, which is not made."""
        setting = self.setting
        return self.sizes.of(
            self.prepared, self.plan, self.candidates, setting.quantized, setting.request.target
        )

    def loss(self) -> float:
        """Its loss of function in [0, 1] on the samples that judge it."""
        setting, metric = self.setting, self.prepared.metric
        model = setting.runtime.session(self.lowered())
        selection, batch_size = setting.splits.selection, self.prepared.batch_size
        return loss_of_function(setting.reference, model, selection, metric, batch_size)

    def written(self) -> onnx.ModelProto:
        """The same, to be shipped: without attributes that say nothing, with short names where they are worth it. Raises ModelError where its opset changes what the float model computes."""
        opset = planned_opset(self.plan, self.prepared, self.setting.request.target)
        prove_opset(self.setting.runtime, self.prepared, opset)
        model = drop_defaults(self.lowered())
        shorten_names(model, known_names(self.prepared.layers))
        return model


@dataclass(frozen=True)
class Lowering:
    """Makes drafts of plans, and measures the bytes and the speed of their files.

    Plans are over the model's layers, or over `groups` of channels in place of the layers that have such.
    """

    setting: Setting
    candidates: Candidates
    groups: Groups = field(default_factory=dict)
    sizes: FileBytes = field(default_factory=FileBytes, compare=False, repr=False)

    def over(self, costs: Sensitivity) -> Lowering:
        """The same for plans over what the method decided about: the model's layers, or groups of their channels."""
        return replace(self, groups=costs.groups if isinstance(costs, Trajectory) else {})

    @property
    def units(self) -> tuple[Unit, ...]:
        """What plans are over."""
        return tuple(divided(self.setting.prepared.layers, self.groups))

    def draft(self, plan: Plan) -> Draft:
        """The plan, a layer's groups of one option joined."""
        stored = joined(self.units, plan)
        units, plan = tuple(stored), Plan({unit.name: option for unit, option in stored.items()})
        groups = [unit for unit in units if isinstance(unit, Group)]
        if not groups:  # drafts share what the float network gives
            return Draft(self.setting, self.candidates, plan, units, self.sizes)
        prepared = split(self.setting.prepared, units)
        candidates = self.candidates.of_groups(prepared.model, groups)
        return Draft(replace(self.setting, prepared=prepared), candidates, plan, units, self.sizes)

    def file_size(self, plan: Plan) -> int:
        """Bytes of the plan's file."""
        return self.draft(plan).file_size()

    def timer(self, plan: Plan) -> Timer:
        """What times the plan's file."""
        return Timer(self.setting, self.draft(plan).lowered())

    def slowdown(self, plan: Plan) -> float:
        """How many times as long as the given model the plan's file takes, on all cores."""
        return self.timer(plan).slowdown()


@dataclass(frozen=True)
class Timer:
    """Times a file, made once, beside the given model."""

    setting: Setting
    model: onnx.ModelProto

    def slowdown(self, *, on_one_thread: bool = False, batch: int | None = None) -> float:
        """How many times as long as the given model the file takes, on all cores or on one thread.

        On one sample (what the graph demands at a time), or on a batch of so many.
        """
        reference, model = self._alone if on_one_thread else self._together
        feeds = self.setting.prepared.sample
        if batch is not None:
            feeds = next(iter(self.setting.splits.rounding.batches(batch))).feeds
        return slowdown(reference, model, feeds)

    @cached_property
    def _together(self) -> tuple[Session, Session]:
        return self.setting.reference, self.setting.runtime.session(self.model)

    @cached_property
    def _alone(self) -> tuple[Session, Session]:
        runtime = self.setting.runtime.on_one_thread()
        return runtime.session(self.setting.prepared.original), runtime.session(self.model)
