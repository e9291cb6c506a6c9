"""Any exporter's model -> a clean float graph, its layers, and the proof that it still computes the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.context.prepared import Prepared
from onnxmpq.errors import EngineError, ModelError
from onnxmpq.metrics.choose_metric import choose_metric
from onnxmpq.metrics.output_kinds import Seen
from onnxmpq.normalize.discover import discover
from onnxmpq.normalize.proof import FOLDED_DB, RAISED_DB, prove
from onnxmpq.normalize.quantizing_ops import OF_WEIGHTS, quantizing_ops
from onnxmpq.onnx_io.contents import opset_version
from onnxmpq.onnx_io.graph import export_model, free_large_constants, import_graph
from onnxmpq.onnx_io.short_names import shorten_long_names
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.operators import OPERATORS
from onnxmpq.passes.normalize.clamp_hard_sigmoid import clamp_hard_sigmoid
from onnxmpq.passes.normalize.drop_noops import drop_noops
from onnxmpq.passes.normalize.fold_affine import fold_affine
from onnxmpq.passes.normalize.fold_batch_norm import fold_batch_norm
from onnxmpq.passes.normalize.fold_computed_weights import fold_computed_weights
from onnxmpq.passes.normalize.fold_constant_views import fold_constant_views
from onnxmpq.passes.normalize.fold_factor_ahead import fold_factor_ahead
from onnxmpq.passes.normalize.fold_gemm_alpha import fold_gemm_alpha
from onnxmpq.passes.normalize.fold_pad import fold_pad
from onnxmpq.passes.normalize.fold_shift_ahead import fold_shift_ahead
from onnxmpq.passes.normalize.fold_weight_views import fold_weight_views
from onnxmpq.passes.normalize.hoist_subgraph_weights import hoist_subgraph_weights
from onnxmpq.passes.normalize.join_gemm import join_gemm
from onnxmpq.passes.normalize.join_hard_sigmoid import join_hard_sigmoid
from onnxmpq.passes.normalize.lift_constants import lift_constants
from onnxmpq.passes.normalize.make_pads_explicit import make_pads_explicit
from onnxmpq.passes.normalize.own_bias import own_bias
from onnxmpq.passes.normalize.part_shared_weights import part_shared_weights
from onnxmpq.passes.normalize.pool_global_means import pool_global_means
from onnxmpq.passes.normalize.raise_opset import NEWEST_TARGET, RaiseOpset
from onnxmpq.passes.normalize.replace_legacy_ops import replace_legacy_ops
from onnxmpq.passes.normalize.share_equal_weights import share_equal_weights
from onnxmpq.passes.normalize.widen_half import widen_half
from onnxmpq.passes.normalize.write_out_hard_swish import write_out_hard_swish
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.runtime.trace import trace
from onnxmpq.values.arrays import Array
from onnxmpq.values.layer import Layer
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.padding import Padding

LOWEST_OPSET = 13  # DequantizeLinear per axis
Pass = Callable[[gs.Graph], bool]
_PASSES: tuple[Pass, ...] = (
    lift_constants,
    hoist_subgraph_weights,
    widen_half,
    fold_computed_weights,
    fold_weight_views,
    share_equal_weights,
    part_shared_weights,
    fold_constant_views,
    drop_noops,
    fold_batch_norm,
    join_hard_sigmoid,
    write_out_hard_swish,
    fold_affine,
    clamp_hard_sigmoid,
    fold_factor_ahead,
    fold_shift_ahead,
    join_gemm,
    fold_gemm_alpha,
    own_bias,
    make_pads_explicit,
    fold_pad,
    pool_global_means,
)

# What keeps the shape of its first input.
_KEEPING = frozenset(
    {"BatchNormalization", "Cast", "Clip", "Dropout", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
)
_BATCH_BYTES = 256 << 20  # of all activations of a batch together
_LARGEST_BATCH = 32


def runnable(runtime: Runtime, model: onnx.ModelProto) -> tuple[onnx.ModelProto, Session]:
    """The model as ONNX Runtime runs it: as it is, or with explicit pads where it has none for dilated windows.

    Inputs without a shape get one, of free sizes, where that is clear.

    Raises EngineError with the runtime's own message where it refuses the model.
    """
    if any(_pads_dilated(node) for node in model.graph.node):  # refused at load or, of free size, in the run
        graph = import_graph(model)
        make_pads_explicit(graph)
        model = export_model(graph, model)
    model = with_ranks(model)
    return model, runtime.session(model)


def with_ranks(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a shape of free sizes for every input that has none, where a node that reads it tells how many axes."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for index, value in enumerate(model.graph.input):
        kind = value.type.tensor_type
        if value.type.WhichOneof("value") != "tensor_type" or kind.HasField("shape"):
            continue
        rank = _rank_read(model, value.name, ranks)
        model = model if rank is None else _with_rank(model, index, rank)
    return model


def _rank_read(model: onnx.ModelProto, tensor: str, ranks: Mapping[str, int]) -> int | None:
    """How many axes the readers of a tensor want, those of what keeps its shape too; None where none of them tells."""
    for node in model.graph.node:
        if not node.input or node.input[0] != tensor:
            continue
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in ranks:
            return ranks[node.input[1]]
        if node.op_type == "Gemm":
            return 2
        kept = _rank_read(model, node.output[0], ranks) if node.op_type in _KEEPING else None
        if kept is not None:
            return kept
    return None


def _with_rank(model: onnx.ModelProto, index: int, rank: int) -> onnx.ModelProto:
    ranked = onnx.ModelProto()
    ranked.CopyFrom(model)
    value = ranked.graph.input[index]
    for axis in range(rank):
        value.type.tensor_type.shape.dim.add(dim_param=f"{value.name}_{axis}")
    return ranked


def _pads_dilated(node: onnx.NodeProto) -> bool:
    attributes = {a.name: a for a in node.attribute}
    same = "auto_pad" in attributes and attributes["auto_pad"].s.startswith(b"SAME")
    return same and "dilations" in attributes and any(d != 1 for d in attributes["dilations"].ints)


def prepare(
    runtime: Runtime,
    original: onnx.ModelProto,
    sample: Mapping[str, Array],
    *,
    integer: bool,
    batchable: bool,
    metric: str | None = None,
    samples: int = 1,
    seen: Seen | None = None,
    outputs: Mapping[str, OutputKind] | None = None,
    labelled: bool = False,
    padding: Padding | None = None,
) -> Prepared:
    """Normalise a model and discover its layers.

    `sample` is one sample's feeds, or those of as many `samples` as the graph demands at a time; `integer` says
    that activations will be int8 (a half-precision graph is then widened, for want of integer kernels between
    half floats); `metric`, `outputs` (what the user says of them), `labelled` (whether samples have labels) and `seen`
    (the original's outputs on some samples; None: those of `sample`) and `padding` as `choose_metric` takes them. Raises ModelError
    where a pass changed the result, or nothing can be quantized.
    """
    check_float(original, integer=integer)
    model = normalised(runtime, original, sample, integer=integer)
    former = shorten_long_names(model)
    traced = trace(runtime, model, sample)
    found = discover(import_graph(model), {name: t.shape for name, t in traced.items()}, samples)
    check_layers(found)
    layers = tuple(replace(layer, former=_former(layer, former)) for layer in found)
    known = seen or {name: [value] for name, value in runtime.session(original).run(sample).items()}
    shapes = {name: t.shape for name, t in traced.items()}
    judged_by = choose_metric(
        model, known, metric, asked=outputs, labelled=labelled, shapes=shapes, padding=padding
    )
    batch_size = _batch_size(traced) if batchable else 1
    return Prepared(original, model, layers, traced, sample, judged_by, batch_size)


def _former(layer: Layer, names: Mapping[str, str]) -> tuple[str, ...]:
    """What the layer and its nodes are called in the given model, of those whose names were shortened; parts with their endings."""
    known = dict.fromkeys((layer.name, *layer.nodes))
    return tuple(
        names[short] + name[len(short) :]
        for name in known
        for short in names
        if name.startswith(short) and name[len(short) :][:1] in ("", ".", "#")
    )


def normalised(
    runtime: Runtime, original: onnx.ModelProto, sample: Mapping[str, Array], *, integer: bool
) -> onnx.ModelProto:
    """The model in the form that layers are found in, behind all passes, or all but the one whose result does not run.

    Raises ModelError unless it computes the same.
    """
    reference = runtime.session(original, optimize=False).run(sample)
    graph = import_graph(original)
    raise_graph(graph, LOWEST_OPSET)
    raised = export_model(graph, original)
    prove(runtime, raised, sample, reference, RAISED_DB, "raising its opset")
    refused: list[EngineError] = []
    for left_out in (None, *_PASSES):
        graph = import_graph(raised)
        normalise(graph, integer=integer, left_out=left_out)
        model = export_model(graph, original)
        try:
            prove(runtime, model, sample, reference, FOLDED_DB, "normalising it")
        except EngineError as error:  # a pass made an operator of a type that ONNX Runtime has no kernel for
            refused.append(error)
        else:
            return model
    raise refused[0]


def highest_opset(runtime: Runtime, model: onnx.ModelProto, most: int) -> tuple[int, str]:
    """The highest opset up to `most` that the model can be raised to with a kernel for every node; and why no higher one.

    ONNX Runtime is asked, from the top: of some operators' newest versions it has none, or not of every type. The
    constants that are large are no part of the question, and left out. The model's own opset, where `most` is lower.
    """
    own, why = opset_version(model), ""
    for opset in range(min(most, NEWEST_TARGET), own, -1):
        graph = import_graph(model)
        try:
            raise_graph(graph, opset)
            free_large_constants(graph)
            runtime.session(export_model(graph, model), optimize=False)
        except (ModelError, EngineError) as error:
            why = why or str(error)
        else:
            return opset, why
    return own, why


def raise_graph(graph: gs.Graph, opset: int) -> None:
    """Raise to an opset in place; legacy operators that no newer opset has are replaced first."""
    replace_legacy_ops(graph)
    if graph.opset < opset:
        RaiseOpset(opset)(graph)


def normalise(graph: gs.Graph, *, integer: bool, left_out: Pass | None = None) -> None:
    """Run the preserving passes, maybe without one of them, until none of them finds anything more to do."""
    passes = [p for p in _PASSES if p is not left_out and (integer or p is not widen_half)]
    while sum(step(graph) for step in passes):  # every pass runs in every round
        pass


def check_float(model: onnx.ModelProto, *, integer: bool) -> None:
    """Raise ModelError where the model is quantized already: its weights, or its activations where those are to be.

    A second pair around activations would only add noise. Quantization of float weights (from training with it) is
    none: it becomes part of them.
    """
    graph = import_graph(model)
    if not quantizing_ops(graph):
        return
    raise_graph(graph, LOWEST_OPSET)
    normalise(graph, integer=integer)
    left, layers = quantizing_ops(graph), [la for la in discover(graph, {}) if la.reason is None]
    held = ", ".join(f"{count} {op}" for op, count in sorted(left.items()))
    if left and not layers:
        raise ModelError(
            f"the model is quantized already: it holds {held}, and no weight that is still float; compile the float "
            "model that it was made from"
        )
    if integer and left.keys() - OF_WEIGHTS:
        raise ModelError(
            f"the model is quantized already: it holds {held}; compile the float model that it was made from, or use "
            f"--activations fp32 to quantize the weights of {', '.join(la.name for la in layers[:3])}"
            f"{f' and {len(layers) - 3} more layers' if len(layers) > 3 else ''}, which are still float"
        )


def check_layers(layers: tuple[Layer, ...]) -> None:
    """Raise ModelError where no layer can be quantized, saying why."""
    if any(layer.reason is None for layer in layers):
        return
    if not layers:
        raise ModelError(
            f"the model has no weights to quantize: no {', '.join(OPERATORS)} with a constant weight"
        )
    reasons = "; ".join(dict.fromkeys(f"{la.name}: {la.reason}" for la in layers[:3]))
    raise ModelError(f"none of the model's {len(layers)} layers can be quantized ({reasons})")


def _batch_size(traced: Mapping[str, Traced]) -> int:
    """Samples a run, so that a batch's activations stay within a fixed size."""
    bytes_ = sum(4 * math.prod(t.shape) for t in traced.values())
    return max(1, min(_LARGEST_BATCH, _BATCH_BYTES // max(bytes_, 1)))
