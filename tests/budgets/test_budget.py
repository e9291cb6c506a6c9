import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.budgets.bits import BITS
from onnxmpq.budgets.bops import BOPS
from onnxmpq.budgets.budget import Budget, needing, tightest
from onnxmpq.budgets.drop import DROP
from onnxmpq.budgets.file_bytes import FILE_BYTES
from onnxmpq.budgets.kind import Kind, Needs
from onnxmpq.budgets.latency import LATENCY
from onnxmpq.budgets.milliseconds import MILLISECONDS
from onnxmpq.budgets.ratio import RATIO
from onnxmpq.errors import BudgetError, OnnxmpqError


@pytest.mark.parametrize(
    ("text", "kind", "limit"),
    [
        ("4bit-avg", BITS, 4.0),
        ("4.5bit-avg", BITS, 4.5),
        ("1.5MB", FILE_BYTES, 1.5e6),
        ("350kB", FILE_BYTES, 350e3),
        ("350KB", FILE_BYTES, 350e3),
        ("2MiB", FILE_BYTES, 2 * 2**20),
        ("8KiB", FILE_BYTES, 8192.0),
        ("25%", RATIO, 0.25),
        ("8x", RATIO, 0.125),
        ("drop=0.5%", DROP, 0.005),
        ("2.1GBOPs", BOPS, 2.1e9),
        ("900MBOPs", BOPS, 900e6),
        ("latency=0.7x", LATENCY, 0.7),
        ("latency=5ms", MILLISECONDS, 5.0),
        ("latency=800us", MILLISECONDS, 0.8),
        ("latency=1.5s", MILLISECONDS, 1500.0),
    ],
)
def test_parses_and_prints_back(text: str, kind: Kind, limit: float) -> None:
    budget = Budget.parse(text)
    assert budget.kind is kind
    assert budget.limit == pytest.approx(limit)
    assert str(budget) == text
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "4bit",
        "4 bit-avg",
        "5iB",
        "-4bit-avg",
        "fourbit-avg",
        "drop=1",
        "1.5 MB",
        "4bit-avg!",
        "1e3B",
        "GBOPs",
        "latency=5",
        "latency=x",
        "latency=5 ms",
    ],
)
def test_refuses_with_three_that_parse(text: str) -> None:
    with pytest.raises(BudgetError, match=r"4bit-avg, 1\.5MB or drop=0\.5%"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("4bit", "4bit-avg"),
        ("4bits", "4bit-avg"),
        ("4-bit-avg", "4bit-avg"),
        ("4.5 bits average", "4.5bit-avg"),
        ("avg=4", "4bit-avg"),
        ("2 GBOP", "2GBOPs"),
        ("2.1gbop", "2.1GBOPs"),
        ("drop=0.5", "drop=0.5%"),
        ("0.5%drop", "drop=0.5%"),
        ("drop 0,5 %", "drop=0.5%"),
        ("350k", "350kB"),
        ("1.5 MB", "1.5MB"),
        ("2 mib", "2MiB"),
        ("25 percent", "25%"),
        ("x8", "8x"),
        ("1/8", "8x"),
        ("int4", "4bit-avg"),
        ("drp=0.5%", "drop=0.5%"),
        ("loss=1", "drop=1%"),
        ("lat=0.7x", "latency=0.7x"),
        ("5 ms", "latency=5ms"),
        ("time=800us", "latency=800us"),
    ],
)
def test_a_word_that_is_nearly_right_is_set_right(text: str, meant: str) -> None:
    with pytest.raises(BudgetError, match=rf"did you mean {meant}\? "):
        Budget.parse(text)
    assert str(Budget.parse(meant)) == meant


@pytest.mark.parametrize(
    "text", ["", "4", "much", "accuracy=95%", "loss=0.7x", "deep=3", "int0", "-4bit-avg", "1e3B", "GBOPs"]
)
def test_a_word_far_from_any_gets_no_guess(text: str) -> None:
    with pytest.raises(BudgetError, match="not understood; write for example"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["0bit-avg", "0MB", "0x", "0%", "latency=0x", "latency=0ms"])
def test_refuses_nothing(text: str) -> None:
    with pytest.raises(BudgetError, match="allows nothing"):
        Budget.parse(text)


@given(
    st.sampled_from(
        ["4bit-avg", "350kB", "2.5MiB", "70B", "25%", "8x", "13.6X", "900MBOPs", "2.1GBOPs", "1gb"]
    ),
    st.floats(1e-4, 1e12),
)
def test_spells_the_least_in_the_unit_asked(text: str, value: float) -> None:
    spelled = Budget.parse(text).spell(value)
    assert spelled.lstrip("0123456789.") == text.lstrip("0123456789.")
    assert value * (1 - 1e-9) <= Budget.parse(spelled).limit <= value * 1.002


@pytest.mark.parametrize(
    ("text", "value", "spelled"),
    [
        ("13.6x", 1 / 12.1, "12.1x"),
        ("1bit-avg", 2.000000000000001, "2bit-avg"),
        ("350kB", 412_345, "412.4kB"),
        ("1MiB", 3 * 2**19, "1.5MiB"),
        ("22MBOPs", 1.5e9, "1500MBOPs"),
        ("25%", 0.3, "30%"),
    ],
)
def test_spells_as_it_would_be_typed(text: str, value: float, spelled: str) -> None:
    assert Budget.parse(text).spell(value) == spelled


def test_errors_are_of_the_family_and_builtins() -> None:
    with pytest.raises(ValueError, match="not understood") as caught:
        Budget.parse("much")
    assert isinstance(caught.value, OnnxmpqError)


def test_budgets_by_what_they_need() -> None:
    words = ("4bit-avg", "drop=2%", "2kB", "latency=5ms", "drop=1%", "latency=0.7x", "1kB")
    budgets = [Budget.parse(word) for word in words]
    assert [str(budget) for budget in needing(budgets, Needs.TIME)] == ["latency=5ms", "latency=0.7x"]
    assert [str(tightest(budgets, needs)) for needs in (Needs.LOSS, Needs.FILE)] == ["drop=1%", "1kB"]
    assert tightest(budgets[:1], Needs.LOSS) is None
    assert [budget.is_measured for budget in budgets] == [False, True, False, True, True, True, False]
