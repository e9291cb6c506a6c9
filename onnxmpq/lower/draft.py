"""Plans as the files they would become: their bytes, their loss, their time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import onnx

from onnxmpq.context.prepared import Prepared
from onnxmpq.context.setting import Setting
from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import Augmentations
from onnxmpq.lower.channel_groups import grouped, with_units
from onnxmpq.lower.file_bytes import FileBytes
from onnxmpq.lower.lower_plan import lower, planned_opset, prove_opset, simulate
from onnxmpq.metrics.latency import slowdown
from onnxmpq.metrics.score import loss_of_function
from onnxmpq.requantize.sequential import SequentialRequantizer
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import Sensitivity, Trajectory
from onnxmpq.values.layer import Layer
from onnxmpq.values.placement import Placement
from onnxmpq.values.plan import Plan


@dataclass(frozen=True)
class Draft:
    """A plan and what its file is made of; groups of channels that take widths of their own are layers in it."""

    setting: Setting
    candidates: Candidates
    plan: Plan
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

    def requantizer(self, data: Dataset, augmentations: Augmentations) -> SequentialRequantizer:
        """The float network, and the one with the plan's Q/DQ pairs on activations, to requantize layers on such data."""
        setting, prepared = self.setting, self.prepared
        samples = setting.request.effort.requantize
        network = simulate(prepared, self.plan, setting.quantized)
        return SequentialRequantizer(
            setting.runtime, prepared.model, network, prepared.layers, prepared.traced, data, prepared.batch_size, samples,
            grids=setting.request.target.grids, augmentations=augmentations,
        )  # fmt: skip

    def loss(self) -> float:
        """Its loss of function in [0, 1] on the samples that judge it."""
        setting, metric = self.setting, self.prepared.metric
        model = setting.runtime.session(self.lowered())
        selection, batch_size = setting.splits.selection, self.prepared.batch_size
        return loss_of_function(setting.reference, model, selection, metric, batch_size)

    def written(self) -> onnx.ModelProto:
        """The same, to be shipped: raises ModelError where its opset changes what the float model computes."""
        opset = planned_opset(self.plan, self.prepared, self.setting.request.target)
        prove_opset(self.setting.runtime, self.prepared, opset)
        return self.lowered()


@dataclass(frozen=True)
class Lowering:
    """Makes drafts of plans, and measures the bytes and the speed of their files.

    `units` are what plans are over where these are not the model's layers: groups of their channels.
    """

    setting: Setting
    candidates: Candidates
    units: tuple[Layer, ...] = ()
    sizes: FileBytes = field(default_factory=FileBytes, compare=False, repr=False)

    def over(self, costs: Sensitivity) -> Lowering:
        """The same for plans over what the method decided about: the model's layers, or groups of their channels."""
        return replace(self, units=costs.layers if isinstance(costs, Trajectory) else ())

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What plans are over."""
        return with_units(self.setting.prepared, self.units)

    def draft(self, plan: Plan) -> Draft:
        """The plan, its groups of channels of one width joined."""
        setting = self.setting
        prepared, candidates, merged = grouped(setting.prepared, self.candidates, self.units, plan)
        if prepared is not setting.prepared:
            setting = replace(setting, prepared=prepared)
        return Draft(setting, candidates, merged, self.sizes)  # drafts share what the float network gives

    def file_size(self, plan: Plan) -> int:
        """Bytes of the plan's file."""
        return self.draft(plan).file_size()

    def slowdown(self, plan: Plan) -> float:
        """How many times as long as the given model the plan's file takes."""
        model = self.setting.runtime.session(self.draft(plan).lowered())
        return slowdown(self.setting.reference, model, self.setting.prepared.sample)
