"""Models turned into graphs that passes edit, and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.contents import DEFAULT_DOMAIN, graphs, nodes, subgraphs, tensors
from onnxmpq.onnx_io.functions import inlined
from onnxmpq.operators import OPERATORS, is_computing

_A_FEW = 64  # values of a constant that operators may want to know when they are loaded
_FIRST_IR_VERSION = 4  # the first in which an initializer need not be a graph input as well
_IR_VERSION_OF_TYPE = {
    "FLOAT8E4M3FN": 9, "FLOAT8E4M3FNUZ": 9, "FLOAT8E5M2": 9, "FLOAT8E5M2FNUZ": 9, "UINT4": 10, "INT4": 10,
    "FLOAT4E2M1": 11, "FLOAT8E8M0": 12, "UINT2": 13, "INT2": 13,
}  # fmt: skip
_READABLE_ATTRIBUTES = frozenset({
    AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING, AttributeProto.TENSOR, AttributeProto.GRAPH,
    AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS,
})  # fmt: skip


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """The model as a graph for the passes, which shares nothing with it.

    Functions are inlined, and initializers listed as inputs are constants only. Variables know the dtype and
    shape that onnx's shape inference finds, with None or a name for a free dimension; claims of the file about
    inner tensors (value_info) are not believed. Constants stay as they are stored until someone reads them.

    Raises ModelError for what a graph cannot hold: sparse tensors, functions of another opset, rare attributes.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    own = inlined(own)
    _require_editable(own)
    for graph in graphs(own.graph):
        del graph.value_info[:]
    try:
        with G_LOGGER.suppress():
            imported = gs.import_onnx(with_inferred_shapes(own))
    except (OnnxGraphSurgeonException, UnicodeDecodeError) as error:
        raise ModelError(f"the graph cannot be edited: {error}") from error
    return _normalise(imported)


def with_inferred_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what onnx finds out of inner types and shapes; as it is where it finds a contradiction."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return model  # known types and shapes only help


def _require_editable(model: onnx.ModelProto) -> None:
    if model.functions:
        names = ", ".join(function.name for function in model.functions)
        raise ModelError(
            f"functions of another opset cannot be inlined: {names}; export the model without them"
        )
    if any(graph.sparse_initializer for graph in graphs(model.graph)):
        raise ModelError("the model holds sparse tensors, which are not supported; export it with dense ones")
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.type not in _READABLE_ATTRIBUTES:
                kind = AttributeProto.AttributeType.Name(attribute.type)
                raise ModelError(
                    f"{node.op_type} {node.name or node.output[0]}: attribute {attribute.name!r} of type {kind} "
                    "cannot be kept; export the model without it"
                )


def _normalise(graph: gs.Graph) -> gs.Graph:
    """One spelling of the default domain; no empty lists and no types of optionals, which onnx-graphsurgeon cannot write."""
    graph.import_domains = [
        helper.make_opsetid("" if o.domain in DEFAULT_DOMAIN else o.domain, o.version)
        for o in graph.import_domains
    ]
    for inner in (graph, *graph.subgraphs(recursive=True)):
        for node in inner.nodes:
            node.domain = "" if node.domain in {None, *DEFAULT_DOMAIN} else node.domain
            for name in [name for name, value in node.attrs.items() if isinstance(value, list) and not value]:
                _drop_empty_list(node, name)
        for tensor in (*inner.tensors().values(), *inner.inputs, *inner.outputs):
            if isinstance(tensor.dtype, onnx.TypeProto):
                tensor.dtype = (
                    None  # of the graph's own inputs and outputs it comes back with their description
                )
    return graph


def _drop_empty_list(node: gs.Node, name: str) -> None:
    """Leave out an empty list, which every standard operator but Constant reads as its absence."""
    del node.attrs[name]
    if node.op == "Constant":
        dtype = np.float32 if name == "value_floats" else np.int64
        node.attrs["value"] = gs.Constant(node.outputs[0].name, np.zeros(0, dtype))


def free_large_constants(graph: gs.Graph) -> None:
    """Make inputs of the constants that are weights rather than shapes, axes or limits, in place: a model without its bytes."""
    for inner in (graph, *graph.subgraphs(recursive=True)):
        for tensor in inner.tensors().values():
            if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) > _A_FEW:
                tensor.to_variable(tensor.dtype, tensor.shape)
                if all(tensor is not known for known in graph.inputs):
                    graph.inputs.append(tensor)


def lowest_ir_version(opset: int, types: Iterable[int] = ()) -> int:
    """The lowest IR version that holds an opset of the ONNX domain and tensors of these TensorProto types."""
    known = helper.OP_SET_ID_VERSION_MAP.get(("ai.onnx", opset), onnx.IR_VERSION)
    names = (TensorProto.DataType.Name(data_type) for data_type in types)
    return max(_FIRST_IR_VERSION, known, *(_IR_VERSION_OF_TYPE.get(name, 0) for name in names))


def export_model(graph: gs.Graph, like: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as a model; `graph` itself is left as it is, and the same graph gives the same bytes.

    Inputs and outputs that `like`, the model it was imported from, has too are described as there, free
    dimensions included; the names, doc strings and metadata_props of model and graph are `like`'s. Nodes are
    sorted, dead nodes and constants gone, opset imports and the IR version the least that will do. Inner
    types and shapes, doc strings and metadata of nodes are not written.
    """
    graph = graph.copy()
    with G_LOGGER.suppress():
        graph.cleanup().toposort()
        _pack_constants(graph)
        model: onnx.ModelProto = gs.export_onnx(
            graph, do_type_check=False, opset_imports=_opset_imports(graph)
        )
    hoist_initializers(model)  # onnx-graphsurgeon writes a constant into each graph that reads it
    _tidy(model.graph, frozenset())
    _describe(model, like)
    types = {tensor.data_type for tensor in tensors(model)}
    model.ir_version = lowest_ir_version(graph.opset, sorted(types))
    return model


def _opset_imports(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """The ONNX domain at the graph's opset, and the other domains that its nodes use (version 1 if new)."""
    versions = {o.domain: o.version for o in graph.import_domains or ()}
    inner = [n for g in (graph, *graph.subgraphs(recursive=True)) for n in g.nodes]
    others = {n.domain for n in inner} - {None, *DEFAULT_DOMAIN}
    imports = {"": graph.opset} | {domain: versions.get(domain, 1) for domain in sorted(others)}
    return [helper.make_opsetid(domain, version) for domain, version in imports.items()]


def _pack_constants(graph: gs.Graph) -> None:
    """Hand over arrays of ml_dtypes (int4, bfloat16 ...) as tensors: onnx-graphsurgeon writes them unpacked."""
    for inner in (graph, *graph.subgraphs(recursive=True)):
        stored = [t for t in inner.tensors().values() if isinstance(t, gs.Constant)]
        stored += [v for node in inner.nodes for v in node.attrs.values() if isinstance(v, gs.Constant)]
        for constant in stored:
            values = constant._values  # noqa: SLF001 - the property would load what is stored lazily
            if isinstance(values, np.ndarray) and values.dtype.kind == "V":
                constant.values = LazyValues(numpy_helper.from_array(values, constant.name))


def hoist_initializers(model: onnx.ModelProto) -> None:
    """Move initializers of subgraphs that are layer weights, or that several graphs hold, to the main graph.

    Edits `model` in place; it computes the same and holds each such tensor once. An initializer stays where
    it is when its name stands for something else in another graph, or is its subgraph's output (which may
    not come from outside).
    """
    main, *bodies = graphs(model.graph)
    held = {tensor.name: [tensor] for tensor in main.initializer}
    own = frozenset(held)
    for tensor in (tensor for body in bodies for tensor in body.initializer):
        held.setdefault(tensor.name, []).append(tensor)
    wanted = {name for body in bodies for name in _weight_names(body, held)}
    wanted |= {name for name, tensors in held.items() if len(tensors) > 1}
    moved = {
        name
        for name in wanted & held.keys() - _other_names(main, bodies)
        if all(tensor == held[name][0] for tensor in held[name][1:])
    }
    main.initializer.extend(tensors[0] for name, tensors in held.items() if name in moved - own)
    for body in bodies:
        _drop_initializers(body, moved)


def _weight_names(graph: onnx.GraphProto, held: Mapping[str, Sequence[TensorProto]]) -> Iterator[str]:
    """What may be weights in a body; of what is looked up or added only matrices of floats, the rest are indices and biases."""
    for node in graph.node:
        places = OPERATORS[node.op_type].weights if node.op_type in OPERATORS else ()
        names = [node.input[i] for i in places if i < len(node.input)]
        yield from (n for n in names if is_computing(node.op_type) or any(map(_is_matrix, held.get(n, ()))))


def _is_matrix(tensor: TensorProto) -> bool:
    return len(tensor.dims) > 1 and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _other_names(main: onnx.GraphProto, bodies: Sequence[onnx.GraphProto]) -> set[str]:
    """Names that nodes, inputs or the outputs of a body define: no initializer may be moved onto them."""
    values = [value for graph in (main, *bodies) for value in graph.input]
    values += [value for body in bodies for value in body.output]
    computed = {name for graph in (main, *bodies) for node in graph.node for name in node.output}
    return computed | {value.name for value in values}


def _tidy(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Drop what need not be stored, and keep every initializer once and in raw form, however it came."""
    del graph.value_info[:]
    _drop_initializers(graph, outer)
    for tensor in graph.initializer:
        _store_raw(tensor)
    known = outer | {tensor.name for tensor in graph.initializer}
    for inner in subgraphs(graph.node):
        inner.ClearField("doc_string")
        _tidy(inner, known)


def _drop_initializers(graph: onnx.GraphProto, names: Collection[str]) -> None:
    for index, tensor in reversed([*enumerate(graph.initializer)]):
        if tensor.name in names:
            del graph.initializer[index]


def _store_raw(tensor: TensorProto) -> None:
    tensor.ClearField("doc_string")
    if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _describe(model: onnx.ModelProto, like: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version = "onnxmpq", ""
    model.domain, model.model_version, model.doc_string = like.domain, like.model_version, like.doc_string
    model.metadata_props.extend(like.metadata_props)
    model.graph.name = like.graph.name or "graph"
    model.graph.doc_string = like.graph.doc_string
    _restore(model.graph.input, like.graph.input)
    _restore(model.graph.output, like.graph.output)


def _restore(values: Iterable[onnx.ValueInfoProto], like: Iterable[onnx.ValueInfoProto]) -> None:
    """Describe graph inputs or outputs as `like` does, where it knows them and their type."""
    known = {value.name: value for value in like if value.type.WhichOneof("value")}
    for value in values:
        if value.name in known:
            value.CopyFrom(known[value.name])
