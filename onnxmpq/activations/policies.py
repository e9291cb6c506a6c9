"""The placements of Q/DQ pairs that a target may ask for, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_graphsurgeon as gs

from onnxmpq.activations.inputs import place_inputs
from onnxmpq.activations.placement import Placement, place_activations
from onnxmpq.spec import Layer
from onnxmpq.target import Policy

Place = Callable[[gs.Graph, Sequence[Layer], Collection[str]], Placement]

POLICIES: Mapping[Policy, Place] = {"kernels": place_activations, "inputs": place_inputs}
