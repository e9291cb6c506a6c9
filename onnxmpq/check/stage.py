"""Whether the budgets can be met and the options make a difference: known as soon as the layers are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

from onnxmpq.allocate.choose import FileSize, least_rows
from onnxmpq.allocate.knapsack import check_feasible
from onnxmpq.context.prepared import Placed, Prepared
from onnxmpq.context.setting import Loaded
from onnxmpq.place.half_precision import check_halves
from onnxmpq.place.stage import placed
from onnxmpq.request import Request
from onnxmpq.values.keep import looser_options, options_of, overridden
from onnxmpq.values.option import HALF_BITS, Options

_SAID = 3  # layers


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
    for keep in overridden(prepared.layers, request.constraints.keeps):
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
    check_feasible(rows(options), ((words, rows(more)) for words, more in looser), _left_alone(prepared))


def _left_alone(prepared: Prepared) -> str:
    """The layers that no width could be given, in words."""
    found = [f"{layer.name} ({layer.reason})" for layer in prepared.layers if layer.reason and layer.params]
    more = f", and {len(found) - _SAID} more" if len(found) > _SAID else ""
    return f"; what must stay as it is: {', '.join(found[:_SAID])}{more}" if found else ""


def loosened(request: Request, prepared: Prepared) -> Iterator[tuple[str, Options]]:
    """What layers could be given if less were fixed, as the target holds it, each with the change in words."""
    asked = request.constraints
    looser = looser_options(prepared.layers, asked.widths, request.activation_bits, asked.keeps)
    for change, options in looser:
        yield change, placed(prepared, options, request.target).options


def stored_otherwise(request: Request, prepared: Prepared) -> Iterator[tuple[str, Options]]:
    """What the same request comes to in each of the target's storages."""
    asked = options_of(
        prepared.layers, request.constraints.widths, request.activation_bits, request.constraints.keeps
    )
    for storage in request.target.weights.storages:
        yield f"with --storage {storage}", placed(prepared, asked, request.target.storing(storage)).options
