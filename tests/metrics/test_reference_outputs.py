"""A reference runs once over what is asked for again, and no more of it is held than so many bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.metrics.reference_outputs import Expected

X = np.arange(40, dtype=np.float32).reshape(10, 4)
BATCH_BYTES = 3 * 4 * 4


class Counted:
    """A reference that counts its runs."""

    def __init__(self, extra: Mapping[str, Any]) -> None:
        self.runs = 0
        self.extra = extra

    def run(self, feeds: Mapping[str, Any], _outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.runs += 1
        return {"y": 2 * feeds["x"], **self.extra}


@pytest.fixture
def data() -> Dataset:
    return open_data({"x": X}, [InputSpec("x", np.dtype(np.float32), (None, 4))], samples=None)


@pytest.mark.parametrize(
    ("most", "extra", "runs"),
    [
        (1 << 20, {}, 4),  # four batches, once
        (0, {}, 12),  # every time anew
        (2 * BATCH_BYTES, {}, 8),  # the first two are held
        (BATCH_BYTES - 1, {}, 12),  # the last, smaller one would fit, but no batch behind a gap is held
        (1 << 20, {"sequence": [1]}, 12),  # of unknown size
    ],
)
def test_runs_of_the_reference(data: Dataset, most: int, extra: Mapping[str, Any], runs: int) -> None:
    reference = Counted(extra)
    expected = Expected(reference, data, 3, most)  # type: ignore[arg-type]
    for _ in range(3):
        found = [(batch.feeds["x"], outputs["y"]) for batch, outputs in expected.batches()]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X)
        np.testing.assert_array_equal(np.concatenate([y for _, y in found]), 2 * X)
    assert reference.runs == runs


def test_a_source_that_shuffles_gets_what_is_expected_of_its_samples() -> None:
    order = np.arange(10)

    def read() -> Iterator[dict[str, Any]]:
        np.random.default_rng(int(order.sum())).shuffle(order)
        order[:] = np.roll(order, 3)
        return ({"x": X[i : i + 1]} for i in order.copy())

    shuffled = open_data(read, [InputSpec("x", np.dtype(np.float32), (None, 4))], samples=10)
    expected = Expected(Counted({}), shuffled, 3)  # type: ignore[arg-type]
    for _ in range(3):
        for batch, outputs in expected.batches():
            np.testing.assert_array_equal(outputs["y"], 2 * batch.feeds["x"])


def test_a_pass_that_stops_early_holds_what_it_saw(data: Dataset) -> None:
    reference = Counted({})
    expected = Expected(reference, data, 3)  # type: ignore[arg-type]
    next(expected.batches())
    assert [batch.count for batch, _ in expected.batches()] == [3, 3, 3, 1]
    assert reference.runs == 4


def test_outputs_too_large_to_hold_are_held_once_they_are_not(data: Dataset) -> None:
    """Those of the batches behind them meanwhile take no place that is theirs."""

    class Shrinking(Counted):
        def run(self, feeds: Mapping[str, Any], _outputs: Sequence[str] | None = None) -> dict[str, Any]:
            found = super().run(feeds)
            return {**found, "more": np.zeros(1 << 20 if self.runs == 1 else 1, np.uint8)}

    reference = Shrinking({})
    expected = Expected(reference, data, 3, 1000)  # type: ignore[arg-type]
    for runs in (4, 8, 8):
        assert len(list(expected.batches())) == 4
        assert reference.runs == runs


def test_every_input_tells_one_batch_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "onnxmpq.data.callables.REMEMBERED_BYTES", 0
    )  # a source that is read anew in every pass
    passes = count()

    def read() -> Iterator[dict[str, Any]]:
        shift = np.float32(next(passes))
        return ({"x": X[i : i + 1] + shift, "z": X[i : i + 1]} for i in range(10))

    specs = [InputSpec(name, np.dtype(np.float32), (None, 4)) for name in "xz"]
    expected = Expected(Counted({}), open_data(read, specs, samples=10), 3)  # type: ignore[arg-type]
    seen = []
    for _ in range(2):
        for batch, outputs in expected.batches():
            np.testing.assert_array_equal(outputs["y"], 2 * batch.feeds["x"])
            seen.append(batch.feeds["x"])
    assert not np.array_equal(seen[0], seen[4])
