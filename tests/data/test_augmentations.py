"""Augmentations of a batch: as it is, and its mirror image."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations, Feeds, width_axis


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([(1, 3, 8, 9)], -1), ([(1, 1, 8, 9)], -1), ([(2, 4, 8, 9)], -1), ([(1, 8, 9, 3)], -2),
        ([(1, 8, 9, 10)], None), ([(1, 3, 8)], None), ([(1, 3, 8, 9), (1, 3, 8, 9)], None), ([], None),
        ([(1, 3, 8, 1)], None), ([(1, 8, 1, 3)], None),
    ],
)  # fmt: skip
def test_the_width_of_an_image(shapes: list[tuple[int, ...]], axis: int | None) -> None:
    assert width_axis(shapes) == axis


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_mirror_image_is_the_other_way_round(dtype: type) -> None:
    batch: Feeds = {"x": np.arange(24).reshape(2, 1, 3, 4).astype(dtype)}
    plain, mirrored = Augmentations(-1).of(batch)
    assert plain is batch
    assert mirrored["x"].dtype == dtype
    assert mirrored["x"].flags.c_contiguous
    assert np.array_equal(mirrored["x"], batch["x"][..., ::-1])
    assert np.array_equal(Augmentations(-2).of(batch)[1]["x"], batch["x"][:, :, ::-1])


def test_there_is_one_view_of_what_is_left_as_given() -> None:
    batch = {"x": np.zeros((1, 2), np.float32)}
    assert NO_AUGMENTATION.of(batch) == (batch,)
    assert (NO_AUGMENTATION.count, Augmentations(-1).count) == (1, 2)
