from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.errors import DataError, MissingFileError, OptionError

INPUTS = [InputSpec("x", np.dtype(np.float32), (None, 2))]


def generate() -> Iterator[dict[str, Any]]:
    """3 + 0 + 4 + 1 samples: rows [i, i], labels i."""
    for start, count in ((0, 3), (3, 0), (3, 4), (7, 1)):
        rows = np.arange(start, start + count)
        yield {"x": np.stack([rows, rows], axis=1).astype(np.float64), "labels": rows}


def load(source: Callable[[], Any] | str, samples: int | None = None) -> Dataset:
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
    with pytest.raises(DataError, match="is a int; wanted a callable"):
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


def test_it_must_yield_the_same_in_every_pass() -> None:
    once = generate()
    with pytest.raises(DataError, match=r"ended after 0 of 8 samples; .*same samples in every pass"):
        rows(load(lambda: once))
    offsets = itertools.count()

    def other_labels() -> Iterator[dict[str, Any]]:
        yield {"x": np.zeros((2, 2)), "labels": np.arange(2) + next(offsets)}

    with pytest.raises(DataError, match="other labels"):
        rows(load(other_labels))
