"""Models as graphs, and graphs as models: nothing lost, and the same bytes every time."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model
from shared import SHARED, needs_shared

from onnxmpq.errors import ModelError
from onnxmpq.onnx_io.contents import initializers_listed_as_inputs
from onnxmpq.onnx_io.graph import export_model, import_graph, lowest_ir_version
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.runtime.session import Runtime

RUNTIME = Runtime("cpu", threads=1)
X = np.arange(8, dtype=np.float32)
SCALE = """<ir_version: 8, opset_import: ["": 13]>
    g (float[8] x) => (float[8] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = Mul (x, w) }"""


def round_trip(model: onnx.ModelProto) -> onnx.ModelProto:
    result = export_model(import_graph(model), model)
    onnx.checker.check_model(result, full_check=True)
    return result


def run(model: onnx.ModelProto, x: Any = X) -> Any:
    return RUNTIME.session(model).run({"x": x})["y"]


# To a graph


def test_initializers_listed_as_inputs_become_constants() -> None:
    model = parse_model(
        '<ir_version: 3, opset_import: ["": 8]> g (float[8] x, float[1] w) => (float[8] y)'
        " <float[1] w = {2}> { y = Mul (x, w) }"
    )
    assert initializers_listed_as_inputs(model) == ("w",)
    result = round_trip(model)
    assert initializers_listed_as_inputs(result) == ()
    assert [v.name for v in result.graph.input] == ["x"]
    assert_array_equal(run(result), 2 * X)


def test_variables_know_what_inference_finds_and_not_what_the_file_claims() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float16[N,4] x) => (float16[A,B] y)'
        " { h = Transpose (x) y = Neg (h) }"
    )
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT16, [7, 7]))
    hidden = import_graph(model).tensors()["h"]
    assert hidden.dtype == np.float16
    assert hidden.shape == [4, "N"]
    assert len(model.graph.value_info) == 1  # the model itself is left as it is


def test_functions_are_inlined() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 13, "local": 1]> g (float[8] x) => (float[8] y) { y = local.twice (x) }'
        ' <domain: "local", opset_import: ["": 13]> twice (a) => (b) { b = Add (a, a) }'
    )
    result = round_trip(model)
    assert [n.op_type for n in result.graph.node] == ["Add"]
    assert [o.domain for o in result.opset_import] == [""]


def test_sparse_tensors_are_refused() -> None:
    model = parse_model(SCALE)
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    with pytest.raises(ModelError, match="sparse"):
        import_graph(model)


def test_attributes_that_would_be_lost_are_refused() -> None:
    model = parse_model(SCALE)
    node = model.graph.node.add(op_type="Optional", name="opt", output=["o"])
    node.attribute.append(
        helper.make_attribute("type", helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
    )
    with pytest.raises(ModelError, match="Optional opt: attribute 'type' of type TYPE_PROTO"):
        import_graph(model)


def test_empty_lists_survive() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[8] x) => (float[A] y) { h = ReduceMax <axes: ints = []> (x)'
        " e = Constant <value_ints: ints = []> () s = Reshape (h, e) y = Add (x, s) }"
    )
    assert_array_equal(run(round_trip(model)), X + 7)


# And back


def test_names_types_and_texts_are_those_of_the_original() -> None:
    model = parse_model(
        '<ir_version: 10, opset_import: ["": 13, "com.microsoft": 1, "unused": 3], producer_name: "torch",'
        ' model_version: 7, domain: "org.example", doc_string: "a model", metadata_props: ["classes": "10"]>'
        " net (float[batch,3,H,W] x) => (float[batch,C,unknown,W2] y) <float[1] w = {2}, float[1] dead = {1}>"
        " { h = Mul (x, w) y = Neg (h) z = Neg (h) }"
    )
    model.graph.doc_string = "a graph"
    model.graph.input[0].doc_string = "an image"
    model.graph.node[0].doc_string = "line 5 of net.py"
    model.graph.node[0].metadata_props.add(key="namespace", value="long")
    model.graph.value_info.append(
        helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 3, "H", "W"])
    )
    result = round_trip(model)
    assert (result.doc_string, result.domain, result.model_version) == ("a model", "org.example", 7)
    assert (result.graph.name, result.graph.doc_string) == ("net", "a graph")
    assert list(result.metadata_props) == list(model.metadata_props)
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert result.producer_name == "onnxmpq"
    assert [(o.domain, o.version) for o in result.opset_import] == [("", 13)]
    assert [n.op_type for n in result.graph.node] == ["Mul", "Neg"]
    assert [t.name for t in result.graph.initializer] == ["w"]
    assert not result.graph.value_info
    assert not any(n.doc_string or n.metadata_props for n in result.graph.node)


def test_new_outputs_are_kept_as_the_graph_has_them() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[8] x) => (float[8] y) { h = Neg (x) y = Neg (h) }'
    )
    graph = import_graph(model)
    graph.outputs.append(graph.tensors()["h"])
    result = export_model(graph, model)
    assert [o.name for o in result.graph.output] == ["y", "h"]
    assert_array_equal(RUNTIME.session(result).run({"x": X})["h"], -X)


def test_exporting_twice_gives_the_same_bytes_and_leaves_the_graph_alone() -> None:
    model = parse_model(SCALE)
    graph = import_graph(model)
    before = [id(n) for n in graph.nodes]
    first = export_model(graph, model).SerializeToString()
    assert graph.tensors()["w"].values.sum() == 36  # loads what was stored lazily
    assert export_model(graph, model).SerializeToString() == first
    assert [id(n) for n in graph.nodes] == before


@pytest.mark.parametrize(
    ("opset", "types", "version"),
    [(6, (), 4), (13, (), 7), (17, (), 8), (21, (), 10), (25, (), 13), (13, (TensorProto.INT4,), 10)],
)
def test_the_lowest_ir_version(opset: int, types: tuple[int, ...], version: int) -> None:
    assert lowest_ir_version(opset, types) == version


SMALL_TYPES = {
    "INT4": (ml_dtypes.int4, 21),
    "UINT4": (ml_dtypes.uint4, 21),
    "INT2": (ml_dtypes.int2, 25),
    "UINT2": (ml_dtypes.uint2, 25),
    "BFLOAT16": (ml_dtypes.bfloat16, 21),
    "FLOAT8E4M3FN": (ml_dtypes.float8_e4m3fn, 21),
    "FLOAT8E4M3FNUZ": (ml_dtypes.float8_e4m3fnuz, 21),
    "FLOAT8E5M2": (ml_dtypes.float8_e5m2, 21),
}


@pytest.mark.parametrize("name", SMALL_TYPES)
@pytest.mark.parametrize("looked_at", [False, True])
def test_small_types_survive(name: str, looked_at: bool, capfd: pytest.CaptureFixture[str]) -> None:
    dtype, opset = SMALL_TYPES[name]
    values = np.array([0, 1, 0, 1, 1], np.float32).astype(dtype)
    model = parse_model(
        f'<ir_version: 13, opset_import: ["": {opset}]> g (float[5] x) => (float[5] y)'
        " { c = Cast <to = 1> (w) y = Add (x, c) }"
    )
    stored = numpy_helper.from_array(values, "w")
    model.graph.initializer.append(stored)
    graph = import_graph(model)
    if looked_at:
        constant = graph.tensors()["w"]
        constant.values = numpy_helper.to_array(stored)
    assert list(export_model(graph, model).graph.initializer) == [stored]
    assert capfd.readouterr() == ("", "")


def test_a_constant_read_by_several_graphs_is_written_once() -> None:
    branch = "(float[8] {0}) {{ {0} = {1} (x, w) }}"
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[8] x, bool c) => (float[8] y)'
        " <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = If (c) <"
        f"then_branch = t () => {branch.format('p', 'Mul')}, else_branch = e () => {branch.format('q', 'Add')}> }}"
    )
    result = round_trip(model)
    assert [t.name for t in result.graph.initializer] == ["w"]
    assert not any(a.g.initializer for a in result.graph.node[0].attribute)
    for condition, wanted in ((True, X * (X + 1)), (False, X + X + 1)):
        assert_array_equal(RUNTIME.session(result).run({"x": X, "c": np.array(condition)})["y"], wanted)


def test_new_domains_are_imported() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[8] x) => (float[8] y) { y = Neg (x) }'
    )
    graph = import_graph(model)
    graph.nodes[0].op, graph.nodes[0].domain = "Gelu", "com.microsoft"
    result = export_model(graph, model)
    assert [(o.domain, o.version) for o in result.opset_import] == [("", 13), ("com.microsoft", 1)]


def test_nodes_are_sorted() -> None:
    model = parse_model(SCALE)
    graph = import_graph(model)
    hidden = gs.Variable("hidden", np.float32)
    graph.nodes[0].inputs[0] = hidden
    graph.nodes.append(gs.Node("Neg", inputs=[graph.inputs[0]], outputs=[hidden]))
    assert [n.op_type for n in export_model(graph, model).graph.node] == ["Neg", "Mul"]


@needs_shared
@pytest.mark.parametrize("path", sorted(SHARED.glob("*/*.onnx")), ids=lambda path: path.stem)
def test_real_models_survive(path: Path) -> None:
    model = load_model(path)
    result = export_model(import_graph(model), model)
    if path.stem != "candy_style":  # experimental operators, of which the checker prints its opinion
        onnx.checker.check_model(result)
    listed = set(initializers_listed_as_inputs(model))
    assert list(result.graph.input) == [v for v in model.graph.input if v.name not in listed]
    assert list(result.graph.output) == list(model.graph.output)


def test_values_that_are_optional_come_through_the_graph() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (optional(float[N]) x, float[N] z) => (float[N] y, optional(float[N]) o) {
        a = OptionalGetElement (x)  o = Optional (a)  b = OptionalGetElement (o)  y = Add (b, z) }"""
    model = parse_model(text)
    again = export_model(import_graph(model), model)
    kinds = [value.type.WhichOneof("value") for value in (*again.graph.input, *again.graph.output)]
    assert kinds == ["optional_type", "tensor_type", "tensor_type", "optional_type"]
