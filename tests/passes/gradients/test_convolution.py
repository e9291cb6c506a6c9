"""Conv and ConvTranspose against central differences, which are exact for what is linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from central_differences import check_gradients
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmpq.errors import EngineError
from onnxmpq.testing import model_of, run

RNG = np.random.default_rng(0)


def conv_model(
    op: str, x: tuple[int, ...], weight: tuple[int, ...], bias: int, **attrs: Any
) -> onnx.ModelProto:
    fields = ", ".join(
        f"{k} = {v!r}".replace("'", '"').replace("(", "[").replace(")", "]") for k, v in attrs.items()
    )
    free = ", ".join("?" for _ in x)
    return model_of(
        f"g (float{list(x)} x) => (float[{free}] y) {{ y = {op} <{fields}> (x, w, b) }}",
        w=RNG.standard_normal(weight).astype(np.float32), b=RNG.standard_normal(bias).astype(np.float32),
    )  # fmt: skip


@st.composite
def convs(draw: st.DrawFn) -> onnx.ModelProto:
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    inputs = group * draw(st.integers(1, 2))
    outputs = group * draw(st.integers(1, 2))
    axes = st.lists
    kernel = draw(axes(st.integers(1, 3), min_size=rank, max_size=rank))
    attrs: dict[str, Any] = {
        "strides": draw(axes(st.integers(1, 3), min_size=rank, max_size=rank)),
        "dilations": draw(axes(st.integers(1, 2), min_size=rank, max_size=rank)),
        "group": group,
    }
    if draw(st.booleans()):
        attrs["pads"] = draw(axes(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank))
    else:
        attrs["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        attrs["dilations"] = [1] * rank  # all that the runtime pads by itself
    sizes = draw(axes(st.integers(3, 6), min_size=rank, max_size=rank))
    return conv_model("Conv", (2, inputs, *sizes), (outputs, inputs // group, *kernel), outputs, **attrs)


@settings(max_examples=60, deadline=None)
@given(model=convs())
def test_conv(model: onnx.ModelProto) -> None:
    try:
        outputs = run(
            model,
            {
                "x": np.zeros(
                    [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], np.float32
                )
            },
        )
    except EngineError:
        assume(False)
    assume(outputs["y"].size > 0)
    check_gradients(model, ["x", "w", "b"], step=0.5, tolerance=1e-4)


@pytest.mark.parametrize("attrs", [
    {}, {"strides": [2, 2]}, {"strides": [2, 1], "pads": [1, 0, 0, 1]}, {"strides": [3, 2], "output_padding": [2, 1]},
    {"dilations": [2, 1]}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [2, 2], "output_shape": [7, 8]},
])  # fmt: skip
@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose(attrs: dict[str, Any], group: int) -> None:
    model = conv_model("ConvTranspose", (2, 4, 3, 4), (4, 3, 3, 2), 3 * group, group=group, **attrs)
    check_gradients(model, ["x", "w", "b"], step=0.5, tolerance=1e-4)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_rank_one_and_three(op: str) -> None:
    for x, weight in (((2, 3, 5), (3, 3, 2)), ((1, 2, 3, 4, 3), (2, 2, 2, 1, 3))):
        check_gradients(
            conv_model(op, x, weight, weight[0], strides=[2] * (len(x) - 2)), ["x", "w", "b"], step=0.5
        )


def test_a_computed_weight_is_flipped_in_the_run() -> None:
    for group in (1, 2):
        model = model_of(f"""
            g (float[2, 4, 4, 3] x, float[4, {4 // group}, 3, 2] w) => (float[?, ?, ?, ?] y) {{
                v = Mul (w, w)
                y = Conv <pads = [1, 0, 1, 1], group = {group}> (x, v)
            }}
        """)
        check_gradients(model, ["x", "w"], step=2**-5, tolerance=2e-3)


def test_stride_one_needs_no_shapes() -> None:
    model = conv_model("Conv", (2, 3, 6, 5), (4, 3, 3, 3), 4, pads=[1, 0, 2, 1], dilations=[1, 2])
    deep = model_of(
        """g (float[2, 3, 6, 5] x) => (float[?, ?, ?, ?] y) {
            a = Conv <pads = [1, 0, 2, 1]> (x, w)
            y = Conv <pads = [4, 4, 0, 0], dilations = [1, 2]> (a, v)
        }""",
        w=RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), v=RNG.standard_normal((2, 4, 2, 2)).astype(np.float32),
    )  # fmt: skip
    check_gradients(model, ["x"], step=0.5, static=False)
    check_gradients(deep, ["x"], step=0.5, static=False)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [[6, 8], [8, 8]])
def test_an_output_shape_that_leaves_an_odd_number_of_pads(output_shape: list[int], auto_pad: str) -> None:
    attrs = {"strides": [2, 2], "output_shape": output_shape, "auto_pad": auto_pad}
    model = conv_model("ConvTranspose", (1, 2, 4, 4), (2, 2, 3, 3), 2, **attrs)
    check_gradients(model, ["x", "w"], step=0.5, tolerance=1e-4)


def test_a_free_size_is_padded_at_its_end() -> None:
    model = model_of(
        "g (float[N, 2, H, W] x) => (float[N, 3, ?, ?] y) { y = Conv <pads = [1, 0, 0, 2]> (x, w) }",
        w=RNG.standard_normal((3, 2, 3, 3)).astype(np.float32),
    )
    x = RNG.standard_normal((2, 2, 4, 5)).astype(np.float32)
    check_gradients(model, ["x"], {"x": x}, step=0.5, static=False)
