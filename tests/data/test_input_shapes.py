import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.data.input_shapes import apply_shapes, guess_shapes, is_batchable, one_sample, parse_shape
from onnxmpq.errors import ModelError, OptionError
from onnxmpq.runtime.session import InputSpec, Runtime, Session
from onnxmpq.testing import model_of

FLOAT = np.dtype(np.float32)


def session(inputs: str, body: str, output: str = "float[?] y", opset: int = 18) -> Session:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({output}) {{ {body} }}'
    return Runtime("cpu", 1).session(model_of(text, w=np.ones((4, 3, 3, 3), np.float32)))


def specs(session: Session) -> tuple[InputSpec, ...]:
    return apply_shapes(session.inputs, {})


@given(st.text(min_size=1), st.lists(st.integers(1, 9999), min_size=1))
def test_a_shape_is_read_as_it_is_written(name: str, dims: list[int]) -> None:
    assert parse_shape(f"{name}={'x'.join(map(str, dims))}") == (name, tuple(dims))


@pytest.mark.parametrize("text", ["", "x", "x=", "=1x2", "x=1x", "x=0x3", "x=1x-3", "x=ax3", "x=1,3", "x=²"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(OptionError, match="NAME=1x3x224x224"):
        parse_shape(text)


def test_shapes_fill_in_free_dimensions_and_leave_the_batch_free() -> None:
    image = InputSpec("image", FLOAT, (None, 3, None, None))
    scale = InputSpec("scale", FLOAT, (1, 2))
    found = apply_shapes([image, scale], {"image": (1, 3, 20, 30)})
    assert [spec.shape for spec in found] == [(None, 3, 20, 30), (1, 2)]


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 3, 8), (3, 8, 8)])
def test_a_shape_that_contradicts_the_model(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=r"\?x3x\?x\?"):
        apply_shapes([InputSpec("image", FLOAT, (None, 3, None, None))], {"image": shape})


def test_a_name_that_is_no_input() -> None:
    with pytest.raises(OptionError, match="nearest: image"):
        apply_shapes([InputSpec("image", FLOAT, (1, 3))], {"imag": (1, 3)})


@pytest.mark.parametrize(
    ("inputs", "body", "shape"),
    [
        ("float[N, 3, H, W] x", "y = Conv (x, w)", (None, 3, 224, 224)),
        ("float[N, C, H, W] x", "y = Conv (x, w)", (None, 3, 224, 224)),
        ("float[N, H, W, 3] x", "t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (t, w)", (None, 224, 224, 3)),
        ("float[1, 3, H, W] x", "s = Constant <value = int64[4] {1, 3, 32, 32}> () r = Reshape (x, s) y = Conv (r, w)",
         (1, 3, 32, 32)),
        ("float[N, 3] x", "y = Relu (x)", (None, 3)),
        ("float[N, 3, D, H, W] x", "y = Relu (x)", (None, 3, 32, 32, 32)),
        ("float[N, T] x", "y = Relu (x)", (None, 512)),
    ],
)  # fmt: skip
def test_guesses_are_the_first_size_that_runs(inputs: str, body: str, shape: tuple[int | None, ...]) -> None:
    model = session(inputs, body)
    (found,) = guess_shapes(model, specs(model), 0)
    assert found.shape == shape


def test_a_model_that_runs_at_no_size() -> None:
    body = "s = Constant <value = int64[4] {1, 3, 7, 7}> () r = Reshape (x, s) y = Conv (r, w)"
    model = session("float[1, 3, H, W] x", body)
    with pytest.raises(ModelError, match=r"x=1x3x\?x\?.*--shape"):
        guess_shapes(model, specs(model), 0)


def test_a_batch_counts_only_where_samples_do_not_meet() -> None:
    apart = session("float[N, 3] x", "y = Relu (x)")
    assert is_batchable(apart, specs(apart), 0)
    fixed = session("float[1, 3] x", "y = Relu (x)")
    assert not is_batchable(fixed, specs(fixed), 0)
    mixed = session("float[N, 3] x", "m = ReduceMean <keepdims = 1> (x) y = Sub (x, m)")
    assert not is_batchable(mixed, specs(mixed), 0)


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("r = Relu (x)  y = NonZero (r)", "int64[k, M] y"),  # as long as the data have it
        ("m = ReduceSum <keepdims = 0> (x)  y = Identity (m)", "float y"),
        ("i = Cast <to = 7> (x)  y = Cast <to = 8> (i)", "string[N, 3] y"),
    ],
)
def test_results_that_no_two_samples_can_be_held_against_make_no_batch(body: str, output: str) -> None:
    found = session("float[N, 3] x", body, output)
    assert not is_batchable(found, specs(found), 0)


def test_one_sample_has_a_batch_of_one() -> None:
    feeds = one_sample([InputSpec("x", FLOAT, (None, 3, 4, 4)), InputSpec("n", np.dtype(np.int64), (2,))], 0)
    assert {name: value.shape for name, value in feeds.items()} == {"x": (1, 3, 4, 4), "n": (2,)}
