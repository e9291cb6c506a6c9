"""A model cut at its layers into a chain of parts, so that a changed weight runs only what comes behind it.

A tail goes from a layer to the end of its part and takes the layer's weight and bias as inputs; from there the
rest of the network runs in one session, or in several where it is deep, or its weights too many to hold several times.
A batch runs through the chain once, and only the tensors that cross the current cut are held: memory does not depend
on the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx
from onnx import numpy_helper

from onnxmpq.onnx_io.subgraph import Part, crossing, descendants, extract, names_read
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.runtime.parts import part_session
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer

# More layers a part hold every weight more often; fewer cut the graph where it would rather be fused.
_LAYERS_A_PART = 6
_CUTS_A_SESSION = 16  # whose sessions to the end hold one another's nodes
_REST_BYTES = 128 << 20  # of weights that may be held besides

State = dict[str, Array]


@dataclass(frozen=True)
class Step:
    """One layer on one batch, and `inputs`: the tensors that it and what follows it read.

    `outputs(changed)` are the graph's outputs with the layer's weight and bias, and any of `inputs`, by name, changed.
    """

    layer: Layer
    inputs: State
    outputs: Callable[[State], State]


@dataclass(frozen=True)
class _Link:
    """A loaded part: feeds it reads from a state, results it adds."""

    part: Part
    session: Session

    def run(self, state: Mapping[str, Array]) -> State:
        return self.session.run({name: state[name] for name in self.part.inputs}, self.part.outputs)


@dataclass(frozen=True)
class _Tail:
    layer: Layer
    link: _Link
    stop: int  # the first segment behind the tail


@dataclass(frozen=True)
class _Segment:
    rest: tuple[_Link, ...]  # from its start to the graph's outputs
    tapped: _Link  # from cut to cut, with what the tails read besides
    tails: tuple[_Tail, ...]
    kept: frozenset[str]  # tensors that are still needed behind it


class Chain:
    """The loaded chain of one model for the layers whose weight is to be varied."""

    def __init__(
        self,
        runtime: Runtime,
        model: onnx.ModelProto,
        layers: Sequence[Layer],
        traced: Mapping[str, Traced],
        *,
        layers_a_part: int = _LAYERS_A_PART,
        rest_bytes: int = _REST_BYTES,
    ) -> None:
        """Cut every `layers_a_part` layers; what follows some cuts is one session, as far as these hold `rest_bytes` at most."""
        self._runtime, self._model, self._layers = runtime, model, layers
        self._nodes = list(model.graph.node)
        own = {i.name: Traced(i.data_type, tuple(i.dims)) for i in model.graph.initializer}
        self._types = {**traced, **own}
        self._outputs = [o.name for o in model.graph.output]
        self._constants = {
            i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in self._outputs
        }
        self._uses = _uses(self._nodes, layers)
        self._cuts = _cuts(self._uses, len(self._nodes), layers_a_part)
        inputs = [i.name for i in model.graph.input]
        self._crossings = {cut: crossing(self._nodes, cut, self._outputs, inputs) for cut in self._cuts}
        self._segments = [self._segment(index, rest) for index, rest in enumerate(self._rests(rest_bytes))]

    def outputs(self, feeds: State) -> State:
        """The graph's outputs with every weight as it is."""
        return self._finish(0, feeds)

    def steps(self, feeds: State, names: Collection[str] | None = None) -> Iterator[Step]:
        """Every layer in execution order, on one batch; of the named ones alone, as far as there are such."""
        state, segments = feeds, self._segments
        if names is not None:
            reached = [i for i, s in enumerate(segments) if any(t.layer.name in names for t in s.tails)]
            segments = segments[: reached[-1] + 1] if reached else []
        for segment in segments:
            clean = state | segment.tapped.run(state)
            for tail in (t for t in segment.tails if names is None or t.layer.name in names):
                inputs = {name: clean[name] for name in tail.link.part.inputs if name in clean}
                yield Step(tail.layer, inputs, partial(self._changed, tail, clean))
            state = {name: clean[name] for name in segment.kept}

    def _changed(self, tail: _Tail, clean: State, constants: State) -> State:
        behind = tail.link.run({**clean, **constants})
        return self._finish(tail.stop, {**clean, **behind})

    def _finish(self, start: int, state: State) -> State:
        for link in self._segments[start].rest if start < len(self._segments) else ():
            state = {**state, **link.run(state)}
        return {name: state[name] if name in state else self._constants[name] for name in self._outputs}

    def _rests(self, rest_bytes: int) -> list[tuple[_Link, ...]]:
        """From each cut to the end, in a few sessions: what is held grows with the nodes, not with their square.

        A session from a cut on has no cut to reorder tensors at, but holds the weights up to where it ends once more.
        """
        cuts, count = self._cuts, len(self._cuts) - 1
        held = 2 * rest_bytes // max(self._model.ByteSize(), 1)
        together = max(1, min(_CUTS_A_SESSION, held - 1))
        rests: list[tuple[_Link, ...]] = [()] * (count + 1)
        for index in reversed(range(count)):
            stop = min(index // together * together + together, count)
            wanted = self._outputs if stop == count else self._crossings[cuts[stop]]
            rests[index] = (self._load(self._nodes[cuts[index] : cuts[stop]], wanted), *rests[stop])
        return rests[:count]

    def _segment(self, index: int, rest: tuple[_Link, ...]) -> _Segment:
        start, stop = self._cuts[index : index + 2]
        inside = [layer for layer in self._layers if start <= self._uses[layer.name][0] < stop]
        tails = tuple(self._tail(layer, index + 1) for layer in inside)
        read = {name for tail in tails for name in tail.link.part.inputs}
        # Additional outputs keep the runtime from fusing: only the one clean pass a batch pays for them.
        wanted = dict.fromkeys([*self._crossings[stop], *sorted(read)])
        tapped = self._load(self._nodes[start:stop], list(wanted))
        return _Segment(rest, tapped, tails, frozenset(self._crossings[stop]))

    def _tail(self, layer: Layer, stop: int) -> _Tail:
        """From a layer's first use to the first cut, from the one of index `stop` on, behind its last."""
        uses, cuts = self._uses[layer.name], self._cuts
        while cuts[stop] <= max(uses):  # a shared weight may be used again further on
            stop += 1
        spans = cuts[stop] > min(cut for cut in cuts if cut > uses[0])
        end = cuts[stop]
        chosen = self._nodes[uses[0] : end] if spans else descendants(self._nodes, uses, end)
        free = (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)
        return _Tail(layer, self._load(chosen, self._crossings[end], free), stop)

    def _load(
        self, chosen: Sequence[onnx.NodeProto], wanted: Sequence[str], free: tuple[str, ...] = ()
    ) -> _Link:
        part = extract(self._model, chosen, wanted, self._types, free=free)
        return _Link(part, part_session(self._runtime, part.model, self._model))


def _uses(nodes: Sequence[onnx.NodeProto], layers: Sequence[Layer]) -> dict[str, list[int]]:
    """Positions of the nodes that read each layer's weight."""
    weights = {layer.weight: layer.name for layer in layers}
    uses: dict[str, list[int]] = {layer.name: [] for layer in layers}
    for position, node in enumerate(nodes):
        for name in {n for n in names_read(node) if n in weights}:
            uses[weights[name]].append(position)
    return uses


def _cuts(uses: Mapping[str, Sequence[int]], length: int, layers_a_part: int) -> list[int]:
    """Where segments start, and the end: every few layers, at a layer's first use."""
    firsts = sorted({positions[0] for positions in uses.values()})
    return sorted({0, *firsts[layers_a_part::layers_a_part], length})
