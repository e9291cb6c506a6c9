"""Where Q/DQ pairs go, and what options that leaves each layer; this is the table of placements that targets ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_graphsurgeon as gs

from onnxmpq.place.dynamic import place_dynamic
from onnxmpq.place.inputs import place_inputs
from onnxmpq.place.kernels import place_activations, place_whole
from onnxmpq.values.layer import Layer
from onnxmpq.values.placement import Placement
from onnxmpq.values.target import Policy

Place = Callable[[gs.Graph, Sequence[Layer], Collection[str]], Placement]

POLICIES: Mapping[Policy, Place] = {
    "kernels": place_activations,
    "inputs": place_inputs,
    "dynamic": place_dynamic,
    "whole": place_whole,
}
