import numpy as np
import onnx
import pytest

from onnxmpq.errors import OptionError
from onnxmpq.metrics.output_kinds import Seen, is_guessed, output_kinds, parse_outputs
from onnxmpq.values.output_kind import OutputKind

RNG = np.random.default_rng(0)


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[n, 3] x) => (float[n, 3] y) {{ {body} }}'
    )


def kind(body: str, *shape: int, values: np.ndarray | None = None) -> OutputKind:
    made = RNG.standard_normal(shape) if values is None else values
    return output_kinds(model(body), {"y": [made]})["y"]


@pytest.mark.parametrize(
    ("op", "shape", "expected"),
    [
        ("Relu", (1, 3), OutputKind.LOGITS),
        ("Relu", (1, 3, 1, 1), OutputKind.LOGITS),
        ("Relu", (1, 512, 1), OutputKind.VALUES),
        ("Softmax", (1, 3), OutputKind.PROBABILITIES),
        ("LogSoftmax", (1, 3), OutputKind.LOG_PROBABILITIES),
        ("Sigmoid", (1, 1), OutputKind.INDEPENDENT),
        ("HardSigmoid", (1, 3), OutputKind.INDEPENDENT),
        ("Relu", (1, 1), OutputKind.VALUES),
        ("Softmax", (1, 3, 8, 8), OutputKind.POSITIONS),
        ("Sigmoid", (1, 1, 8, 8), OutputKind.HEATMAP),
        ("Relu", (1, 3, 8), OutputKind.VALUES),
        ("Relu", (3,), OutputKind.VALUES),
        ("LpNormalization", (1, 3), OutputKind.EMBEDDING),
    ],
)
def test_the_last_operator_and_the_shape_tell(op: str, shape: tuple[int, ...], expected: OutputKind) -> None:
    assert kind(f"y = {op} (x)", *shape) == expected


@pytest.mark.parametrize(
    ("body", "shape", "expected"),
    [
        ("p = Sigmoid (x) y = ReduceMean <axes = [1]> (p)", (1, 1), OutputKind.INDEPENDENT),
        ("p = Sigmoid (x) q = Softmax (x) y = Mul (p, q)", (1, 3), OutputKind.INDEPENDENT),
        ("p = Sigmoid (x) y = MaxPool <kernel_shape = [1, 1]> (p)", (1, 1, 8, 8), OutputKind.HEATMAP),
        ("p = Sigmoid (x) y = Log (p)", (1, 3), OutputKind.LOGITS),
    ],
)
def test_what_lies_in_0_to_1_by_its_makers_is_probabilities(
    body: str, shape: tuple[int, ...], expected: OutputKind
) -> None:
    assert kind(body, *shape, values=RNG.random(shape)) == expected


def branches(first: str, second: str) -> str:
    """An If of two branches that read x."""
    one, two = (
        f"{name} = b{i} () => (float[n, 3] r{i}) {{ r{i} = {op} (x) }}"
        for i, (name, op) in enumerate([("then_branch", first), ("else_branch", second)])
    )
    return f"c = Constant <value = bool {{1}}> () y = If (c) <{one}, {two}>"


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        (("Softmax", "Softmax"), OutputKind.PROBABILITIES),
        (("Sigmoid", "HardSigmoid"), OutputKind.INDEPENDENT),
        (("Sigmoid", "Relu"), OutputKind.LOGITS),
    ],
)
def test_branches_tell_where_they_agree(ops: tuple[str, str], expected: OutputKind) -> None:
    assert kind(branches(*ops), 1, 3, values=RNG.random((1, 3))) == expected


SUM = "s = Constant <value = int64[1] {1}> () "
NORM = SUM + "q = Mul (x, x) r = ReduceSum (q, s) "


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            SUM
            + "m = ReduceMax <axes = [1]> (x) d = Sub (x, m) e = Exp (d) t = ReduceSum (e, s) y = Div (e, t)",
            OutputKind.PROBABILITIES,
        ),
        (
            SUM + "e = Exp (x) t = ReduceSum (e, s) r = Reciprocal (t) y = Mul (e, r)",
            OutputKind.PROBABILITIES,
        ),
        (SUM + "e = Exp (x) t = ReduceSum (e, s) l = Log (t) y = Sub (x, l)", OutputKind.LOG_PROBABILITIES),
        (
            "c = Constant <value = float {1.0}> () m = Neg (x) e = Exp (m) a = Add (e, c) y = Div (c, a)",
            OutputKind.INDEPENDENT,
        ),
        (
            "c = Constant <value = float {1.0}> () m = Neg (x) e = Exp (m) a = Add (c, e) y = Reciprocal (a)",
            OutputKind.INDEPENDENT,
        ),
        ("n = ReduceL2 <axes = [1]> (x) y = Div (x, n)", OutputKind.EMBEDDING),
        (NORM + "n = Sqrt (r) y = Div (x, n)", OutputKind.EMBEDDING),
        (
            NORM + "f = Constant <value = float {1e-12}> () k = Max (r, f) n = Sqrt (k) y = Div (x, n)",
            OutputKind.EMBEDDING,
        ),
        ("n = ReduceSum (x) y = Div (x, n)", OutputKind.LOGITS),
        (SUM + "p = Softmax (x) z = Unsqueeze (p, s) y = Squeeze (z, s)", OutputKind.PROBABILITIES),
    ],
)
def test_what_is_written_out_goes_by_the_operators_name(body: str, expected: OutputKind) -> None:
    assert kind(body, 2, 3) == expected


def test_values_tell_where_the_graph_does_not() -> None:
    raw = RNG.uniform(0.1, 1, (4, 5))
    assert kind("y = Relu (x)", values=raw / raw.sum(1, keepdims=True)) == OutputKind.PROBABILITIES
    assert kind("y = Relu (x)", values=raw) == OutputKind.LOGITS
    assert (
        kind("y = Relu (x)", values=raw / np.linalg.norm(raw, axis=1, keepdims=True)) == OutputKind.EMBEDDING
    )
    steps = RNG.uniform(0.1, 1, (2, 7, 5))
    assert kind("y = Relu (x)", values=steps / steps.sum(2, keepdims=True)) == OutputKind.POSITIONS
    signed = np.array([[1.5, -0.5], [2.0, -1.0]])
    assert kind("y = Relu (x)", values=signed) == OutputKind.LOGITS


def test_only_a_shape_is_a_guess() -> None:
    values = [RNG.standard_normal((2, 3))]
    assert is_guessed(model("y = Relu (x)"), "y", values)
    assert not is_guessed(model("y = Softmax (x)"), "y", values)
    assert not is_guessed(model("y = Relu (x)"), "y", [np.ones((2, 3, 4))])


def test_the_user_has_the_last_word() -> None:
    values: Seen = {
        "y": [RNG.standard_normal((2, 3))],
        "z": [np.zeros((1, 4, 5))],
        "i": [np.zeros(3, np.int64)],
    }
    asked = parse_outputs(["y=embedding", "z=positions"])
    assert output_kinds(model("y = Softmax (x)"), values, asked) == {
        "y": OutputKind.EMBEDDING,
        "z": OutputKind.POSITIONS,
    }
    values = {**values, "y": [RNG.uniform(0, 1, (2, 3))]}
    independent = output_kinds(model("y = Relu (x)"), values, parse_outputs(["y=probabilities"]))
    assert independent["y"] == OutputKind.INDEPENDENT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["y"], r"outputs 'y' was not understood; write NAME=WORD"),
        (["y=boxes"], "the words are classes, probabilities, embedding, values, heatmap, positions"),
        (["q=values"], "output 'q' is none of the model's float outputs: y, z"),
        (["z=classes"], r"output 'z' is 1x4x5, and classes are \[N, classes\]; write z=positions"),
        (["y=positions"], "positions are"),
        (["y=heatmap"], "output 'y' leaves 0 to 1"),
        (["y=values,z=values"], "one NAME=WORD each: repeat --outputs"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], said: str) -> None:
    values: Seen = {"y": [2 * np.ones((2, 3))], "z": [np.ones((1, 4, 5))]}
    with pytest.raises(OptionError, match=said):
        output_kinds(model("y = Relu (x)"), values, parse_outputs(words))


def test_beside_other_outputs_a_shape_alone_makes_no_classes() -> None:
    values: Seen = {"y": [RNG.standard_normal((2, 3))], "z": [RNG.standard_normal((2, 3))]}
    assert set(output_kinds(model("y = Relu (x)"), values).values()) == {OutputKind.LOGITS}
    assert output_kinds(model("y = Softmax (x)"), values) == {
        "y": OutputKind.PROBABILITIES,
        "z": OutputKind.VALUES,
    }
