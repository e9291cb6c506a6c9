"""drop=0.5%: the smallest file whose measured loss of top-1 classes stays within it."""

from __future__ import annotations

from onnxmpq.budgets.kind import Form, Kind, Needs, Outcome, percent


def _reached(outcome: Outcome) -> float | None:
    """Top-1 lost or, without labels, the share of classes that changed."""
    if not outcome.scores:
        return None
    before, after = outcome.scores["fp32"], outcome.scores["compiled"]
    if before.top1 is None or after.top1 is None:
        return 1 - (after.agreement or 0.0)
    return before.top1 - after.top1


def _words(reached: float, limit: float) -> str:
    beyond = ", more than on the data that chose it" if reached > limit else ""
    return f"{reached:.2%} on the data judged on{beyond}"


DROP = Kind(
    name="loss of function",
    forms=(Form("drop={}%", percent),),
    examples=("drop=0.5%",),
    misspelt=(
        (r"(dr[a-z]*p|[a-z]*loss)[-=:]?#(%|pp|points?)?", "drop={number}%"),
        (r"#(%|pp|points?)?[-=:]?(drop|loss)", "drop={number}%"),
    ),
    needs=Needs.LOSS,
    reached=_reached,
    words=_words,
    missed="on the data judged on",
)
