"""What a kind of budget is: how it is written, what of it a layer's option uses, and what a file reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from operator import mul

from onnxmpq.values.group import Unit
from onnxmpq.values.latency import Latency, TimeTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.score import Score

_NUMBER = r"(?P<number>\d+(?:\.\d+)?|\.\d+)"

Use = Callable[[Unit, Option], float]  # what a layer uses with an option, in the units of the limit


class Needs(Enum):
    """What has to be known, besides layers and plan, to tell what a plan uses."""

    NOTHING = auto()
    FILE = auto()  # the bytes of its file, in which the limit is given
    LOSS = auto()  # the share of top-1 classes that it costs, in which the limit is given
    TIME = auto()  # seconds of its file on this machine


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before there is a plan: None where it is not."""

    bytes_besides: float | None = None  # that a file holds besides codes and scales
    times: TimeTable | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A plan, and what is known of its file: `scores` of "fp32" and "compiled", `latency` of one sample."""

    layers: Sequence[Unit]
    plan: Plan
    file_bytes: int | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write a budget: a word with `{}` for its number, in any case, and the limit that a number means."""

    word: str
    limit: Callable[[float], float]

    def match(self, text: str) -> re.Match[str] | None:
        """The text as this form, its number the group `number`; None where it is none."""
        before, after = map(re.escape, self.word.split("{}"))
        return re.fullmatch(before + _NUMBER + after, text, flags=re.IGNORECASE)


def percent(number: float) -> float:
    """The share that a number of hundredths is."""
    return number / 100


def in_units(word: str, units: Mapping[str, float]) -> tuple[Form, ...]:
    """A word with each of some units behind it, and how many units of the limit each is."""
    return tuple(Form(word + unit, partial(mul, size)) for unit, size in units.items())


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of budget.

    `name` stands in reports. `examples` are shown to who asks what can be written; `misspelt` are pairs of what people
    write (a regular expression over small letters without spaces, `#` for the number) and of the word that they mean.
    `use` gives what each layer uses of the limit with each option, None where that is not known (yet). `reached` gives
    what a file used, None where it was not measured; without it that is the sum of `use` over the plan. `words` says
    what was reached, beside the limit, and `missed` where a file was seen to be over it. `remark` is what the count
    leaves out of some layers.
    """

    name: str
    forms: tuple[Form, ...]
    words: Callable[[float, float], str]
    examples: tuple[str, ...] = ()
    misspelt: tuple[tuple[str, str], ...] = ()
    needs: Needs = Needs.NOTHING
    use: Callable[[Sequence[Unit], Known], Use | None] = _nothing
    reached: Callable[[Outcome], float | None] | None = None
    missed: str = "as measured on the written file"
    remark: Callable[[Sequence[Unit]], str | None] = _nothing

    def __str__(self) -> str:
        return self.name

    def read(self, text: str) -> tuple[Form, re.Match[str]] | None:
        """The form that a text has, and where its number is; None where it is no budget of this kind."""
        found = ((form, form.match(text)) for form in self.forms)
        return next(((form, match) for form, match in found if match is not None), None)

    def meant(self, text: str) -> str | None:
        """The right spelling of a text that is nearly one, in small letters without spaces."""
        for pattern, spelling in self.misspelt:
            match = re.fullmatch(pattern.replace("#", _NUMBER), text)
            read = match and self.read(spelling.format(**match.groupdict()))
            if read:
                form, right = read
                return form.word.format(right["number"])
        return None
