from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.data import InputSpec, open_data
from onnxmpq.errors import DataError
from onnxmpq.values.arrays import Array

F32 = np.dtype(np.float32)
IMAGE = InputSpec("x", F32, (None, 3, 4, 4))
GRAY = InputSpec("y", F32, (None, 1, 4, 4))


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def feed(inputs: list[InputSpec], arrays: dict[str, Array], size: int = 2) -> dict[str, Array]:
    return next(iter(open_data(arrays, inputs, samples=None).batches(size))).feeds


def refuse(inputs: list[InputSpec], arrays: dict[str, Array], *words: str) -> None:
    """The data are refused, and the message says all of `words`."""
    with pytest.raises(DataError) as caught:
        list(open_data(arrays, inputs, samples=None).batches(2))
    for word in words:
        assert word in str(caught.value)


def test_a_single_array_needs_no_name() -> None:
    assert feed([IMAGE], {"images": floats(5, 3, 4, 4), "labels": np.arange(5)})["x"].shape == (2, 3, 4, 4)


def test_an_input_called_labels_is_fed() -> None:
    spec = InputSpec("labels", np.dtype(np.int64), (None,))
    data = open_data({"x": floats(5, 3, 4, 4), "labels": np.arange(5)}, [IMAGE, spec], samples=None)
    assert not data.has_labels
    assert next(iter(data.batches(3))).feeds["labels"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("found", "wanted", "ok"),
    [
        ("float64", "float32", True), ("float64", "float16", True), ("float32", "float16", True),
        ("float16", "float32", True), ("float32", "float64", True), (">f4", "float32", True),
        ("uint8", "float32", True), ("uint8", "float16", True), ("uint8", "uint8", True), ("bool", "bool", True),
        ("int8", "float32", False), ("int64", "float32", False), ("int32", "int64", False),
        ("float32", "uint8", False), ("bool", "float32", False), ("complex64", "float32", False),
        ("U4", "float32", False),
    ],
)  # fmt: skip
def test_dtypes(found: str, wanted: str, ok: bool) -> None:
    spec, array = InputSpec("x", np.dtype(wanted), (None, 2)), np.ones((3, 2)).astype(found)
    if not ok:
        return refuse([spec], {"x": array}, f"holds {array.dtype}", wanted)
    fed = feed([spec], {"x": array})["x"]
    assert fed.dtype == np.dtype(wanted)
    assert fed.tolist() == [[1, 1], [1, 1]]
    return None


def test_uint8_keeps_its_values() -> None:
    pixels = np.arange(240, 256, dtype=np.uint8).reshape(4, 4)
    assert feed([InputSpec("x", F32, (None, 4))], {"x": pixels}, 4)["x"].tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((5, 3, 4, 5), ("3x4x5", "3x4x4", "5 instead of 4 along axis 2")),
        ((5, 4, 4, 3), ("4x4x3", "4 instead of 3 along axis 0")),
        ((5, 48), ("samples of 48", "wants 3x4x4")),
        ((5, 2, 3, 4, 5), ("2x3x4x5", "anyx3x4x4")),
        ((), ("scalar", "samples")),
    ],
)
def test_a_wrong_shape_names_the_axis(shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    refuse([IMAGE], {"x": floats(*shape)}, "'x'", *words)


def test_wrong_names_list_both_sides() -> None:
    refuse(
        [IMAGE, GRAY], {"x": floats(5, 3, 4, 4), "z": floats(5, 1, 4, 4)}, "'x', 'z'", "'x', 'y'", "labels"
    )
    refuse([IMAGE], {"labels": np.arange(5)}, "(none)")


def test_inputs_agree_on_the_number_of_samples() -> None:
    refuse([IMAGE, GRAY], {"x": floats(5, 3, 4, 4), "y": floats(4, 1, 4, 4)}, "x: 5", "y: 4")


def test_no_samples() -> None:
    refuse([IMAGE], {"x": floats(0, 3, 4, 4)}, "no samples")


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.arange(4), "shape (4,); wanted (5,)"),
        (np.zeros((5, 1), np.int64), "shape (5, 1)"),
        (np.zeros(5, np.float32), "float32"),
        (np.zeros(5, bool), "bool"),
        (np.array([0, 1, -1, 2, 3]), "-1"),
    ],
)
def test_labels_are_class_indices(labels: Array, word: str) -> None:
    refuse([IMAGE], {"x": floats(5, 3, 4, 4), "labels": labels}, word)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_not_finite_names_input_and_sample(value: float, word: str) -> None:
    array = floats(5, 3, 4, 4)
    array[3, 0, 1, 2] = value
    refuse([IMAGE], {"x": array}, word, "sample 3", "'x'")


def test_too_large_for_the_input_is_inf() -> None:
    refuse([InputSpec("x", np.dtype(np.float16), (None, 2))], {"x": np.full((2, 2), 1e6)}, "Inf (as float16)")


def test_an_array_of_full_inputs_is_fed_one_at_a_time() -> None:
    inputs = [
        InputSpec("x", F32, (None, 8)),
        InputSpec("state", F32, (2, None, 4)),
        InputSpec("sr", np.dtype(np.int64), ()),
    ]
    arrays = {"x": floats(5, 8), "state": floats(5, 2, 1, 4), "sr": np.full(5, 16000)}
    batches = list(open_data(arrays, inputs, samples=None).batches(4))
    assert [b.count for b in batches] == [1] * 5
    for i, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.feeds["x"], arrays["x"][i : i + 1])
        np.testing.assert_array_equal(batch.feeds["state"], arrays["state"][i])
        assert batch.feeds["sr"].shape == ()
        assert batch.feeds["sr"] == 16000


def test_full_inputs_do_not_go_with_a_fixed_batch() -> None:
    inputs = [InputSpec("x", F32, (2, 8)), InputSpec("sr", np.dtype(np.int64), ())]
    refuse(inputs, {"x": floats(6, 8), "sr": np.full(6, 1)}, "x: 2", "sr: 1", "full shape")
