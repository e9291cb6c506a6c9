import numpy as np
import onnx
import pytest

from onnxmpq.passes.normalize.drop_noops import drop_noops
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.arrays import Array

BETWEEN = "g (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ a = Relu (x)  b = {node}  y = Neg (b) }}"
LAST = "g (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ a = Relu (x)  y = {node} }}"
NOOPS = [
    "Identity (a)",
    "Dropout (a)",
    "Dropout (a, half)",
    "Dropout (a, half, no)",
    "Transpose <perm = [0, 1, 2]> (a)",
    "Mul (a, one)",
    "Mul (one, a)",
    "Div (a, one)",
    "Add (none, a)",
    "Sub (a, none)",
]
CONSTANTS = {
    "half": np.array(0.5, np.float32), "no": np.array(False),
    "one": np.ones(1, np.float32), "none": np.zeros((), np.float32),
}  # fmt: skip


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def drop(text: str, **constants: Array) -> onnx.ModelProto:
    used = {name: value for name, value in {**CONSTANTS, **constants}.items() if name in text}
    return check_pass(drop_noops, model_of(text, **used), decibels=np.inf)


@pytest.mark.parametrize("node", NOOPS)
def test_between_two_nodes(node: str) -> None:
    assert ops(drop(BETWEEN.format(node=node))) == ["Relu", "Neg"]


@pytest.mark.parametrize("node", NOOPS)
def test_at_the_end_the_output_keeps_its_name(node: str) -> None:
    dropped = drop(LAST.format(node=node))
    assert ops(dropped) == ["Relu"]
    assert dropped.graph.node[0].output[0] == "y"


def test_at_the_end_other_readers_follow() -> None:
    text = "g (float[2] x) => (float[2] y, float[2] z) { a = Relu (x)  y = Identity (a)  z = Neg (a) }"
    assert [list(n.input) for n in drop(text).graph.node] == [["x"], ["y"]]


def test_a_chain() -> None:
    text = (
        "g (float[2] x) => (float[2] y) { a = Relu (x)  b = Identity (a)  c = Dropout (b)  y = Identity (c) }"
    )
    assert ops(drop(text)) == ["Relu"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] y) { y = Identity (x) }",
        "g (float[2] x) => (float[2] y, float[2] z) { z = Relu (x)  y = Identity (z) }",
        "g (float[2] x) => (float[2] y, float[2] z) { z = Relu (x)  y = Identity (w) }",
    ],
)
def test_two_ends_of_the_graph_stay_apart(text: str) -> None:
    assert "Identity" in ops(drop(text, w=np.ones(2, np.float32)))


def test_one_of_two_copies_is_an_output() -> None:
    text = "g (float[2] x) => (float[2] y, float[2] z) { a = Relu (x)  y = Identity (a)  z = Identity (a) }"
    assert ops(drop(text)) == ["Relu", "Identity"]


@pytest.mark.parametrize(
    ("target", "shape", "dropped"),
    [
        ([2, 3, 4], "2, 3, 4", True),
        ([0, 0, 0], "N, M, K", True),
        ([0, -1, 4], "N, 3, 4", True),
        ([-1, 3, 4], "N, 3, 4", True),
        ([2, -1, 4], "N, 3, 4", False),
        ([0, -1], "N, 3, 4", False),
        ([4, 3, 2], "2, 3, 4", False),
        ([2, 3, 4, 1], "2, 3, 4", False),
    ],
)
def test_reshape_to_the_shape_it_has(target: list[int], shape: str, dropped: bool) -> None:
    text = f"g (float[{shape}] x) => (float[{', '.join('?' * len(target))}] y) {{ a = Reshape (x, s)  y = Neg (a) }}"
    feeds = {"x": np.ones((2, 3, 4), np.float32)}
    result = check_pass(drop_noops, model_of(text, s=np.array(target)), feeds, decibels=np.inf)
    assert ops(result) == (["Neg"] if dropped else ["Reshape", "Neg"])


def test_a_zero_that_means_zero_is_no_copy() -> None:
    text = "g (float[N, 3] x) => (float[?, ?] y) { a = Reshape <allowzero = 1> (x, s)  y = Neg (a) }"
    feeds = {"x": np.ones((0, 3), np.float32)}
    assert len(ops(check_pass(drop_noops, model_of(text, s=np.array([0, 3])), feeds))) == 2


@pytest.mark.parametrize(("to", "dropped"), [(1, True), (10, False)])
def test_cast_to_the_dtype_it_has(to: int, dropped: bool) -> None:
    text = (
        f"g (float[2] x) => (float[2] y) {{ a = Cast <to = {to}> (x)  b = Cast <to = 1> (a)  y = Neg (b) }}"
    )
    assert ops(drop(text)) == (["Neg"] if dropped else ["Cast", "Cast", "Neg"])


@pytest.mark.parametrize(
    "text",
    [
        BETWEEN.format(node="Transpose <perm = [0, 2, 1]> (a)").replace("[2, 3, 4] y", "[2, 4, 3] y"),
        BETWEEN.format(node="Transpose (a)").replace("[2, 3, 4] y", "[4, 3, 2] y"),
        "g (float[2] x) => (float[2] y, bool[2] m) { a = Relu (x)  y, m = Dropout (a) }",
        "g (float[2] x, bool t) => (float[2] y) { a = Relu (x)  y = Dropout (a, half, t) }",
    ],
)
def test_what_computes_something_stays(text: str) -> None:
    used = {"half": np.array(0.0, np.float32)} if "half" in text else {}
    model = model_of(text, **used)
    assert ops(check_pass(drop_noops, model)) == ops(model)


def test_a_tensor_that_a_subgraph_reads_keeps_its_name() -> None:
    text = """g (bool p, float[2] x) => (float[2] y, float[2] z) {
        a = Relu (x)  b = Identity (a)  c = Relu (x)  y = Identity (c)
        z = If (p) < then_branch = t () => (float[2] m) { m = Add (b, c) },
                     else_branch = e () => (float[2] n) { n = Sub (b, c) } > }"""
    assert ops(drop(text)) == ["Relu", "Identity", "Relu", "Identity", "If"]


@pytest.mark.parametrize(
    "node", ["Sub (none, a)", "Div (one, a)", "Mul (a, none)", "Add (a, one)", "Mul (a, wide)"]
)
def test_other_sums_and_products_are_left(node: str) -> None:
    text = LAST.format(node=node).replace(
        "2, 3, 4] y", "2, 3, 4] y" if "wide" not in node else "1, 2, 3, 4] y"
    )
    assert len(ops(drop(text, wide=np.ones((1, 1, 1, 1), np.float32)))) == 2
