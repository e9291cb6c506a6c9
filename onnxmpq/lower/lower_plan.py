"""Plan -> the ONNX model that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.context.prepared import Activations, Prepared
from onnxmpq.errors import ModelError
from onnxmpq.normalize.prepare import raise_graph
from onnxmpq.normalize.proof import RAISED_DB, prove
from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.node_names import name_nodes
from onnxmpq.passes.lower.clip_pools import clip_pools
from onnxmpq.passes.lower.gather_codes import GatherCodes, scales_name
from onnxmpq.passes.lower.halve_constants import halve_constants
from onnxmpq.passes.lower.insert_dynamic_qdq import InsertDynamicQdq
from onnxmpq.passes.lower.insert_qdq import InsertQdq
from onnxmpq.passes.lower.pack_weights import Form, HalfWeight, PackedLayer, PackWeights, required_opset
from onnxmpq.passes.lower.pad_codes import pad_codes
from onnxmpq.passes.lower.pin_layout import pin_layout
from onnxmpq.passes.lower.replace_constants import ReplaceConstants
from onnxmpq.passes.lower.round_shifts import RoundShifts
from onnxmpq.passes.lower.saturate_hard_sigmoid import saturate_hard_sigmoid
from onnxmpq.passes.lower.shift_zero_points import shift_zero_points
from onnxmpq.passes.lower.split_gemm_bias import SplitGemmBias
from onnxmpq.passes.lower.stand_biases_apart import stand_biases_apart
from onnxmpq.passes.lower.zero_dead_channels import ZeroDeadChannels
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.requirements import describe
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import DIRECT_BITS, HALF_BITS, OTHER_CODES_OPSET
from onnxmpq.values.placement import Placement
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import Target

_LARGE_TABLE = 1 << 20  # bytes in float: of smaller ones there is little memory to save


def fitted_to_ranges(prepared: Prepared, activations: Activations) -> Prepared:
    """The model with the weights zeroed that no integer bias could stand beside, and with shifts of whole steps.

    See `ZeroDeadChannels` and `RoundShifts`.
    """
    graph = import_graph(prepared.model)
    ranges = activations.placement.shared(activations.ranges)
    changed = [ZeroDeadChannels(ranges)(graph), RoundShifts(ranges)(graph)]
    if not any(changed):
        return prepared
    return replace(prepared, model=export_model(graph, prepared.original))


def planned_opset(plan: Plan, prepared: Prepared, target: Target) -> int:
    """The lowest opset, from the model's own up, that has every type the plan stores.

    Raises ModelError where the target does not read it. What ONNX Runtime runs here it reads.
    """
    lowest, highest = target.opsets
    widths = {option.stored_bits for option in plan.options.values() if option.is_quantized}
    tensors = target.weights.tensor_bits
    needed = required_opset(widths, 2 in tensors, target.weights.wide, 4 in tensors)
    opset = max(_simulated_opset(plan, prepared), needed, lowest)
    if opset > highest and not (target.is_onnxruntime and opset == opset_version(prepared.model)):
        raise ModelError(
            f"the file would have opset {opset}, and the highest that {target.name} is known to read is {highest}; export "
            "the model at a lower opset"
        )
    return opset


def _simulated_opset(plan: Plan, prepared: Prepared) -> int:
    """The model's own, or that of QuantizeLinear to other codes than bytes."""
    others = any(option.activation_bits not in (None, 8) for option in plan.options.values())
    return max(opset_version(prepared.model), OTHER_CODES_OPSET if others else 0)


def prove_opset(runtime: Runtime, prepared: Prepared, opset: int) -> None:
    """Raise ModelError unless the float model at that opset gives what it gives at its own."""
    if opset == opset_version(prepared.model):
        return
    graph = import_graph(prepared.model)
    raise_graph(graph, opset)
    raised = export_model(graph, prepared.original)
    reference = runtime.session(prepared.model, optimize=False).run(prepared.sample)
    prove(runtime, raised, prepared.sample, reference, RAISED_DB, f"raising its opset to {opset}")


def simulate(prepared: Prepared, plan: Plan, activations: Activations) -> onnx.ModelProto:
    """The model with the plan's Q/DQ pairs on activations and all weights in float."""
    pairs = _with_pairs(prepared, plan, activations, _simulated_opset(plan, prepared))
    return export_model(pairs.graph, prepared.model)


def gathered_tables(plan: Plan, prepared: Prepared, target: Target) -> frozenset[str]:
    """The tables that the plan gives codes and the target looks up as such: those that are large."""
    if target.is_plain or not target.weights.gathers:
        return frozenset()
    quantized = [layer for layer in prepared.layers if plan[layer.name].is_quantized]
    return frozenset(la.weight for la in quantized if la.op == "Gather" and 4 * la.params >= _LARGE_TABLE)


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a lowered model no width of a weight touches: its graph in its opset, with the Q/DQ pairs of `placement`.

    Tables that are looked up as codes have their scales in it, all ones.
    """

    graph: gs.Graph
    placement: Placement


def frame(prepared: Prepared, plan: Plan, activations: Activations, target: Target) -> Frame:
    """The frame of a plan's model, all weights and biases as they were."""
    framed = _with_pairs(prepared, plan, activations, planned_opset(plan, prepared, target))
    if target.is_onnxruntime:
        clip_pools(framed.graph)
        saturate_hard_sigmoid(framed.graph)
        shift_zero_points(framed.graph)
        stand_biases_apart(framed.graph)
        if framed.placement.tensors:
            pin_layout(framed.graph)
        pad_codes(framed.graph)
    SplitGemmBias(framed.placement.split_biases)(framed.graph)
    GatherCodes(gathered_tables(plan, prepared, target))(framed.graph)
    return framed


def _with_pairs(prepared: Prepared, plan: Plan, activations: Activations, opset: int) -> Frame:
    graph = import_graph(prepared.model)
    raise_graph(graph, opset)
    placement = activations.of(plan, prepared)
    InsertQdq(placement.shared(activations.ranges), placement.float_sources)(graph)
    InsertDynamicQdq(placement.dynamic)(graph)
    return Frame(graph, placement)


def store(frame: Frame, prepared: Prepared, plan: Plan, candidates: Candidates, target: Target) -> None:
    """Store every layer at its planned width, in place: new nodes come first, and those of the frame stay as they are."""
    ReplaceConstants(_biases(prepared, plan, candidates))(frame.graph)
    known = frame.graph.tensors()
    stored = {
        layer.weight: _stored(
            layer, plan, candidates, frame.placement, target, gathers=scales_name(layer.weight) in known
        )
        for layer in prepared.layers
        if _changes(layer, plan)
    }
    rules = target.weights
    PackWeights(
        stored,
        native2=2 in rules.tensor_bits,
        wide=rules.wide,
        native4=4 in rules.tensor_bits,
        zero_points=rules.zero_points,
    )(frame.graph)
    if target.halves:
        halve_constants(frame.graph)


def lower(
    prepared: Prepared, plan: Plan, candidates: Candidates, activations: Activations, target: Target
) -> onnx.ModelProto:
    """The model with every layer stored at its planned width, and Q/DQ pairs where activations are quantized."""
    framed = frame(prepared, plan, activations, target)
    store(framed, prepared, plan, candidates, target)
    model = export_model(framed.graph, prepared.original)
    name_nodes(model)
    describe(model, target)
    return model


def known_names(layers: Sequence[Layer]) -> set[str]:
    """The names that layers are known by, which a file keeps."""
    return {name for la in layers for name in (la.name, la.weight, la.bias) if name}


def _biases(prepared: Prepared, plan: Plan, candidates: Candidates) -> dict[str, NDArray[Any]]:
    found = {la.bias: candidates.bias(la, plan[la.name].weight_bits) for la in prepared.layers if la.bias}
    return {name: bias for name, bias in found.items() if bias is not None}


def _changes(layer: Layer, plan: Plan) -> bool:
    return layer.reason is None and plan[layer.name].weight_bits < layer.float_bits


def _stored(
    layer: Layer, plan: Plan, candidates: Candidates, placement: Placement, target: Target, *, gathers: bool
) -> PackedLayer | HalfWeight:
    option = plan[layer.name]
    if option.weight_bits == HALF_BITS:
        return HalfWeight()
    form: Form = "integer" if layer.name in placement.integer_layers else "codes" if gathers else "float"
    weight = candidates.quantized(layer, option.weight_bits)
    if layer.direct and option.stored_bits == DIRECT_BITS and not weight.is_odd:
        form = "plain"
    return PackedLayer(weight, "plain" if target.is_plain else form, option.container_bits)
