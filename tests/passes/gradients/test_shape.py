from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
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
def test_moves(check_gradients: Any, rank: int, body: str, static: bool) -> None:
    free = ", ".join("?" * rank)
    model = model_of(f"g (double[2, 3, 4] x) => (double[{free}] y) {{ {body} }}", **INTS)
    check_gradients(model, ["x"], step=0.5, static=static or "Transpose (x)" in body)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(check_gradients: Any, axis: int) -> None:
    model = model_of(f"""
        g (double[2, 3] x, double[2, 3] z) => (double[?, ?] y) {{ a = Exp (z) y = Concat <axis = {axis}> (x, a, x) }}
    """)
    check_gradients(model, ["x", "z"], step=1e-6, tolerance=1e-6)


@pytest.mark.parametrize("body", [
    "a, b = Split <axis = 1> (x, parts) y = Add (a, b)", "y, b = Split <axis = 1> (x, parts)",
    "a, y = Split <axis = -2> (x, parts)",
])  # fmt: skip
def test_split(check_gradients: Any, body: str) -> None:
    model = model_of(f"g (double[2, 3, 4] x) => (double[?, ?, ?] y) {{ {body} }}", **INTS)
    check_gradients(model, ["x"], step=0.5)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_slice(check_gradients: Any, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    rank = len(shape)
    axes = data.draw(st.lists(st.sampled_from(range(-rank, rank)), min_size=1, max_size=rank, unique_by=lambda a: a % rank))
    bound = st.integers(-7, 7) | st.sampled_from([-(2**63), 2**63 - 1])
    starts, ends = ([data.draw(bound) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in axes]
    values = dict(zip(("s", "e", "a", "t"), (np.array(v, np.int64) for v in (starts, ends, axes, steps)), strict=True))
    taken = np.zeros(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        stop = None if step < 0 and end < -size else end
        taken = np.moveaxis(np.moveaxis(taken, axis, 0)[slice(start, stop, step)], 0, axis)
    assume(taken.size > 0)
    free = ", ".join("?" * rank)
    model = model_of(f"g (double{shape} x) => (double[{free}] y) {{ y = Slice (x, s, e, a, t) }}", **values)
    check_gradients(model, ["x"], step=0.5)


@pytest.mark.parametrize("pads", [[0, 1, 2, 1, 0, 3], [0, -1, 2, 1, 0, -2]])
def test_pad(check_gradients: Any, pads: list[int]) -> None:
    model = model_of("g (double[2, 3, 4] x) => (double[?, ?, ?] y) { y = Pad (x, p) }", p=np.array(pads, np.int64))
    check_gradients(model, ["x"], step=0.5)


def test_pad_of_some_axes(check_gradients: Any) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (double[2, 3, 4] x) => (double[?, ?, ?] y) { y = Pad (x, p, , a) }'
    model = model_of(text, p=np.array([1, 2], np.int64), a=np.array([-1], np.int64))
    check_gradients(model, ["x"], step=0.5)


@pytest.mark.parametrize("op", [
    'DepthToSpace <blocksize = 2, mode = "DCR">', 'DepthToSpace <blocksize = 2, mode = "CRD">', "SpaceToDepth <blocksize = 2>",
])  # fmt: skip
def test_depth_and_space(check_gradients: Any, op: str) -> None:
    model = model_of(f"g (float[2, 8, 2, 4] x) => (float[?, ?, ?, ?] y) {{ y = {op} (x) }}")
    check_gradients(model, ["x"], step=0.5)
