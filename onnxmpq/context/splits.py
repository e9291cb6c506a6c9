"""Who sees which calibration samples: what is chosen on some is judged on others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxmpq.budgets.budget import needing, tightest
from onnxmpq.budgets.kind import Needs
from onnxmpq.data import Dataset
from onnxmpq.data.evidence import Evidence
from onnxmpq.errors import InfeasibleError
from onnxmpq.request import Request

SELECTION = 0.5  # of the calibration samples judge a loss budget, and measure nothing else
LARGEST_SHARE = 0.5  # of the samples measure sensitivities; the others judge what was chosen by them
JUDGED = 0.5  # of the samples at most judge files


@dataclass(frozen=True)
class Splits:
    """Calibration samples by use: all but `selection` are rounded against; `held` never saw a sensitivity.

    `judging` are some of those, on which files are compared with the reference. `training` is for methods that train.
    """

    rounding: Dataset
    sensitivity: Dataset
    held: Dataset | None  # None: too few samples to hold any out
    selection: Dataset
    training: Dataset
    judging: Dataset


def divide(evidence: Evidence, request: Request) -> Splits:
    """A budget on loss is judged on samples of its own, and few samples serve all uses.

    Raises InfeasibleError where these are too few to tell so small a loss.
    """
    data, most, seed = evidence.calibration, request.search.effort.sensitivity, request.search.seed
    limits_loss = needing(request.constraints.budgets, Needs.LOSS)
    rounding, selection = data.split(SELECTION, seed) if limits_loss else (data, data)
    check_limits(request, selection)
    training = evidence.training or rounding
    if not rounding.divides:
        return Splits(rounding, rounding, None, selection, training, rounding)
    share = min(most / rounding.count, LARGEST_SHARE)
    held, sensitivity = rounding.split(share, seed)
    _, judging = rounding.split(min(request.search.effort.judge / rounding.count, JUDGED), seed)
    return Splits(rounding, sensitivity, held, selection, training, judging.remembered())


def check_limits(request: Request, selection: Dataset) -> None:
    """Raise InfeasibleError for a loss budget that one sample, which is always charged, would exceed."""
    drop = tightest(request.constraints.budgets, Needs.LOSS)
    if drop is not None and drop.limit * selection.count < 1:
        step = selection.source.step or 1
        wanted = 2 * step * math.ceil(1 / drop.limit / step)  # half of which judge
        raise InfeasibleError(
            f"budget {drop} cannot be told from the {selection.count} calibration samples that judge it: one of them "
            f"is {1 / selection.count:.2%}, and one standard error is allowed for; give {wanted:,} or more (--samples), "
            "half of which judge, or allow a larger drop"
        )
