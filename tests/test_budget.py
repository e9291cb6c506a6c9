import pytest

from onnxmpq.budget import Budget, Kind
from onnxmpq.errors import BudgetError, OnnxmpqError


@pytest.mark.parametrize(
    ("text", "kind", "limit"),
    [
        ("4bit-avg", Kind.BITS, 4.0),
        ("4.5bit-avg", Kind.BITS, 4.5),
        ("1.5MB", Kind.FILE, 1.5e6),
        ("350kB", Kind.FILE, 350e3),
        ("2MiB", Kind.FILE, 2 * 2**20),
        ("8KiB", Kind.FILE, 8192.0),
        ("25%", Kind.RATIO, 0.25),
        ("8x", Kind.RATIO, 0.125),
        ("drop=0.5%", Kind.DROP, 0.005),
        ("drop=0%", Kind.DROP, 0.0),
        ("2.1GBOPs", Kind.BOPS, 2.1e9),
        ("900MBOPs", Kind.BOPS, 900e6),
        ("latency=0.7x", Kind.LATENCY, 0.7),
        ("latency=5ms", Kind.MILLISECONDS, 5.0),
        ("latency=800us", Kind.MILLISECONDS, 0.8),
        ("latency=1.5s", Kind.MILLISECONDS, 1500.0),
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


@pytest.mark.parametrize("text", ["0bit-avg", "0MB", "0x", "0%", "latency=0x", "latency=0ms"])
def test_refuses_nothing(text: str) -> None:
    with pytest.raises(BudgetError, match="allows nothing"):
        Budget.parse(text)


def test_errors_are_of_the_family_and_builtins() -> None:
    with pytest.raises(ValueError, match="not understood") as caught:
        Budget.parse("much")
    assert isinstance(caught.value, OnnxmpqError)
