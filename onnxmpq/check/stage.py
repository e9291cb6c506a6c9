"""Whether the budgets can be met and leave a choice, and the options make a difference: known as soon as the layers are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain

from onnxmpq.allocate.choose import FileSize, forced_plan, least_rows, single
from onnxmpq.allocate.knapsack import check_feasible
from onnxmpq.context.prepared import Placed, Prepared
from onnxmpq.context.setting import Loaded, Setting
from onnxmpq.lower.draft import Lowering
from onnxmpq.normalize.other_weights import other_weights
from onnxmpq.place.half_precision import check_halves
from onnxmpq.place.stage import placed
from onnxmpq.request import Request
from onnxmpq.values.costs import UNMEASURED, CostTable
from onnxmpq.values.keep import looser_options, options_of, overridden
from onnxmpq.values.option import HALF_BITS, Options

_SAID = 3  # layers and constants


def check(loaded: Loaded, found: Placed) -> None:
    """Say what was asked in vain, and raise OptionError or InfeasibleError for what cannot be done."""
    for note in remarks(loaded.request, found):
        loaded.stages.note(note)
    check_budgets(loaded.request, found.prepared, found.options)


def remarks(request: Request, found: Placed) -> Iterator[str]:
    """What was asked in vain or in part. Raises OptionError where half precision cannot hold a layer."""
    prepared = found.prepared
    said = (
        kind.remark(prepared.layers) for kind in dict.fromkeys(b.kind for b in request.constraints.budgets)
    )
    yield from filter(None, said)
    for keep in overridden(prepared.layers, request.constraints.kept):
        yield f"--keep '{keep}' changes nothing: later patterns match all that it does"
    options = found.options
    halves = [la for la in prepared.layers if options[la.name][0].weight_bits == HALF_BITS < la.float_bits]
    yield from check_halves(prepared.model, halves)


def check_budgets(
    request: Request, prepared: Prepared, options: Options, file_size: FileSize | None = None
) -> None:
    """Raise InfeasibleError where no plan meets a budget, naming what would help if less were fixed.

    A loss budget is not looked at: nothing is measured here but bytes, and those only where `file_size` is known.
    """
    rows = partial(least_rows, request.constraints.budgets, prepared.layers, file_size=file_size)
    looser = loosened(request, prepared)
    if file_size is None:  # it is of files of the target's own storage
        looser = chain(looser, stored_otherwise(request, prepared))
    besides = _left_alone(prepared, of_file=file_size is not None)
    check_feasible(rows(options), ((words, rows(more)) for words, more in looser), besides)


def _left_alone(prepared: Prepared, *, of_file: bool) -> str:
    """The layers that no width could be given, in words, and the large constants of a file that are no layer's."""
    found = [f"{layer.name} ({layer.reason})" for layer in prepared.layers if layer.reason and layer.params]
    if of_file:
        others = other_weights(prepared.model, {layer.weight for layer in prepared.layers})
        found += [f"{other.name} ({other.stored_bytes:,} bytes; {other.reason})" for other in others]
    more = f", and {len(found) - _SAID} more" if len(found) > _SAID else ""
    return f"; what must stay as it is: {', '.join(found[:_SAID])}{more}" if found else ""


def loosened(request: Request, prepared: Prepared) -> Iterator[tuple[str, Options]]:
    """What layers could be given if less were fixed, as the target holds it, each with the change in words."""
    asked = request.constraints
    looser = looser_options(prepared.layers, asked.widths, request.activation_bits, asked.kept)
    for change, options in looser:
        yield change, placed(prepared, options, request.target).options


def stored_otherwise(request: Request, prepared: Prepared) -> Iterator[tuple[str, Options]]:
    """What the same request comes to in each of the target's storages."""
    asked = request.constraints
    options = options_of(prepared.layers, asked.widths, request.activation_bits, asked.kept)
    for storage in request.target.weights.storages:
        yield f"with --storage {storage}", placed(prepared, options, request.target.storing(storage)).options


def forced_by(setting: Setting, file_size: FileSize | None = None) -> Setting:
    """The setting with its only sensible plan, where there is one whatever the layers' costs.

    A budget on a file's bytes tells nothing as long as there is no `file_size`.
    """
    if setting.forced is not None:
        return setting
    plan = forced_plan(
        setting.request.constraints.budgets, setting.prepared.layers, setting.options, file_size
    )
    if plan is None:
        return setting
    if any(len(choices) > 1 for choices in setting.options.values()):
        setting.stages.note("sensitivity is not measured: the budget leaves one sensible plan only")
    return replace(setting, forced=single(plan))


def narrowed(lowering: Lowering) -> Lowering:
    """What files of real bytes leave to choose from. Raises InfeasibleError where none is within the budgets."""
    setting = lowering.setting
    check_budgets(setting.request, setting.prepared, setting.options, lowering.file_size)
    return replace(lowering, setting=forced_by(setting, lowering.file_size))


def unmeasured(setting: Setting) -> CostTable:
    """A table under which the forced options cost nothing and all others something."""
    costs = {
        name: {o: float(o not in setting.choices[name]) for o in choices}
        for name, choices in setting.options.items()
    }
    return CostTable(costs, setting.prepared.metric.name, UNMEASURED, 0)
