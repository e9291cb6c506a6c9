"""What a sensitivity method is given: the float model, its layers, candidate weights, data, a runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import onnx

from onnxmpq.data import Dataset
from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import Metric
from onnxmpq.observer import Progress
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.workers import HERE, Workers
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option

Note = Callable[[str], None]


@dataclass(frozen=True)
class Probe:
    """Everything a method may look at; it returns a CostTable over `options`.

    `options` holds, for every layer that has a choice, what it may be given besides being left as it is;
    `untouched` the option that leaves it so, for the layers that may be: it costs nothing, and a path may start
    from it. `candidate(layer, bits)` are the layer's constants that would ship at that width, by name: its
    dequantized weight, and its bias if it has one of its own. `traced` is one run's tensor types and shapes.
    """

    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    options: Mapping[str, tuple[Option, ...]]
    candidate: Callable[[Layer, int], Mapping[str, Array]]
    data: Dataset
    metric: Metric
    runtime: Runtime
    traced: Mapping[str, Traced]
    batch_size: int = 32
    seed: int = 0
    training: Dataset | None = None  # what a method that trains may train on, `data` where None
    progress: Progress = lambda _done, _total: None
    note: Note = lambda _words: None  # what the report says of the method's work
    untouched: Mapping[str, Option] = field(default_factory=dict)
    workers: Workers = HERE  # who measures what does not depend on one another

    @property
    def chosen(self) -> list[Layer]:
        """The layers that have a choice, in order of execution."""
        return [layer for layer in self.layers if layer.name in self.options]

    def seeing(self, images: int | None) -> Probe:
        """The same with at most so many samples, at random; None for all of them."""
        return self if images is None else replace(self, data=self.data.some(images, self.seed))

    def descent(self, layer: str) -> list[Option]:
        """All that a layer may be, the widest first."""
        untouched = [self.untouched[layer]] if layer in self.untouched else []
        return untouched + sorted(self.options[layer], key=lambda option: -option.weight_bits)

    def by_width(self, layer: str) -> dict[int, Option]:
        """A layer's options by their width, for a method that decides widths alone.

        Raises OptionError where two options share one.
        """
        options = self.options[layer]
        found = {option.weight_bits: option for option in options}
        if len(found) < len(options):
            raise OptionError(
                f"layer {layer!r} may have {', '.join(map(str, options))}, and this method decides widths alone; leave "
                "one option a width, or use --method measured"
            )
        return found

    def highest(self, layer: str) -> int:
        """The bits of a layer's widest option; one more where it may stay as it is, which loses less than any."""
        return max(option.weight_bits for option in self.options[layer]) + (layer in self.untouched)
