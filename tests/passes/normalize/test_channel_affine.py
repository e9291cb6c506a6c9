import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.passes.matching import NoMatch, known_rank
from onnxmpq.passes.normalize.channel_affine import absorb, layer_before
from onnxmpq.testing import model_of

ONES = np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("nodes", "rank"),
    [
        ("y = Relu (x)", None),
        ("y = Flatten (x)", 2),
        ("f = Flatten (x)  a = Relu (f)  b = MatMul (a, w)  c = Add (b, k)  y = Sigmoid (c)", 2),
        ("f = Flatten (x)  y = Add (f, k3)", 3),
        ("f = Flatten (x)  y = MatMul (f, v)", None),
        ("f = Flatten (x)  y = Mul (f, f)", None),
    ],
)
def test_known_rank(nodes: str, rank: int | None) -> None:
    constants = {"w": ONES, "k": ONES[0], "v": ONES[:, 0], "k3": ONES[None]}
    graph = gs.import_onnx(model_of(f"g (float x) => (float y) {{ {nodes} }}", **constants))
    graph.inputs[0].shape = graph.outputs[0].shape = None
    assert known_rank(graph.outputs[0]) == rank


def test_a_refused_match_edits_nothing() -> None:
    """The weight would fit, but there is nowhere to put the shift."""
    graph = gs.import_onnx(
        model_of("g (float[1, 4] x) => (float[1, 6] y) { c = MatMul (x, w)  y = Relu (c) }", w=ONES)
    )
    layer = layer_before(graph, graph.nodes[1].inputs[0])
    with pytest.raises(NoMatch, match="no bias to hold a shift"):
        absorb(graph, layer, np.full(6, 2.0), np.ones(6))
    assert graph.nodes[0].inputs[1] is layer.weight


def test_a_vector_has_no_output_channels() -> None:
    graph = gs.import_onnx(
        model_of("g (float[1, 4] x) => (float[1] y) { c = MatMul (x, w)  y = Relu (c) }", w=ONES[:, 0])
    )
    with pytest.raises(NoMatch, match="is a vector"):
        layer_before(graph, graph.nodes[1].inputs[0])
