"""Budgets as rows of the allocation, and what a plan really reached of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxmpq.budgets.budget import Budget, Kind
from onnxmpq.budgets.row import Row
from onnxmpq.errors import InfeasibleError
from onnxmpq.values.group import Group, Unit
from onnxmpq.values.option import FLOAT_BITS, Option, Options
from onnxmpq.values.plan import Plan

MEASURED = frozenset({Kind.DROP, Kind.LATENCY, Kind.MILLISECONDS})  # on a file that runs, not counted


def stored_bytes(unit: Unit, option: Option) -> int:
    """Bytes of a unit's codes and scales, or of its weight where it stays in float, and of a group's places."""
    channels = len(unit.channels) if isinstance(unit, Group) else unit.channels
    places = unit.place_bytes if isinstance(unit, Group) else 0
    scales = unit.scale_bytes * channels if option.is_quantized else 0
    return math.ceil(unit.params * option.stored_bits / 8) + scales + places


def bops(unit: Unit, option: Option) -> float:
    """Bit operations of one sample: MACs x weight bits x activation bits."""
    return float(unit.macs * option.weight_bits * (option.activation_bits or FLOAT_BITS))


def average_bits(layers: Sequence[Unit], plan: Plan) -> float:
    """Mean stored bits a weight over all layers."""
    params = sum(layer.params for layer in layers)
    return sum(layer.params * plan[layer.name].stored_bits for layer in layers) / params


def weight_bytes(layers: Sequence[Unit], plan: Plan) -> int:
    """Bytes of all codes and scales."""
    return sum(stored_bytes(layer, plan[layer.name]) for layer in layers)


def constraint(
    budget: Budget, layers: Sequence[Unit], options: Options, *, overhead: float = 0.0
) -> Row | None:
    """A budget as one row over the layers' options, in the budget's own units; None for what is measured.

    `overhead` is the bytes of the file besides codes and scales (only file budgets look at it).
    """
    params = sum(layer.params for layer in layers)
    if budget.kind in MEASURED:
        return None
    if budget.kind is Kind.BITS:
        use = [[layer.params / params * o.stored_bits for o in options[layer.name]] for layer in layers]
    elif budget.kind is Kind.RATIO:
        use = [[stored_bytes(layer, o) / (4 * params) for o in options[layer.name]] for layer in layers]
    elif budget.kind is Kind.BOPS:
        use = [[bops(layer, o) for o in options[layer.name]] for layer in layers]
    else:
        use = [[float(stored_bytes(layer, o)) for o in options[layer.name]] for layer in layers]
        use[0] = [bytes_ + overhead for bytes_ in use[0]]
    return Row(f"budget {budget}", tuple(map(tuple, use)), budget.limit, budget.spell)


def reached(budget: Budget, layers: Sequence[Unit], plan: Plan, file_bytes: int) -> float | None:
    """What a plan uses of a budget, in the budget's units, `file_bytes` measured; None for loss and latency."""
    if budget.kind in MEASURED:
        return None
    if budget.kind is Kind.FILE:
        return float(file_bytes)
    row = constraint(budget, layers, {layer.name: (plan[layer.name],) for layer in layers})
    return None if row is None else row.used([0] * len(layers))


def require_kept(budget: Budget, lost: float) -> None:
    """Raise InfeasibleError where even the widest plan loses more than the budget allows."""
    if lost > budget.limit:
        raise InfeasibleError(
            f"budget {budget} cannot be met: the widest plan allowed may lose {lost:.2%}, one standard error of the "
            "samples set aside included; judge by more (--samples), allow more widths with --bits, or keep layers "
            "in float with --keep"
        )
