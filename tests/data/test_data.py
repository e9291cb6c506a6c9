from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared

from onnxmpq.data import Dataset, InputSpec, open_data, synthetic_data
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.errors import DataError, MissingFileError, OptionError
from onnxmpq.values.arrays import Array

F32 = np.dtype(np.float32)


def numbered(count: int, batch: int | None = None, samples: int | None = None, seed: int = 0) -> Dataset:
    """Samples [i] with label i, for an input of this batch dimension."""
    arrays: dict[str, Array] = {"x": np.arange(count, dtype=np.float32)[:, None], "labels": np.arange(count)}
    return open_data(arrays, [InputSpec("x", F32, (batch, 1))], samples=samples, seed=seed)


def values(data: Dataset, size: int = 4) -> list[int]:
    """The samples that all batches hold, which must match their labels and `count`."""
    found: list[int] = []
    for batch in data.batches(size):
        fed = batch.feeds["x"][:, 0].astype(int).tolist()
        assert batch.labels is not None
        assert fed == batch.labels.tolist()
        assert batch.count == len(fed)
        found += fed
    assert data.labels is not None
    assert found == data.labels.tolist()
    assert len(found) == data.count
    return found


def test_all_samples_are_read_when_they_are_checked() -> None:
    numbered(20).check()
    arrays: dict[str, Array] = {"x": np.where(np.arange(20) == 17, np.nan, 1.0)[:, None]}
    with pytest.raises(DataError, match=r"sample 17 of .* holds NaN"):
        open_data(arrays, [InputSpec("x", F32, (None, 1))], samples=None).check()


def test_batches_have_the_size_asked_for() -> None:
    data = numbered(10)
    assert [batch.count for batch in data.batches(4)] == [4, 4, 2]
    assert [batch.count for batch in data.batches(100)] == [10]
    assert values(data) == values(data) == list(range(10))
    assert data.description == "10 samples of the given arrays"
    assert not data.synthetic


@pytest.mark.parametrize(("batch", "wanted"), [(1, [1] * 7), (2, [2, 2, 2]), (7, [7])])
def test_a_fixed_batch_is_kept_and_a_remainder_left_out(batch: int, wanted: list[int]) -> None:
    data = numbered(7, batch)
    assert [b.count for b in data.batches(4)] == wanted
    assert values(data) == list(range(sum(wanted)))


@pytest.mark.parametrize(("batch", "sizes"), [(None, [4, 4, 2]), (5, [5, 5])])
def test_shuffled_gives_every_sample_once_in_another_order_each_time(
    batch: int | None, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.data.REMEMBERED_BYTES", 5 * 4)  # samples are read in two parts
    data, rng = numbered(10, batch), np.random.default_rng(0)
    orders = []
    for _ in range(2):
        batches = list(data.shuffled(4, rng))
        orders.append([int(x) for b in batches for x in b.feeds["x"][:, 0]])
        assert all(b.labels is not None and (b.labels == b.feeds["x"][:, 0]).all() for b in batches)
    assert sorted(b.count for b in data.shuffled(4, rng)) == sorted(sizes)
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_too_few_for_a_fixed_batch() -> None:
    with pytest.raises(DataError, match=r"takes 8 samples at a time, .* there are 7; give 8 or more"):
        numbered(7, 8)
    with pytest.raises(DataError, match=r"takes 4 samples at a time, .* there are 3"):
        numbered(7, 4, samples=3)


@given(
    count=st.integers(2, 60),
    batch=st.sampled_from([None, 1, 2]),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_split_is_a_partition_in_order(count: int, batch: int | None, share: float, seed: int) -> None:
    data = numbered(count, batch)
    if data.count < 2 * (batch or 1):
        with pytest.raises(DataError, match="cannot be split"):
            data.split(share, seed)
        return
    kept, held = data.split(share, seed)
    assert sorted(values(kept) + values(held)) == values(data)
    assert values(kept) == sorted(values(kept))
    assert abs(held.count - share * data.count) <= (batch or 1)
    assert values(data.split(share, seed)[1]) == values(held)


@given(st.lists(st.integers(0, 19), min_size=1), st.lists(st.integers(0, 100), min_size=1))
def test_take_composes(first: list[int], second: list[int]) -> None:
    outer = sorted(set(first))
    inner = [i % len(outer) for i in second]
    taken = numbered(40, samples=20, seed=3).take(first)
    all_values = np.array(values(numbered(40, samples=20, seed=3)))
    assert values(taken) == all_values[outer].tolist()
    assert values(taken.take(inner)) == all_values[outer][sorted(set(inner))].tolist()


def test_samples_are_chosen_by_seed() -> None:
    first, again, other = (values(numbered(100, samples=10, seed=seed)) for seed in (0, 0, 1))
    assert first == again == sorted(set(first))
    assert first != other
    assert values(numbered(5, samples=10)) == list(range(5))


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_is_between_none_and_all(share: float) -> None:
    with pytest.raises(OptionError, match="more than 0 and less than 1"):
        numbered(10).split(share, 0)


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(OptionError, match="0 samples"):
        numbered(10, samples=0)
    with pytest.raises(OptionError, match="batches of 0"):
        next(numbered(10).batches(0))
    with pytest.raises(DataError, match="no samples"):
        numbered(10).take([])


def test_batches_are_copies() -> None:
    array = np.zeros((2, 1), np.float32)
    data = open_data({"x": array}, [InputSpec("x", F32, (None, 1))], samples=None)
    next(iter(data.batches(2))).feeds["x"][:] = 1
    assert not array.any()


def test_synthetic_data_split_too() -> None:
    kept, held = synthetic_data([InputSpec("x", F32, (None, 3))], samples=16, seed=0).split(0.25, 0)
    assert (kept.count, held.count, held.synthetic) == (12, 4, True)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "digits.calib.npz").touch()
    with pytest.raises(MissingFileError, match=r"digit\.npz; nearest: digits\.calib\.npz"):
        open_data(tmp_path / "digit.npz", [], samples=None)
    with pytest.raises(MissingFileError, match="no folder"):
        open_data(str(tmp_path / "none" / "digit.npz"), [], samples=None)


@pytest.mark.parametrize("name", ["a.npy", "a.csv", "a"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1,2")
    with pytest.raises(DataError, match=r"neither an \.npz, nor a folder or \.zip"):
        open_data(tmp_path / name, [], samples=None)


def test_real_arrays() -> None:
    path = shared("data/cifar10_calib_2k.npz")
    data = open_data(path, [InputSpec("input", F32, (None, 3, 32, 32))], samples=300, seed=0)
    with np.load(path) as file:
        images, labels = file["images"][data.positions], file["labels"][data.positions]
    fed = list(data.batches(64))
    np.testing.assert_array_equal(np.concatenate([batch.feeds["input"] for batch in fed]), images)
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, labels)
    assert [batch.count for batch in fed] == [64, 64, 64, 64, 44]


def test_real_images() -> None:
    path = shared("data/imagenet_calib_1000.zip")
    spec = InputSpec("input", F32, (None, 3, 224, 224))
    data = open_data(path, [spec], samples=20, preprocess=Preprocess.parse("tf"), seed=0)
    batches = list(data.batches(16))
    assert [batch.feeds["input"].shape for batch in batches] == [(16, 3, 224, 224), (4, 3, 224, 224)]
    assert all(-1 <= batch.feeds["input"].min() < 0 < batch.feeds["input"].max() <= 1 for batch in batches)
    everything = open_data(path, [spec], samples=None, preprocess=Preprocess.parse("tf"))
    assert everything.labels is not None
    assert sorted(everything.labels.tolist()) == list(range(1000))


def test_some_are_at_most_as_many_as_asked_and_always_the_same() -> None:
    data = open_data(
        {"x": np.arange(40, dtype=np.float32).reshape(20, 2)},
        [InputSpec("x", np.dtype(np.float32), (None, 2))],
        samples=20,
    )
    assert data.some(30, 0) is data
    assert data.some(5, 0).count == 5
    assert np.array_equal(data.some(5, 0).positions, data.some(5, 0).positions)
    assert not np.array_equal(data.some(5, 0).positions, data.some(5, 1).positions)
