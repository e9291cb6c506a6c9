"""Mirror images: beside their originals, and on the same side of every division."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.data import Dataset, open_data
from onnxmpq.data.mirror import mirrored, turned, width_axis
from onnxmpq.data.samples import InputSpec


def images(count: int, step: int | None = None) -> Dataset:
    values = np.arange(count * 6, dtype=np.float32).reshape(count, 1, 2, 3)
    spec = InputSpec("x", np.dtype(np.float32), (step, 1, 2, 3))
    return open_data({"x": values, "labels": np.arange(count)}, [spec], samples=None)


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([(1, 3, 8, 9)], -1), ([(1, 1, 8, 9)], -1), ([(2, 4, 8, 9)], -1), ([(1, 8, 9, 3)], -2),
        ([(1, 8, 9, 10)], None), ([(1, 3, 8)], None), ([(1, 3, 8, 9), (1, 3, 8, 9)], None), ([], None),
    ],
)  # fmt: skip
def test_the_width_of_an_image(shapes: list[tuple[int, ...]], axis: int | None) -> None:
    assert width_axis(shapes) == axis


def test_each_is_followed_by_its_mirror_image() -> None:
    data = images(4).take([1, 3])
    (batch,) = mirrored(data, -1).batches(4)
    plain = next(data.batches(4)).feeds["x"]
    assert np.array_equal(batch.feeds["x"][::2], plain)
    assert np.array_equal(batch.feeds["x"][1::2], plain[..., ::-1])
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 1, 3, 3]
    assert np.array_equal(turned(plain, -2), plain[:, :, ::-1])


def test_some_of_them_are_those_of_the_whole() -> None:
    both = mirrored(images(5), -2)
    (whole,) = both.batches(10)
    (some,) = both.take([0, 3, 6, 7]).batches(4)
    assert np.array_equal(some.feeds["x"], whole.feeds["x"][[0, 3, 6, 7]])


@pytest.mark.parametrize("step", [None, 1, 2, 3])
def test_a_division_keeps_views_together(step: int | None) -> None:
    both = mirrored(images(12, step), -1)
    parts = both.split(0.3, seed=1)
    assert sum(part.count for part in parts) == 24
    for part in (*parts, both.some(12)):
        assert (part.positions[::2] % 2 == 0).all()
        assert (part.positions[1::2] == part.positions[::2] + 1).all()
        assert part.count % (step or 1) == 0


def test_a_sample_and_its_image_are_not_divided() -> None:
    assert not mirrored(images(1), -1).divides
    assert mirrored(images(2), -1).divides


@pytest.mark.parametrize(("step", "size", "together"), [(None, 4, 1), (1, 1, 2), (2, 2, 1), (3, 3, 2)])
def test_batches_that_hold_views_of_the_same_samples(step: int | None, size: int, together: int) -> None:
    both = mirrored(images(6, step), -1)
    assert both.batches_together == together
    numbers = [batch.labels for batch in both.batches(3)]
    assert {len(labels) for labels in numbers if labels is not None} == {size}
    groups = [
        {int(label) for labels in numbers[i : i + together] if labels is not None for label in labels}
        for i in range(0, len(numbers), together)
    ]
    assert sum(map(len, groups)) == 6  # nobody is in two


def test_they_are_shuffled_in_pairs() -> None:
    both = mirrored(images(6), -1)
    batches = list(both.shuffled(4, np.random.default_rng(0)))
    found = [batch.labels.tolist() for batch in batches if batch.labels is not None]
    assert [len(labels) for labels in found] == [4, 4, 4]
    assert sorted(label for labels in found for label in labels[::2]) == list(range(6))
    assert all(labels[::2] == labels[1::2] for labels in found)
