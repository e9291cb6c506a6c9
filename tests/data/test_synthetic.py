from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.data import InputSpec, synthetic_data
from onnxmpq.errors import DataError

F32 = np.dtype(np.float32)


def test_noise_is_the_same_for_the_same_seed() -> None:
    spec = [InputSpec("x", F32, (None, 3, 8, 8))]
    first, again, other = (
        next(iter(synthetic_data(spec, samples=16, seed=seed).batches(16))).feeds["x"] for seed in (0, 0, 1)
    )
    assert first.dtype == np.float32
    assert first.shape == (16, 3, 8, 8)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 1) < 0.05


def test_dtypes() -> None:
    names = ("float16", "float64", "uint8", "int64", "bool")
    inputs = [InputSpec(name, np.dtype(name), (None, 50)) for name in names]
    data = synthetic_data(inputs, samples=4, seed=0)
    feeds = next(iter(data.batches(4))).feeds
    assert {name: array.dtype.name for name, array in feeds.items()} == {name: name for name in names}
    assert set(np.unique(feeds["int64"])) == {0, 1}
    assert data.synthetic
    assert not data.has_labels
    assert data.description == "4 samples of synthetic noise"


def test_a_fixed_batch_is_filled() -> None:
    data = synthetic_data([InputSpec("x", F32, (3, 2))], samples=16, seed=0)
    assert data.count == 18
    assert all(batch.feeds["x"].shape == (3, 2) for batch in data.batches(1))


def test_inputs_without_a_common_batch_axis_are_fed_whole() -> None:
    inputs = [
        InputSpec("x", F32, (None, 8)),
        InputSpec("state", F32, (2, 1, 4)),
        InputSpec("sr", np.dtype(np.int64), ()),
    ]
    batches = list(synthetic_data(inputs, samples=3, seed=0).batches(16))
    assert len(batches) == 3
    assert [array.shape for array in batches[0].feeds.values()] == [(1, 8), (2, 1, 4), ()]


def test_several_images_fed_whole() -> None:
    inputs = [InputSpec("x", F32, (4, 3, 8, 8)), InputSpec("flag", np.dtype(np.bool_), (1,))]
    (batch,) = synthetic_data(inputs, samples=1, seed=0).batches(1)
    assert batch.count == 1
    assert batch.feeds["x"].shape == (4, 3, 8, 8)
    assert not np.array_equal(batch.feeds["x"][0], batch.feeds["x"][1])


def test_what_noise_cannot_fill() -> None:
    with pytest.raises(DataError, match="'text' takes string"):
        synthetic_data([InputSpec("text", np.dtype(object), (None,), "string")], samples=1, seed=0)
    with pytest.raises(DataError, match="'x' has free dimensions"):
        synthetic_data([InputSpec("x", F32, (None, 3, None))], samples=1, seed=0)
