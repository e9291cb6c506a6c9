import logging

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.passes.normalize.fold_pad import fold_pad
from onnxmpq.testing import check_pass, model_of

WEIGHT = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
ZERO = np.zeros((), np.float32)
TEXT = "g (float[1, 4, 5, 6] x) => (float[1, ?, ?, ?] y) {{ p = {pad}  y = {layer} }}"


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def pads_of(model: onnx.ModelProto) -> list[int]:
    return next(list(a.ints) for a in model.graph.node[-1].attribute if a.name == "pads")


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=4), st.lists(st.integers(0, 2), min_size=4, max_size=4)
)
@settings(max_examples=20, deadline=None)
def test_pads_add_up(pads: list[int], own: list[int]) -> None:
    given_pads = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]])
    text = TEXT.format(pad="Pad (x, k, z)", layer=f"Conv <pads = {own}> (p, w)")
    folded = check_pass(fold_pad, model_of(text, w=WEIGHT, k=given_pads, z=ZERO))
    assert ops(folded) == ["Conv"]
    assert pads_of(folded) == [a + b for a, b in zip(pads, own, strict=True)]


@pytest.mark.parametrize("axes", [[2, 3], [-2, -1], [3, 2]])
def test_the_axes_of_pad_18(axes: list[int]) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> ' + TEXT.format(
        pad="Pad (x, k, , a)", layer="Conv (p, w)"
    )
    model = model_of(text, w=WEIGHT, k=np.array([1, 2, 3, 4]), a=np.array(axes))
    folded = check_pass(fold_pad, model)
    assert pads_of(folded) == ([2, 1, 4, 3] if axes == [3, 2] else [1, 2, 3, 4])


def test_valid_padding_becomes_explicit() -> None:
    text = TEXT.format(pad="Pad (x, k)", layer='Conv <auto_pad = "VALID", strides = [2, 2]> (p, w)')
    folded = check_pass(fold_pad, model_of(text, w=WEIGHT, k=np.array([0, 0, 0, 0, 0, 0, 1, 1])))
    assert pads_of(folded) == [0, 0, 1, 1]
    assert "auto_pad" not in {a.name for a in folded.graph.node[0].attribute}


def test_two_pads_are_folded_at_once() -> None:
    text = TEXT.format(pad="Pad (x, k)  q = Pad (p, k)", layer="Conv (q, w)")
    folded = check_pass(fold_pad, model_of(text, w=WEIGHT, k=np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    assert pads_of(folded) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("pad", "layer", "pads", "value", "reason"),
    [
        (
            "Pad (x, k)",
            "AveragePool <kernel_shape = [2, 2]> (p)",
            [0, 0, 1, 1, 0, 0, 1, 1],
            0,
            "not the data of a Conv",
        ),
        (
            "Pad (x, k)",
            "MaxPool <kernel_shape = [2, 2]> (p)",
            [0, 0, 1, 1, 0, 0, 1, 1],
            0,
            "not the data of a Conv",
        ),
        (
            "Pad (x, k)",
            'Conv <auto_pad = "SAME_UPPER"> (p, w)',
            [0, 0, 1, 1, 0, 0, 1, 1],
            0,
            "pads by itself",
        ),
        ("Pad (x, k, z)", "Conv (p, w)", [0, 0, 1, 1, 0, 0, 1, 1], 1, "does not pad with zeros"),
        (
            'Pad <mode = "reflect"> (x, k)',
            "Conv (p, w)",
            [0, 0, 1, 1, 0, 0, 1, 1],
            0,
            "does not pad with a constant",
        ),
        ("Pad (x, k)", "Conv (p, w)", [0, 0, -1, 0, 0, 0, 0, 0], 0, "it cuts"),
        ("Pad (x, k)", "Conv (p, w5)", [0, 1, 0, 0, 0, 0, 0, 0], 0, "pads the batch or the channels"),
        ("Pad (x, k)  q = Relu (k2)", "Conv (p, w)", [0, 0, 1, 1, 0, 0, 1, 1], 0, None),
    ],
)
def test_what_is_refused_and_why(
    pad: str, layer: str, pads: list[int], value: int, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    weight5 = np.ones((8, 5, 3, 3), np.float32)
    constants = {"w": WEIGHT, "w5": weight5, "k": np.array(pads), "z": np.float32(value), "k2": ZERO}
    model = model_of(TEXT.format(pad=pad, layer=layer), **{k: np.asarray(v) for k, v in constants.items()})
    folded = check_pass(fold_pad, model)
    assert ("Pad" in ops(folded)) == (reason is not None)
    assert reason is None or reason in caplog.text


def test_a_padded_tensor_with_two_readers_stays() -> None:
    text = TEXT.replace("float[1, ?, ?, ?] y", "float[1, ?, ?, ?] y, float[1, ?, ?, ?] z").format(
        pad="Pad (x, k)", layer="Conv (p, w)  z = Conv (p, w)"
    )
    folded = check_pass(fold_pad, model_of(text, w=WEIGHT, k=np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    assert ops(folded) == ["Pad", "Conv", "Conv"]


def test_pads_that_are_computed_stay() -> None:
    text = TEXT.format(pad="Pad (x, j)", layer="Conv (p, w)").replace("{ p", "{ j = Abs (k)  p")
    folded = check_pass(fold_pad, model_of(text, w=WEIGHT, k=np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    assert ops(folded) == ["Abs", "Pad", "Conv"]
