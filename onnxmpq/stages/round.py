"""round: every layer at every width it may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxmpq.cores import cores
from onnxmpq.spec import Layer
from onnxmpq.stages.lowering import Lowering
from onnxmpq.stages.setting import Setting
from onnxmpq.turns import in_processes
from onnxmpq.weights.blocks import LARGEST, block_columns, block_count, columns
from onnxmpq.weights.candidates import Candidates
from onnxmpq.weights.fitted import fitted
from onnxmpq.weights.gram import has_moments, input_moments

_MOST_PROCESSES = 8  # each holds a layer's moments
_NAMED = 5  # layers in a note
_WORTH_PROCESSES = 1 << 28  # products: a second or two, as long as they take to start


def round_weights(setting: Setting) -> Lowering:
    """Each layer rounded against the moments of its inputs; nearest codes are made when they are asked for."""
    request = setting.request
    candidates = Candidates(setting.prepared.model, request.rounding, request.target.grids)
    if request.rounding != "nearest":
        fit(candidates, setting)
    return Lowering(setting, candidates)


def fit(candidates: Candidates, setting: Setting) -> None:
    """Round each layer at its widths against the moments of its inputs."""
    prepared = setting.prepared
    widths = {name: [o.weight_bits for o in c if o.is_quantized] for name, c in setting.choices.items()}
    layers = [layer for layer in prepared.layers if widths[layer.name]]
    _tell_blocks(layers, setting.stages.note)
    found = input_moments(
        setting.runtime, prepared.model, layers, setting.shares.rounding, prepared.batch_size,
        setting.stages.observer.progress, setting.views,
    )  # fmt: skip
    tasks = (candidates.task(layer, moments, widths[layer.name]) for layer, moments in found)
    known = set()
    for done in in_processes(fitted, tasks, workers(work(layers, widths))):
        candidates.fit(done)
        known.add(done.layer.name)
    if not setting.shares.rounding.synthetic:
        _tell_unknown([la for la in layers if has_moments(la) and la.name not in known], setting.stages.note)


def workers(products: int) -> int:
    """Processes that so many products are divided among."""
    return min(cores(), _MOST_PROCESSES) if products > _WORTH_PROCESSES else 1


def work(layers: Sequence[Layer], widths: Mapping[str, Sequence[int]]) -> int:
    """About how many products of two numbers the roundings of these layers at these widths take."""
    return sum(la.params * columns(la) * len(widths[la.name]) for la in layers if has_moments(la))


def _tell_blocks(layers: Sequence[Layer], note: Callable[[str], None]) -> None:
    """Say which layers' errors make up for each other within blocks of input channels only."""
    wide = [layer for layer in layers if has_moments(layer) and block_count(layer) > 1]
    if wide:
        named = ", ".join(f"{la.name} ({block_count(la)} of {block_columns(la):,} columns)" for la in wide)
        note(f"wider than {LARGEST:,} columns, rounded in blocks of input channels: {named}")


def _tell_unknown(layers: Sequence[Layer], note: Callable[[str], None]) -> None:
    """Say which layers' inputs are not known well enough to round against them."""
    if layers:
        others = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
        named = ", ".join(layer.name for layer in layers[:_NAMED])
        note(f"too few windows to learn from, so the errors of each kernel cancel in {named}{others}")
