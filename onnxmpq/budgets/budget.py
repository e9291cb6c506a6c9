"""What a compile may spend: parsed from one short word, printed back to the same word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from onnxmpq.budgets.kind import Kind, Known, Needs, Outcome
from onnxmpq.budgets.row import Row, is_within
from onnxmpq.budgets.table import KINDS
from onnxmpq.errors import BudgetError
from onnxmpq.values.group import Unit
from onnxmpq.values.option import Options

_DIGITS = 4  # of a limit that is said
_FIRST = 3  # examples that an error names first


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit: `limit` is in bits, bytes, BOPs, ms, or a fraction, as `kind` says; `text` is how it was asked."""

    kind: Kind
    limit: float
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def needs(self) -> Needs:
        """What has to be known to tell what a plan uses of it."""
        return self.kind.needs

    @property
    def is_measured(self) -> bool:
        """True where a file has to run to tell, so that measuring it again may tell otherwise."""
        return self.needs in {Needs.LOSS, Needs.TIME}

    def row(self, layers: Sequence[Unit], options: Options, known: Known) -> Row | None:
        """What each option of each layer uses, in the units of `limit`; None where that is not known (yet)."""
        use = self.kind.use(layers, known)
        if use is None:
            return None
        table = tuple(tuple(use(layer, option) for option in options[layer.name]) for layer in layers)
        return Row(f"budget {self}", table, self.limit, self.spell)

    def reached(self, outcome: Outcome) -> float | None:
        """What a plan or its file uses, in the units of `limit`; None where it was not measured."""
        if self.kind.reached is not None:
            return self.kind.reached(outcome)
        use = self.kind.use(outcome.layers, Known())
        return None if use is None else sum(use(la, outcome.plan[la.name]) for la in outcome.layers)

    def allows(self, reached: float) -> bool:
        """True unless what was reached is over the limit by more than rounding errors."""
        return is_within(reached, self.limit)

    def spell(self, value: float) -> str:
        """The tightest budget, to four digits, that allows `value` (in the units of `limit`): in the unit asked.

        What it returns parses, and allows no less.
        """
        read = self.kind.read(self.text)
        if read is None or value <= 0:
            return f"{value:g}"
        form, match = read
        one = form.limit(1.0)
        shrinks = form.limit(2.0) < one  # of 8x more allows less
        context = Context(prec=_DIGITS, rounding=ROUND_FLOOR if shrinks else ROUND_CEILING)
        # Twelve digits first: a sum of products is a little off the number that it stands for.
        amount = context.create_decimal(f"{one / value if shrinks else value / one:.12g}").normalize()
        start, end = match.span("number")
        return f"{self.text[:start]}{amount:f}{self.text[end:]}"

    @classmethod
    def parse(cls, text: str, kinds: Sequence[Kind] = KINDS) -> Budget:
        """Read one budget word, of one of some kinds.

        Raises BudgetError with words that do parse.
        """
        word = text.strip()
        for kind in kinds:
            read = kind.read(word)
            if read is None:
                continue
            form, match = read
            number = float(match["number"])
            if number <= 0:
                raise BudgetError(f"budget {text!r} allows nothing; give a number above zero")
            return cls(kind, form.limit(number), word)
        raise BudgetError(f"budget {text!r} was not understood; {_advice(word, kinds)}")


def needing(budgets: Iterable[Budget], needs: Needs) -> list[Budget]:
    """The budgets for which this has to be known."""
    return [budget for budget in budgets if budget.needs is needs]


def tightest(budgets: Iterable[Budget], needs: Needs) -> Budget | None:
    """The budget of the smallest limit of those on a file's bytes, or on its loss; None where there is none."""
    return min(needing(budgets, needs), key=lambda budget: budget.limit, default=None)


def _advice(word: str, kinds: Sequence[Kind]) -> str:
    """What to write in place of a word that is no budget: what was meant, where it is near one, and examples."""
    close = "".join(word.replace(",", ".").split()).lower()
    meant = next(filter(None, (kind.meant(close) for kind in kinds)), None)
    examples = [example for kind in kinds for example in kind.examples]
    first, last, others = examples[: _FIRST - 1], examples[_FIRST - 1], examples[_FIRST:]
    return (
        f"{f'did you mean {meant}? Else ' if meant else ''}write for example {', '.join(first)} or {last} "
        f"(also {', '.join(others)})"
    )
