import numpy as np
import pytest
from central_differences import check_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.testing import model_of

INTS = {
    "shape": np.array([4, -1], np.int64), "ones": np.array([1, 3], np.int64), "first": np.array([0], np.int64),
    "wide": np.array([5, 2, 3, 4], np.int64), "parts": np.array([1, 2], np.int64),
}  # fmt: skip


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("rank", "body"), [
    (2, "y = Reshape (x, shape)"), (2, "y = Flatten <axis = 2> (x)"), (5, "y = Unsqueeze (x, ones)"),
    (3, "a = Unsqueeze (x, first) y = Squeeze (a, first)"), (3, "a = Unsqueeze (x, first) y = Squeeze (a)"),
    (3, "y = Transpose <perm = [1, 2, 0]> (x)"), (3, "y = Transpose (x)"), (4, "y = Expand (x, wide)"),
    (3, "y = Identity (x)"),
])  # fmt: skip
def test_moves(rank: int, body: str, static: bool) -> None:
    free = ", ".join("?" * rank)
    model = model_of(f"g (double[2, 3, 4] x) => (double[{free}] y) {{ {body} }}", **INTS)
    check_gradients(model, ["x"], step=0.5, static=static or "Transpose (x)" in body)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int) -> None:
    model = model_of(f"""
        g (double[2, 3] x, double[2, 3] z) => (double[?, ?] y) {{ a = Exp (z) y = Concat <axis = {axis}> (x, a, x) }}
    """)
    check_gradients(model, ["x", "z"], step=1e-6, tolerance=1e-6)


@pytest.mark.parametrize("body", [
    "a, b = Split <axis = 1> (x, parts) y = Add (a, b)", "y, b = Split <axis = 1> (x, parts)",
    "a, y = Split <axis = -2> (x, parts)",
])  # fmt: skip
def test_split(body: str) -> None:
    model = model_of(f"g (double[2, 3, 4] x) => (double[?, ?, ?] y) {{ {body} }}", **INTS)
    check_gradients(model, ["x"], step=0.5)


def test_split_without_an_axis() -> None:
    model = model_of("g (double[4, 3] x) => (double[2, 3] y) { a, b = Split (x) c = Exp (a) y = Mul (c, b) }")
    check_gradients(model, ["x"], step=1e-6, tolerance=1e-6)


@st.composite
def slices(draw: st.DrawFn) -> tuple[list[int], dict[str, list[int]]]:
    """A shape, and starts, ends, axes and steps that take at least one value along each axis."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    chosen = draw(st.lists(st.sampled_from(range(len(shape))), min_size=1, unique=True))
    found: dict[str, list[int]] = {"s": [], "e": [], "a": [], "t": []}
    for axis in chosen:
        size, step = shape[axis], draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        first, last = sorted(
            (draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))), reverse=step < 0
        )
        end = last + 1 if step > 0 else (last - 1 if last else draw(st.sampled_from([-size - 1, -(2**63)])))
        far = step > 0 and last == size - 1 and draw(st.booleans())
        found["s"].append(first - size if draw(st.booleans()) else first)
        found["e"].append(2**63 - 1 if far else end)
        found["a"].append(axis - len(shape) if draw(st.booleans()) else axis)
        found["t"].append(step)
    return shape, found


@settings(max_examples=80, deadline=None)
@given(drawn=slices())
def test_slice(drawn: tuple[list[int], dict[str, list[int]]]) -> None:
    shape, bounds = drawn
    free = ", ".join("?" * len(shape))
    values = {name: np.array(v, np.int64) for name, v in bounds.items()}
    model = model_of(f"g (double{shape} x) => (double[{free}] y) {{ y = Slice (x, s, e, a, t) }}", **values)
    check_gradients(model, ["x"], step=0.5)


def test_a_slice_that_takes_nothing() -> None:
    model = model_of(
        """g (double[4, 6] x) => (double[4, 6] y) {
            none = Slice (x, first, last, axes, steps)  some = Slice (x, zero, two, zero)
            both = Concat <axis = 1> (none, some)  y = Concat <axis = 0> (both, both)
        }""",
        first=np.array([0, 3]), last=np.array([4, 3]), axes=np.array([0, 1]), steps=np.array([2, 1]),
        zero=np.array([0]), two=np.array([2]),
    )  # fmt: skip
    check_gradients(model, ["x"], step=0.5)


@pytest.mark.parametrize("pads", [[0, 1, 2, 1, 0, 3], [0, -1, 2, 1, 0, -2]])
def test_what_the_border_is_filled_with(pads: list[int]) -> None:
    model = model_of(
        "g (double[2, 3, 4] x, double v) => (double[?, ?, ?] y) { y = Pad (x, p, v) }", p=np.array(pads)
    )
    check_gradients(model, ["x", "v"], step=0.5)
    text = 'g (double[2, 3] x, double v) => (double[?, ?] y) { a = Pad <mode = "edge"> (x, p, v) y = Add (a, v) }'
    check_gradients(model_of(text, p=np.array([1, 0, 0, 2])), ["x", "v"], step=0.5)


@pytest.mark.parametrize("pads", [[0, 1, 2, 1, 0, 3], [0, -1, 2, 1, 0, -2]])
def test_pad(pads: list[int]) -> None:
    model = model_of(
        "g (double[2, 3, 4] x) => (double[?, ?, ?] y) { y = Pad (x, p) }", p=np.array(pads, np.int64)
    )
    check_gradients(model, ["x"], step=0.5)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_a_border_that_repeats_values(mode: str) -> None:
    text = f'g (double[2, 3, 4] x) => (double[?, ?, ?] y) {{ y = Pad <mode = "{mode}"> (x, p) }}'
    pads = np.array([0, 1, 2, 0, 2, 3], np.int64)
    model = model_of('<ir_version: 9, opset_import: ["": 19]> ' + text, p=pads)
    check_gradients(model, ["x"], step=0.5)


def test_the_border_alone_counts_for_its_value() -> None:
    model = model_of(
        "g (float[4] x, float[1] v) => (float[5] y, float[1] r) { p = Pad (x, n, v) y = Mul (p, w) r = Sqrt (v) }",
        n=np.array([0, 1]), w=np.array([1e9, 1e9, 1e9, 1e9, 0.5], np.float32),
    )  # fmt: skip
    feeds = {"x": np.zeros(4, np.float32), "v": np.full(1, 4, np.float32)}
    check_gradients(model, ["v"], feeds, step=2**-6)


def test_pad_of_some_axes() -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (double[2, 3, 4] x) => (double[?, ?, ?] y) { y = Pad (x, p, , a) }'
    model = model_of(text, p=np.array([1, 2], np.int64), a=np.array([-1], np.int64))
    check_gradients(model, ["x"], step=0.5)


@pytest.mark.parametrize("op", [
    'DepthToSpace <blocksize = 2, mode = "DCR">', 'DepthToSpace <blocksize = 2, mode = "CRD">', "SpaceToDepth <blocksize = 2>",
])  # fmt: skip
def test_depth_and_space(op: str) -> None:
    model = model_of(f"g (float[2, 8, 2, 4] x) => (float[?, ?, ?, ?] y) {{ y = {op} (x) }}")
    check_gradients(model, ["x"], step=0.5)
