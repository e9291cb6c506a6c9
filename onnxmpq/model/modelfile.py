"""Model files read and written, and models turned into graphs and back. Nothing else reads a file that it did not write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from onnxmpq.errors import MissingFileError, ModelError, nearest
from onnxmpq.model.outfile import require_writable, written
from onnxmpq.passes.hoist_subgraph_weights import hoist_initializers

LARGEST_FILE = 2**31 - 1  # bytes: the longest message that protobuf reads and writes

_DEFAULT_DOMAIN = ("", "ai.onnx")  # two spellings of one domain
_FIRST_IR_VERSION = 4  # the first in which an initializer need not be a graph input as well
_IR_VERSION_OF_TYPE = {
    "FLOAT8E4M3FN": 9, "FLOAT8E4M3FNUZ": 9, "FLOAT8E5M2": 9, "FLOAT8E5M2FNUZ": 9, "UINT4": 10, "INT4": 10,
    "FLOAT4E2M1": 11, "FLOAT8E8M0": 12, "UINT2": 13, "INT2": 13,
}  # fmt: skip

# What onnx.checker refuses although ONNX Runtime runs it, and import_graph or export_model put in order.
_HARMLESS = (
    "must be topologically sorted",
    "'name' of 'graph' is required",
    "'type' of 'value_info' is required",  # an output without a type: inference finds it
    "in initializer but not in graph input",  # an IR version below 4 that leaves them out
    "is deprecated in domain_version",  # GroupNormalization-18, which ONNX Runtime runs
    "No Op registered for",  # ONNX Runtime knows more operators than onnx, and names those it does not
)
_READABLE_ATTRIBUTES = frozenset({
    AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING, AttributeProto.TENSOR, AttributeProto.GRAPH,
    AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS,
})  # fmt: skip


def load_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file and its external data, which ends up inside the returned model.

    The model is checked by onnx.checker, whose verdict counts but for what ONNX Runtime does not mind:
    nodes out of order, a graph without a name, outputs without a type, initializers that an old IR version
    wants listed as inputs, and operators unknown to onnx.

    Raises MissingFileError where the file or its external data do not exist; ModelError for anything that is
    not a whole, valid ONNX model of at most 2 GB, or whose external data lie outside its folder.
    """
    file = Path(path)
    model = _parse(_read(file), file)
    _require_content(model, file)
    _load_external_data(model, file)
    _check(model, file)
    return model


def _read(file: Path) -> bytes:
    if file.is_dir():
        raise ModelError(f"{file} is a folder, wanted an ONNX file: name the .onnx file inside it")
    if not file.exists():
        raise MissingFileError(f"{file} does not exist{_neighbours(file)}")
    if not file.is_file():
        raise ModelError(f"{file} is not a regular file, wanted an ONNX file")
    size = file.stat().st_size
    if size == 0:
        raise ModelError(f"{file} is empty; export or download the model again")
    if size > LARGEST_FILE:
        raise ModelError(_too_large(file, size))
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}; check its permissions") from error


def _neighbours(file: Path) -> str:
    """The nearest names in the file's folder, as the end of a message."""
    if not file.parent.is_dir():
        return f": there is no folder {file.parent}"
    hint = nearest(file.name, (other.name for other in file.parent.iterdir()))
    return f"; {hint}" if hint else ""


def _too_large(file: Path, size: int) -> str:
    return (
        f"{file} has {size / 1e9:.2f} GB with its external data, but models are held in memory as one message of "
        "at most 2 GB; compile a smaller model, or its parts"
    )


def _parse(content: bytes, file: Path) -> onnx.ModelProto:
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer, not the model itself; run `git lfs pull`")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"{file} is not an ONNX file, or is cut short ({len(content):,} bytes); export or download it again"
        ) from error
    return model


def _require_content(model: onnx.ModelProto, file: Path) -> None:
    """Bytes that are no model may still parse, as one with nothing in it."""
    lacking = [
        what
        for what, present in (
            ("a graph", model.HasField("graph")),
            ("nodes", bool(model.graph.node)),
            ("an opset of the ONNX domain", any(o.domain in _DEFAULT_DOMAIN for o in model.opset_import)),
        )
        if not present
    ]
    if lacking:
        raise ModelError(
            f"{file} is not an ONNX model, or is cut short: it lacks {', '.join(lacking)}; export it again"
        )


def _check(model: onnx.ModelProto, file: Path) -> None:
    # The checker prints, to the native stdout, what it thinks of experimental operators.
    known = all(onnx.defs.has(n.op_type) for n in _nodes(model) if n.domain in _DEFAULT_DOMAIN)
    try:
        if known:
            onnx.checker.check_model(model)
        for tensor in _tensors(model):
            onnx.checker.check_tensor(tensor)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).partition("==> Context:")[0].split())
        if not any(harmless in reason for harmless in _HARMLESS):
            raise ModelError(f"{file} is not valid ONNX, export it again: {reason[:300]}") from error


def _load_external_data(model: onnx.ModelProto, file: Path) -> None:
    """Move external data into the tensors; nothing is read before every location and size is known to be good."""
    external = [t for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL]
    spans = [_external_span(tensor, file) for tensor in external]
    total = model.ByteSize() + sum(length for _, _, length in spans)
    if total > LARGEST_FILE:
        raise ModelError(_too_large(file, total))
    for tensor, (data, offset, length) in zip(external, spans, strict=True):
        with data.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _external_span(tensor: TensorProto, file: Path) -> tuple[Path, int, int]:
    """File, offset and length in bytes of a tensor's external data, all of it present."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data = _external_file(entries.get("location", ""), tensor.name, file)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", _stored_bytes(tensor)))
    except ValueError as error:
        raise ModelError(f"{file}: external data of {tensor.name!r} have no usable span: {error}") from error
    size = data.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{data} is cut short: {tensor.name!r} needs bytes {offset:,} to {offset + length:,}, the file has "
            f"{size:,}; copy it again beside {file.name}"
        )
    return data, offset, length


def _external_file(location: str, tensor_name: str, file: Path) -> Path:
    # Resolved first: that covers absolute paths, `..` and symbolic links alike.
    folder = file.parent.resolve()
    data = (folder / location).resolve()
    if not data.is_relative_to(folder):
        raise ModelError(
            f"{file}: external data of {tensor_name!r} lie outside the model's folder ({location}), which is "
            "refused; put the data file itself beside the model"
        )
    if not data.is_file():
        raise MissingFileError(
            f"{file} needs its external data {location!r}, which is missing{_neighbours(data)}"
        )
    return data


def _stored_bytes(tensor: TensorProto) -> int:
    """Bytes of a tensor in raw form; types below 8 bits are packed."""
    bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    name = TensorProto.DataType.Name(tensor.data_type)
    bits = next((int(b) for b in "42" if name.endswith(f"INT{b}") or name.startswith(f"FLOAT{b}")), bits)
    return -(-int(np.prod(tensor.dims, dtype=np.int64)) * bits // 8)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every control-flow subgraph inside it."""
    yield graph
    for inner in _subgraphs(graph.node):
        yield from _graphs(inner)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    bodies: list[Sequence[onnx.NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    for body in bodies:
        yield from body
        for inner in _subgraphs(body):
            for graph in _graphs(inner):
                yield from graph.node


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in a model: initializers and attributes, those of subgraphs and functions too."""
    inner = [g for node in _nodes(model) for g in _subgraphs([node])]
    for graph in (model.graph, *inner):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def opset_version(model: onnx.ModelProto) -> int:
    """The opset of the ONNX domain that a model imports."""
    return next(int(o.version) for o in model.opset_import if o.domain in _DEFAULT_DOMAIN)


def initializers_listed_as_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the graph inputs that have a default value, in order; in an imported graph they are constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(value.name for value in model.graph.input if value.name in constants)


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """The model as a graph for the passes, which shares nothing with it.

    Functions are inlined, and initializers listed as inputs are constants only. Variables know the dtype and
    shape that onnx's shape inference finds, with None or a name for a free dimension; claims of the file about
    inner tensors (value_info) are not believed. Constants stay as they are stored until someone reads them.

    Raises ModelError for what a graph cannot hold: sparse tensors, functions of another opset, rare attributes.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    if own.functions:
        own = inliner.inline_local_functions(own)
    _require_editable(own)
    for graph in _graphs(own.graph):
        del graph.value_info[:]
    try:
        with G_LOGGER.suppress():
            imported = gs.import_onnx(_with_inferred_shapes(own))
    except (OnnxGraphSurgeonException, UnicodeDecodeError) as error:
        raise ModelError(f"the graph cannot be edited: {error}") from error
    return _normalise(imported)


def _with_inferred_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
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
    if any(graph.sparse_initializer for graph in _graphs(model.graph)):
        raise ModelError("the model holds sparse tensors, which are not supported; export it with dense ones")
    for node in _nodes(model):
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
        helper.make_opsetid("" if o.domain in _DEFAULT_DOMAIN else o.domain, o.version)
        for o in graph.import_domains
    ]
    for inner in (graph, *graph.subgraphs(recursive=True)):
        for node in inner.nodes:
            node.domain = "" if node.domain in {None, *_DEFAULT_DOMAIN} else node.domain
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
    types = {tensor.data_type for tensor in _tensors(model)}
    model.ir_version = lowest_ir_version(graph.opset, sorted(types))
    return model


def _opset_imports(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """The ONNX domain at the graph's opset, and the other domains that its nodes use (version 1 if new)."""
    versions = {o.domain: o.version for o in graph.import_domains or ()}
    nodes = [n for g in (graph, *graph.subgraphs(recursive=True)) for n in g.nodes]
    others = {n.domain for n in nodes} - {None, *_DEFAULT_DOMAIN}
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


def _tidy(graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Drop what need not be stored, and keep every initializer once and in raw form, however it came."""
    del graph.value_info[:]
    kept = [tensor for tensor in graph.initializer if tensor.name not in outer]
    if len(kept) < len(graph.initializer):
        kept = [_copy(tensor) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    for tensor in graph.initializer:
        _store_raw(tensor)
    known = outer | {tensor.name for tensor in graph.initializer}
    for inner in _subgraphs(graph.node):
        inner.ClearField("doc_string")
        _tidy(inner, known)


def _copy(tensor: TensorProto) -> TensorProto:
    result = TensorProto()
    result.CopyFrom(tensor)
    return result


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


@contextmanager
def written_model(
    model: onnx.ModelProto, path: str | os.PathLike[str], *, protect: Sequence[Path] = ()
) -> Iterator[Path]:
    """Write a model in one piece: under another name in the same folder, renamed once the body is through with it.

    Raises OutputError where `path` cannot be written or is one of the files `protect` (under whatever name). That, what
    the body raises, and an interrupt leave the folder as it was.
    """
    file = Path(path)
    require_writable(file, protect)
    try:
        content = model.SerializeToString()
    except ValueError as error:  # protobuf's, for more than 2 GB
        raise ModelError(f"the model for {file} is larger than 2 GB, the most that ONNX can hold") from error
    with written(content, file, protect=protect) as part:
        yield part
