"""Remembered samples: the same as ever, read from their source once, within the bound."""

from collections.abc import Iterator

import numpy as np
import pytest

from onnxmpq.data import InputSpec
from onnxmpq.data.samples import Positions, Sample, Source, remembered

COUNT = 6


def counted() -> tuple[Source, list[int]]:
    """Samples of 400 bytes, and a list that every reading of one is noted in."""
    reads: list[int] = []

    def read(positions: Positions) -> Iterator[Sample]:
        for position in positions.tolist():
            reads.append(position)
            yield {"x": np.full(100, position, np.float32)}

    spec = InputSpec("x", np.dtype(np.float32), (None, 100))
    return Source("counted", (spec,), COUNT, None, None, read), reads


def values(source: Source, *positions: int) -> list[float]:
    return [float(np.asarray(sample["x"])[0]) for sample in source.read(np.array(positions))]


def test_each_sample_is_read_once() -> None:
    source, reads = counted()
    again = remembered(source)
    assert values(again, 1, 3) == [1, 3]
    assert values(again, 0, 1, 2, 3) == [0, 1, 2, 3]
    assert values(again, 0, 1, 2, 3) == [0, 1, 2, 3]
    assert sorted(reads) == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [0, 400, 1000, 10_000])
def test_no_more_is_kept_than_the_limit(limit: int) -> None:
    source, reads = counted()
    again = remembered(source, limit)
    for _ in range(3):
        assert values(again, *range(COUNT)) == list(range(COUNT))
    fits = min(limit // 400, COUNT)
    assert len(reads) == COUNT + 2 * (COUNT - fits)


def test_a_source_that_ends_early_ends_early() -> None:
    source, _ = counted()
    short = remembered(Source("short", source.inputs, COUNT, None, None, lambda p: source.read(p[:2])))
    assert values(short, 0, 1, 2) == [0, 1]


def test_what_is_given_out_may_be_written_to() -> None:
    source, _ = counted()
    again = remembered(source)
    for _ in range(2):
        given = next(iter(again.read(np.array([2]))))
        np.asarray(given["x"])[:] = 9
        assert values(again, 2) == [2]


def test_a_buffer_that_is_filled_again_is_kept_as_it_was() -> None:
    source, _ = counted()
    buffer = np.zeros(100, np.float32)

    def read(positions: Positions) -> Iterator[Sample]:
        for position in positions.tolist():
            buffer[:] = position
            yield {"x": buffer}

    again = remembered(Source("refilled", source.inputs, COUNT, None, None, read))
    assert values(again, *range(COUNT)) == list(range(COUNT))
    assert values(again, *range(COUNT)) == list(range(COUNT))


def test_two_readings_at_a_time_do_not_disturb_each_other() -> None:
    source, _ = counted()
    again = remembered(source)
    one, other = again.read(np.arange(COUNT)), again.read(np.arange(1, COUNT))
    assert float(np.asarray(next(one)["x"])[0]) == 0
    assert float(np.asarray(next(other)["x"])[0]) == 1
    assert [float(np.asarray(s["x"])[0]) for s in one] == [1, 2, 3, 4, 5]
    assert [float(np.asarray(s["x"])[0]) for s in other] == [2, 3, 4, 5]
