"""How far a network has run over some samples: what crosses that place is held, and going on starts there.

Layers that are rounded one after the other, each against what the ones before feed it, would otherwise run all
of the network up to them again and again. No more is held than so many bytes (twice that on the way from one place to
the next): where more crosses, the cache stops before, and what is asked for runs from there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxmpq.data import Dataset
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations
from onnxmpq.onnx_io.subgraph import Part, ancestors, crossing, crossing_sizes, extract, names_read
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.runtime.ordered_pool import cores, map_in_threads
from onnxmpq.runtime.parts import part_session
from onnxmpq.runtime.session import Runtime

State = Mapping[str, Any]  # tensors by name, of one batch

_HELD_BYTES = 256 << 20
_UNKNOWN = 1 << 40  # bytes: too many


class ActivationCache:
    """A network whose constants may still change, except those that what has run already reads."""

    def __init__(
        self,
        runtime: Runtime,
        model: onnx.ModelProto,
        traced: Mapping[str, Traced],
        data: Dataset,
        batch_size: int,
        augmentations: Augmentations = NO_AUGMENTATION,
        most: int = _HELD_BYTES,
        kept: Sequence[str] = (),
    ) -> None:
        """`traced` is of one sample, or of the batch that the graph demands; `most` bytes are held over all
        `augmentations` of `data`. `kept` are inputs that stay in its states throughout.
        """
        self.data, self.augmentations = data, augmentations
        self._runtime, self._model, self._batch_size = runtime, model, batch_size
        self._types, self._most, self._kept = dict(traced), most, kept
        self._inputs = [i.name for i in model.graph.input]
        self._nodes = list(model.graph.node)
        self._reads = [frozenset(names_read(node)) for node in self._nodes]
        self._position = 0
        self._held: list[State] | None = None
        self._samples = data.source.step or batch_size  # of a batch
        allowed = most * (data.source.step or 1) // max(1, data.count * augmentations.count)
        self._may_stop = crossing_sizes(self._nodes, _sizes(model, traced)) <= allowed

    @property
    def at_start(self) -> bool:
        """True where nothing has run."""
        return self._held is None

    def states(self) -> Iterator[State]:
        """What the rest of the network reads, batch by batch in all its augmentations, always in the same order."""
        if self._held is not None:
            return iter(self._held)
        batches = self.data.batches(self._batch_size)
        return (feeds for batch in batches for feeds in self.augmentations.of(batch.feeds))

    def behind(self, wanted: Collection[str]) -> list[onnx.NodeProto]:
        """The nodes still to run for these tensors, in order."""
        return ancestors(self._nodes[self._position :], wanted)

    def part(
        self, nodes: list[onnx.NodeProto], wanted: Collection[str], more: Mapping[str, Traced] | None = None
    ) -> Part:
        """Such nodes as a model that gives `wanted`; `more` are the types of what else it reads."""
        return extract(self._model, nodes, wanted, {**self._types, **(more or {})})

    def advance(self, changing: Collection[str]) -> None:
        """Run on to the last place, up to the first node that reads a constant still to change, where little crosses."""
        end = next(
            (i for i, read in enumerate(self._reads) if not read.isdisjoint(changing)), len(self._nodes)
        )
        place = next((i for i in range(end, self._position, -1) if self._may_stop[i]), None)
        if place is None:
            return
        names = crossing(self._nodes, place, self._kept, self._inputs)
        held = self._crossing(self.part(ancestors(self._nodes[self._position : place], names), names), names)
        if held is None:
            self._may_stop[place] = False
        else:
            self._position, self._held = place, held
            for name, value in held[0].items():
                self._types[name] = Traced(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    def _crossing(self, part: Part, names: Collection[str]) -> list[State] | None:
        """These tensors of every batch; None where they are too large, or no plain tensors."""
        known = (self._runtime, part.model, self._model)
        session = part_session(*known, simulated=True) if part.outputs else None

        def run(state: State) -> State:
            made = session.run({name: state[name] for name in part.inputs}) if session is not None else {}
            return {name: made[name] if name in made else state[name] for name in names}

        held: list[State] = []
        size = 0
        for state in map_in_threads(run, self.states(), cores()):
            if not all(isinstance(value, np.ndarray) for value in state.values()):
                return None
            size += sum(value.nbytes for value in state.values())
            held.append(state)
            # The first batch tells how large all will be.
            fed = self.data.count * self.augmentations.count
            if size > self._most or size * fed > self._most * len(held) * self._samples:
                return None
        return held or None


@dataclass(frozen=True, slots=True)
class CachedPair:
    """The float network and the quantized one over the same samples."""

    exact: ActivationCache
    quantized: ActivationCache

    def states(self) -> Iterator[tuple[State, State]]:
        """What the rest of both reads, batch by batch. Data are read once at a time: their source may not like two."""
        if self.exact.at_start and self.quantized.at_start:
            return ((state, state) for state in self.exact.states())
        return zip(self.exact.states(), self.quantized.states(), strict=True)

    def advance(self, changing: Collection[str]) -> None:
        """Run both on, as far as constants are known."""
        self.exact.advance(changing)
        self.quantized.advance(changing)


def held_samples(data: Dataset, model: onnx.ModelProto, traced: Mapping[str, Traced]) -> int:
    """Of how many samples all is held that crosses any place of the network, so that it never goes back further."""
    sizes = crossing_sizes(list(model.graph.node), _sizes(model, traced))
    largest = int(sizes[sizes < _UNKNOWN].max(initial=1))
    return _HELD_BYTES * (data.source.step or 1) // largest


def _sizes(model: onnx.ModelProto, traced: Mapping[str, Traced]) -> dict[str, int]:
    """Bytes of what is made and of inputs; the trace of a float network does not know what stands at its Q/DQ pairs."""
    sizes = {
        name: _UNKNOWN if value.containers else value.dtype.itemsize * math.prod(value.shape)
        for name, value in traced.items()
    }
    pairs = [n for n in model.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for node in reversed(pairs):
        if node.output[0] in sizes:
            sizes.setdefault(node.input[0], sizes[node.output[0]])
    for node in pairs:
        if node.input[0] in sizes:
            sizes.setdefault(node.output[0], sizes[node.input[0]])
    constants = {i.name for i in model.graph.initializer}
    names = [
        *(i.name for i in model.graph.input),
        *(name for node in model.graph.node for name in node.output),
    ]
    return {name: sizes.get(name, _UNKNOWN) for name in names if name not in constants}
