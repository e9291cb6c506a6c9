from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.data import Dataset, InputSpec, callables, open_data
from onnxmpq.errors import DataError, MissingFileError, OptionError

INPUTS = [InputSpec("x", np.dtype(np.float32), (None, 2))]


def generate() -> Iterator[dict[str, Any]]:
    """3 + 0 + 4 + 1 samples: rows [i, i], labels i."""
    for start, count in ((0, 3), (3, 0), (3, 4), (7, 1)):
        rows = np.arange(start, start + count)
        yield {"x": np.stack([rows, rows], axis=1).astype(np.float64), "labels": rows}


def load(source: Any, samples: int | None = None) -> Dataset:
    return open_data(source, INPUTS, samples=samples)


def rows(data: Dataset, size: int = 3) -> list[float]:
    return [float(v) for batch in data.batches(size) for v in batch.feeds["x"][:, 0]]


@pytest.mark.parametrize("samples", [None, 1, 3, 5, 8, 100])
def test_the_first_samples_are_taken(samples: int | None) -> None:
    data = load(generate, samples)
    wanted = list(range(min(samples or 8, 8)))
    assert data.count == len(wanted)
    assert rows(data) == rows(data) == wanted
    assert data.labels is not None
    assert data.labels.tolist() == wanted
    assert rows(data.take([len(wanted) - 1, 0])) == sorted({0, len(wanted) - 1})


def test_an_endless_callable_is_cut() -> None:
    data = load(lambda: ({"x": np.full((4, 2), float(i))} for i in itertools.count()), 10)
    assert rows(data) == [0] * 4 + [1] * 4 + [2] * 2
    assert not data.has_labels


def test_one_buffer_may_be_used_again() -> None:
    def reuse() -> Iterator[dict[str, Any]]:
        buffer = np.zeros((1, 2), np.float32)
        for i in range(4):
            buffer[:] = i
            yield {"x": buffer}

    assert rows(load(reuse), 4) == [0, 1, 2, 3]


def test_a_file_names_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\nnumber = 3\n"
        "def batches():\n    for i in range(3):\n        yield {'x': np.full((2, 2), i, np.float32)}\n"
    )
    data = load(f"{file}:batches", 5)
    assert rows(data) == [0, 0, 1, 1, 2]
    assert data.description == f"5 samples of {file}:batches"
    with pytest.raises(DataError, match="are no data but a int; give a path, a callable"):
        load(f"{file}:number")
    with pytest.raises(OptionError, match="nearest: batches"):
        load(f"{file}:batch")
    with pytest.raises(MissingFileError):
        load(f"{tmp_path / 'other.py'}:batches")


def _failing() -> Iterator[dict[str, Any]]:
    yield {"x": np.zeros((2, 2), np.float32)}
    raise KeyError("colour")


@pytest.mark.parametrize(
    ("items", "word"),
    [
        ([], "yields nothing"),
        ([{"x": np.zeros((0, 2), np.float32)}], "no samples"),
        ([np.zeros((2, 2))], "dict 0 of .* is a ndarray"),
        ([{"x": np.zeros((2, 2))}, {"x": np.zeros((2, 3))}], "'x' of dict 1 .*3 instead of 2 along axis 0"),
        ([{"x": np.zeros((2, 2))}, {"x": np.zeros((2, 1, 2))}], "two kinds"),
        ([{"x": np.zeros((2, 2)), "labels": [0, 1]}, {"x": np.zeros((2, 2))}], "two kinds"),
        ([{"x": np.zeros((2, 2)), "labels": [0]}], "labels of dict 0 .*shape"),
        ([{"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}], "'a', 'b'.*'x'"),
    ],
)
def test_what_it_must_not_yield(items: list[Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        load(lambda: items)


def test_what_it_raises_is_told_in_one_line() -> None:
    with pytest.raises(DataError, match="_failing failed: KeyError: 'colour'"):
        load(_failing)
    with pytest.raises(DataError, match="TypeError"):
        load(lambda: 3)


def test_what_is_small_is_read_once() -> None:
    calls = itertools.count()

    def shuffled() -> Iterator[dict[str, Any]]:
        for i in np.random.default_rng(next(calls)).permutation(32):
            yield {"x": np.full((1, 2), float(i))}

    data = load(shuffled)
    kept, held_out = data.split(0.25, 0)
    assert rows(data) == rows(data)
    assert sorted(rows(kept) + rows(held_out)) == list(range(32))
    assert next(calls) == 1


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callables, "REMEMBERED_BYTES", 16)
    monkeypatch.setattr(callables, "_LARGEST_ONCE", 16)  # private: only a test's samples are so small


@pytest.mark.usefixtures("nothing_is_small")
def test_what_is_large_must_be_the_same_in_every_pass() -> None:
    once, offsets = generate(), itertools.count()
    assert rows(load(generate)) == list(range(8))
    with pytest.raises(DataError, match=r"ended after 0 of 8 samples; .*same samples in every pass"):
        rows(load(lambda: once))

    def other_labels() -> Iterator[dict[str, Any]]:
        yield {"x": np.zeros((3, 2)), "labels": np.arange(3) + next(offsets)}

    with pytest.raises(DataError, match="other labels"):
        rows(load(other_labels))


@pytest.mark.usefixtures("nothing_is_small")
def test_another_order_of_what_is_large_is_said() -> None:
    calls = itertools.count()

    def shuffled() -> Iterator[dict[str, Any]]:
        for i in np.random.default_rng(next(calls)).permutation(32):
            yield {"x": np.full((1, 2), float(i))}

    assert "another order, at every call" in load(shuffled).source.notes[0]
    assert not load(generate).source.notes


class Numbers:
    """Like a CalibrationDataReader of onnxruntime."""

    def __init__(self) -> None:
        self.left = iter(range(4))

    def get_next(self) -> dict[str, Any] | None:
        number = next(self.left, None)
        return None if number is None else {"x": np.full((1, 2), float(number))}


@pytest.mark.parametrize(
    "given",
    [Numbers(), Numbers, ({"x": np.full((1, 2), float(i))} for i in range(4)), lambda: {"x": np.arange(4.0).repeat(2).reshape(4, 2)},
     [{"x": np.full((2, 2), float(i))} for i in (0, 2)]],
    ids=["reader", "class of readers", "generator", "one dict", "list"],
)  # fmt: skip
def test_other_givers_of_dicts(given: Any) -> None:
    data = load(given)
    assert data.count == 4
    assert rows(data) == rows(data)
    assert rows(data)[::2] == [0, 2]


@pytest.mark.usefixtures("nothing_is_small")
def test_what_can_be_read_once_only_must_be_small() -> None:
    with pytest.raises(DataError, match=r"can be read only once.*give a callable"):
        load(Numbers())


STATEFUL = [
    *INPUTS,
    InputSpec("state", np.dtype(np.float32), (3, None, 1)),
    InputSpec("rate", np.dtype(np.int64), ()),
]


def test_a_dict_may_be_what_one_run_takes() -> None:
    def runs() -> Iterator[dict[str, Any]]:
        for i in range(5):
            yield {"x": np.full((1, 2), float(i)), "state": np.full((3, 1, 1), float(i)), "rate": 16000}

    data = open_data(runs, STATEFUL, samples=None)
    assert data.count == 5
    for i, batch in enumerate(data.batches(4)):
        assert {name: v.shape for name, v in batch.feeds.items()} == {
            "x": (1, 2),
            "state": (3, 1, 1),
            "rate": (),
        }
        assert batch.feeds["x"][0, 0] == batch.feeds["state"][2, 0, 0] == i


@pytest.mark.parametrize("saved", [False, True])
def test_samples_along_other_axes_are_taken_apart(saved: bool, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x": np.arange(8, dtype=np.float32).reshape(4, 2),
        "state": np.arange(12, dtype=np.float32).reshape(3, 4, 1),
        "rate": np.array(16000),
        "labels": np.arange(4),
    }
    np.savez(tmp_path / "runs.npz", **arrays)
    data = open_data(tmp_path / "runs.npz" if saved else arrays, STATEFUL, samples=None)
    batches = list(data.batches(4))
    assert data.count == len(batches) == 4
    np.testing.assert_array_equal(batches[2].feeds["state"], arrays["state"][:, 2:3])
    np.testing.assert_array_equal(batches[2].feeds["x"], arrays["x"][2:3])
    assert batches[2].labels == 2


def test_samples_that_differ_in_number_are_no_run() -> None:
    specs = [*INPUTS, InputSpec("z", np.dtype(np.float32), (None, 2))]
    with pytest.raises(DataError, match=r"number of samples \(x: 3, z: 4\)"):
        open_data({"x": np.zeros((3, 2)), "z": np.zeros((4, 2))}, specs, samples=None)


@pytest.mark.parametrize("code", [3, None, "no more"])
def test_one_that_exits_is_named(code: Any) -> None:
    def leaving() -> Iterator[dict[str, Any]]:
        yield {"x": np.zeros((2, 2))}
        sys.exit(code)

    with pytest.raises(DataError, match="leaving failed: SystemExit"):
        load(leaving)
