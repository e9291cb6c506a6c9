"""What a compile may spend: parsed from one short word, printed back to the same word.

4bit-avg  4.5bit-avg     mean stored bits over the weights of all layers
1.5MB  350kB  800KiB     bytes of the written file
25%  8x                  share of the fp32 weight bytes (codes and scales against 4 bytes a weight)
2.1GBOPs                 sum of MACs x weight bits x activation bits (32 where float) for one sample
drop=0.5%                the smallest file whose measured loss stays within it
latency=0.7x             of the time that fp32 takes for one sample, on this machine and provider
latency=5ms  800us       time of one sample, on this machine and provider
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from enum import StrEnum

from onnxmpq.errors import BudgetError


class Kind(StrEnum):
    """What a budget limits."""

    BITS = "average weight bits"
    FILE = "file bytes"
    RATIO = "share of fp32 weight bytes"
    BOPS = "BOPs"
    DROP = "loss of function"
    LATENCY = "share of fp32 latency"
    MILLISECONDS = "milliseconds"


_DIGITS = 4  # of a limit that is said
_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_BOPS = {"kbops": 1e3, "mbops": 1e6, "gbops": 1e9, "tbops": 1e12}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_NUMBER = r"(?P<number>\d+(?:\.\d+)?|\.\d+)"
_FORMS: tuple[tuple[str, Callable[[float, str], tuple[Kind, float]]], ...] = (
    (rf"{_NUMBER}bit-avg", lambda n, _: (Kind.BITS, n)),
    (rf"drop={_NUMBER}%", lambda n, _: (Kind.DROP, n / 100)),
    (rf"latency={_NUMBER}x", lambda n, _: (Kind.LATENCY, n)),
    (rf"latency={_NUMBER}(?P<unit>[um]?s)", lambda n, unit: (Kind.MILLISECONDS, n * _MILLISECONDS[unit])),
    (rf"{_NUMBER}(?P<unit>([kmg]i?)?b)", lambda n, unit: (Kind.FILE, n * _BYTES[unit])),
    (rf"{_NUMBER}(?P<unit>[kmgt]bops)", lambda n, unit: (Kind.BOPS, n * _BOPS[unit])),
    (rf"{_NUMBER}%", lambda n, _: (Kind.RATIO, n / 100)),
    (rf"{_NUMBER}x", lambda n, _: (Kind.RATIO, 1 / n)),
)
_SMALL = ("k", *_MILLISECONDS)  # units that are not written with a capital
# What people write, without spaces, and what they mean.
_MISSPELT = (
    (rf"{_NUMBER}-?b(its?)?(-?(avg|average|mean))?", "{number}bit-avg"),
    (rf"(avg|average|mean)[-=:]?{_NUMBER}-?(b(its?)?)?", "{number}bit-avg"),
    (r"(u?int|w)(?P<number>[1-8])", "{number}bit-avg"),
    (rf"(dr[a-z]*p|[a-z]*loss)[-=:]?{_NUMBER}(%|pp|points?)?", "drop={number}%"),
    (rf"(lat[a-z]*|time)[-=:]?{_NUMBER}(x|times)", "latency={number}x"),
    (rf"((lat[a-z]*|time)[-=:]?)?{_NUMBER}(?P<unit>[um]?s)", "latency={number}{unit}"),
    (rf"{_NUMBER}(%|pp|points?)?[-=:]?(drop|loss)", "drop={number}%"),
    (rf"{_NUMBER}(?P<unit>[kmgt])-?b(it)?-?ops?", "{number}{unit}BOPs"),
    (rf"{_NUMBER}(?P<unit>[kmg]i?)(b|bytes?)?", "{number}{unit}B"),
    (rf"{_NUMBER}(bytes?)", "{number}B"),
    (rf"{_NUMBER}(%|percent)", "{number}%"),
    (rf"{_NUMBER}(x|times)", "{number}x"),
    (rf"(x|1/){_NUMBER}", "{number}x"),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit: `limit` is in bits, bytes, BOPs, ms, or a fraction, as `kind` says; `text` is how it was asked."""

    kind: Kind
    limit: float
    text: str

    def __str__(self) -> str:
        return self.text

    def spell(self, value: float) -> str:
        """The tightest budget, to four digits, that allows `value` (in the units of `limit`): in the unit asked.

        What it returns parses, and allows no less.
        """
        number = re.search(_NUMBER, self.text)
        if number is None or value <= 0:
            return f"{value:g}"
        before, after = self.text[: number.start()], self.text[number.end() :]
        one = self.parse(f"{before}1{after}").limit
        shrinks = self.parse(f"{before}2{after}").limit < one  # of 8x more allows less
        context = Context(prec=_DIGITS, rounding=ROUND_FLOOR if shrinks else ROUND_CEILING)
        # Twelve digits first: a sum of products is a little off the number that it stands for.
        amount = context.create_decimal(f"{one / value if shrinks else value / one:.12g}").normalize()
        return f"{before}{amount:f}{after}"

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read one budget word.

        Raises BudgetError with three words that do parse.
        """
        word = text.strip()
        for pattern, read in _FORMS:
            match = re.fullmatch(pattern, word, flags=re.IGNORECASE)
            if match is None:
                continue
            number = float(match["number"])
            if number <= 0:
                raise BudgetError(f"budget {text!r} allows nothing; give a number above zero")
            kind, limit = read(number, match.groupdict().get("unit", "").lower())
            return cls(kind, limit, word)
        meant = _meant(word)
        raise BudgetError(
            f"budget {text!r} was not understood; {f'did you mean {meant}? Else ' if meant else ''}write for example "
            "4bit-avg, 1.5MB or drop=0.5% (also 25%, 8x, 2.1GBOPs, latency=0.7x)"
        )


def tightest_drop(budgets: Iterable[Budget]) -> Budget | None:
    """The smallest budget on a loss of function, None where there is none."""
    drops = (budget for budget in budgets if budget.kind is Kind.DROP)
    return min(drops, key=lambda budget: budget.limit, default=None)


def _meant(word: str) -> str:
    """The right spelling of a word that is nearly one, "" where it is far from any."""
    close = "".join(word.replace(",", ".").split()).lower()
    for pattern, spelling in _MISSPELT:
        match = re.fullmatch(pattern, close)
        if match is not None:
            unit = match.groupdict().get("unit", "")
            return spelling.format(number=match["number"], unit=unit if unit in _SMALL else unit.capitalize())
    return ""
