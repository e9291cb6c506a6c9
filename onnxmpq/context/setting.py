"""What is compiled, and what every stage from rounding on looks at, and none changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxmpq.context.prepared import Activations, Prepared
from onnxmpq.context.splits import Splits
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations
from onnxmpq.data.evidence import Evidence
from onnxmpq.metrics.reference_outputs import Expected
from onnxmpq.observer import Stages
from onnxmpq.request import Request
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.runtime.workers import HERE, Workers
from onnxmpq.values.option import Options


@dataclass(frozen=True)
class Loaded:
    """What is compiled, on what data, and how: `request` with the activations decided.

    `model` is what the user gave, as ONNX Runtime runs it in `session`; `file_bytes` are those of the given one,
    external data included.
    """

    request: Request
    stages: Stages
    runtime: Runtime
    model: onnx.ModelProto
    session: Session
    evidence: Evidence
    file_bytes: int
    workers: Workers = HERE


@dataclass(frozen=True)
class Setting:
    """A network ready to be compressed: its layers and their options, its quantized activations, its data.

    `reference` runs the model as it was given. `forced` are the options of the only sensible plan, None where the
    budgets leave a choice. Weights are rounded against `augmentations` of the samples.
    """

    request: Request
    stages: Stages
    runtime: Runtime
    reference: Session
    splits: Splits
    prepared: Prepared
    options: Options
    quantized: Activations
    forced: Options | None = None
    augmentations: Augmentations = NO_AUGMENTATION
    workers: Workers = HERE

    @cached_property
    def expected(self) -> Expected:
        """What the reference gives for the samples that judge requantizing."""
        return Expected(
            self.reference, self.splits.judging, self.prepared.batch_size, metric=self.prepared.metric
        )

    @property
    def choices(self) -> Options:
        """What is left to choose from."""
        return self.forced or self.options
