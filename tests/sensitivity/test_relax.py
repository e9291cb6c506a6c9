"""The policies that OMPQ's and CSMPQ's authors published come out of their program, layer by layer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import OptionError
from onnxmpq.sensitivity.linear import nearest_widths, relaxed_widths, widths_within


def resnet18() -> list[int]:
    """Weights of the 18 entries with two numbers a channel for BatchNorm; a shortcut counts with its block's last."""
    counts, channels = [64 * 3 * 49 + 128], 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            shortcut = channels * width + 2 * width if stage and not block else 0
            counts += [channels * width * 9 + 2 * width, width * width * 9 + 2 * width + shortcut]
            channels = width
    return [*counts, 513 * 1000]


def mobilenet_v2() -> list[int]:
    """Weights of the 53 layers with two numbers a channel for BatchNorm."""
    stages = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    counts, channels = [32 * 27 + 64], 32
    for expansion, width, blocks in stages:
        for _ in range(blocks):
            inner = channels * expansion
            counts += [channels * inner + 2 * inner] if expansion > 1 else []
            counts += [inner * 9 + 2 * inner, inner * width + 2 * width]
            channels = width
    return [*counts, 320 * 1280 + 2560, 1281 * 1000]


def spelled(policy: str) -> list[int]:
    """`4x3 2` is 4 4 4 2."""
    pairs = [[*map(int, word.split("x")), 1][:2] for word in policy.split()]
    return [bits for bits, count in pairs for _ in range(count)]


# The published tables of PTQ policies: MiB -> widths.
OMPQ_RESNET = {
    3.0: "4 3 4x5 3 4 4 2x8",
    3.5: "4 3 3 4x7 3 3 4 3 2 2 2 3",
    4.0: "4x7 3x5 4 3 2 3 3 3",
    4.5: "4 3 3 4x7 3 3 4 4 3x4",
    5.0: "4 3 3 3 4 4 4 3 4 3 4 3 4 3 3 4 4 4",
    5.5: "4x10 3 4x7",
}
OMPQ_MOBILE = {
    1.5: "4x52 3",
    1.1: "4x41 3 3 4 3 3 4 3 3 4 2 2 2",
    0.9: "4x21 3 4 3 3 4 3 3 4 3 3 4 3 2 4 2 2 4 2 2 4 2 2 4 2 2 4 2 2 4 2 2 2",
}
CSMPQ_RESNET = {
    3.0: "4x9 3 2x8", 3.5: "4x10 3 4 4 2 2 2 2 4", 4.0: "4x14 2 2 2 4",
    4.5: "4x14 3 2 3 4", 5.0: "4x14 3 3 4 4", 5.5: "4x15 3 4 4",
}  # fmt: skip
CSMPQ_MOBILE = {1.5: "4x52 3", 1.3: "4x51 3 2", 1.1: "4x42 2 4 4 2 4 4 2 4 2 2 2"}


def relaxed(counts: list[int], budget: float, importance: float) -> np.ndarray:
    """All layers alike, two to four bits."""
    ones = np.ones(len(counts))
    return relaxed_widths(importance * ones, np.array(counts) / 2**20, budget, 2 * ones, 4 * ones)


def test_the_sizes_are_the_published_ones() -> None:
    assert sum(resnet18()) / 2**20 == pytest.approx(11.148, abs=5e-4)
    assert sum(mobilenet_v2()) / 2**20 == pytest.approx(3.3425, abs=5e-5)


@pytest.mark.parametrize(
    ("policies", "importance"),
    [pytest.param(OMPQ_RESNET, 0.0, id="ompq"), pytest.param(CSMPQ_RESNET, 0.01, id="csmpq")],
)
def test_published_policies_of_resnet18(policies: dict[float, str], importance: float) -> None:
    for budget, policy in policies.items():
        widths = relaxed(resnet18(), budget, importance)
        assert widths_within(widths, [(2, 3, 4)] * 18, resnet18()) == spelled(policy)


@pytest.mark.parametrize(
    ("policies", "importance"),
    [pytest.param(OMPQ_MOBILE, 0.0, id="ompq"), pytest.param(CSMPQ_MOBILE, 1.0, id="csmpq")],
)
def test_published_policies_of_mobilenet_v2(policies: dict[float, str], importance: float) -> None:
    for budget, policy in policies.items():
        widths = relaxed(mobilenet_v2(), budget, importance)
        assert nearest_widths(widths, [(2, 3, 4)] * 53) == spelled(policy)


def test_the_policy_that_is_not_reproduced_whole() -> None:
    """OMPQ, MobileNetV2, 1.3 MiB: 52 of 53 widths, as in a run of the authors' program with today's solver."""
    widths = nearest_widths(relaxed(mobilenet_v2(), 1.3, 0.0), [(2, 3, 4)] * 53)
    assert sum(a == b for a, b in zip(widths, spelled("4x50 3 3 2"), strict=True)) == 52


# CSMPQ's gamma of the 16 layers in ResNet-18's blocks, and the widths made of it for 6.7 MiB, stem and classifier at 8.
GAMMA = np.array([
    0.01322, 0.01362, 0.01278, 0.01267, 0.00762, 0.00755, 0.00915, 0.00717,
    0.00505, 0.00479, 0.00673, 0.00456, 0.00452, 0.00461, 0.00490, 0.00489,
])  # fmt: skip
CSMPQ_QAT = "8x8 7 5 8 5 4x4"


def test_the_policy_for_training_from_the_published_importances() -> None:
    """14 of 16 widths and none further off than a bit: their solver, too, stops elsewhere from version to version."""
    stem, *counts, classifier = resnet18()
    budget, ones = 6.7 - (stem + classifier) / 2**20, np.ones(16)
    widths = relaxed_widths(GAMMA, np.array(counts) / 2**20, budget, 4 * ones, 8 * ones)
    found = np.array(widths_within(widths, [range(4, 9)] * 16, counts))
    assert found @ np.array(counts) <= 8 * 2**20 * budget
    apart = np.abs(found - spelled(CSMPQ_QAT))
    assert apart.max() <= 1
    assert (apart == 0).sum() >= 14


def test_without_importances_the_program_is_a_projection() -> None:
    counts = np.array(resnet18(), np.float64)
    widths = relaxed(resnet18(), 4.0, 0.0)
    inside = (widths > 2.001) & (widths < 3.999)
    steps = (4 - widths[inside]) / counts[inside]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_the_nearest_of_the_widths_there_are() -> None:
    assert nearest_widths(np.array([2.6, 6.9, 7.0, 1.0]), [(2, 3), (6, 8), (6, 8), (2, 3)]) == [3, 6, 6, 2]


def test_a_search_that_would_not_end_is_not_begun() -> None:
    with pytest.raises(OptionError, match="41 layers lie between two widths"):
        widths_within(np.full(50, 3.0) + 0.5 * (np.arange(50) < 41), [(2, 3, 4)] * 50, [7] * 50)


@given(st.lists(st.tuples(st.floats(1, 8), st.integers(1, 50)), min_size=1, max_size=8))
def test_no_rounding_within_the_budget_stores_more(layers: list[tuple[float, int]]) -> None:
    widths, counts = np.array([w for w, _ in layers]), [n for _, n in layers]
    limit = float(np.round(widths, 6) @ np.array(counts)) + 1e-3
    both = [sorted({int(np.floor(w)), int(np.ceil(w))}) for w in np.round(widths, 6)]
    sums = [sum(b * n for b, n in zip(bits, counts, strict=True)) for bits in itertools.product(*both)]
    found = widths_within(widths, [range(1, 9)] * len(counts), counts)
    assert sum(b * n for b, n in zip(found, counts, strict=True)) == max(s for s in sums if s <= limit)
