"""round: every layer at every width it may take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from onnxmpq.context.setting import Setting
from onnxmpq.data import Dataset
from onnxmpq.lower.draft import Lowering
from onnxmpq.rounding.candidates import Candidates, fitted
from onnxmpq.rounding.moments import has_moments, input_moments
from onnxmpq.rounding.padded import find_padded
from onnxmpq.rounding.rows import MOST_COLUMNS, block_columns, block_count, columns
from onnxmpq.runtime.ordered_pool import cores
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Options

_MOST_PROCESSES = 8  # each holds a layer's moments
_NAMED = 5  # layers in a note
_FACTORED = 50  # products of factoring in the time of one of rounding
_WORTH_PROCESSES = 1 << 28  # products: a second or two, as long as they take to start


def round_weights(setting: Setting) -> Lowering:
    """Every layer at every width that is left to choose from."""
    return Lowering(setting, rounded_weights(setting, setting.splits.rounding))


def rounded_weights(setting: Setting, data: Dataset) -> Candidates:
    """Each layer rounded against the moments of its inputs; nearest codes are made when they are asked for."""
    request = setting.request
    candidates = Candidates(setting.prepared.model, request.quantizers.rounding, request.target.grids)
    if request.quantizers.rounding != "nearest":
        _tell(setting, _fit(candidates, setting, data), data)
    return candidates


def rounded_at(lowering: Lowering, options: Options) -> Lowering:
    """The same with these layers rounded at the widths of these options as well."""
    setting, candidates = lowering.setting, lowering.candidates.copy()
    if setting.request.quantizers.rounding != "nearest":
        others = dict.fromkeys((layer.name for layer in setting.prepared.layers), ())
        _fit(candidates, replace(setting, forced={**others, **options}), setting.splits.rounding)
    return replace(lowering, candidates=candidates)


def _fit(candidates: Candidates, setting: Setting, data: Dataset) -> set[str]:
    """Round each layer at the widths that are left to choose from; the names of those whose inputs' moments are known."""
    prepared, widths = setting.prepared, code_widths(setting)
    layers = [layer for layer in prepared.layers if widths[layer.name]]
    all_moments = input_moments(
        setting.runtime, prepared.model, layers, data, prepared.batch_size, setting.stages.observer.progress,
        setting.augmentations, find_padded(setting.runtime, prepared.model, layers, prepared.metric.padding, data, prepared.batch_size),
        setting.workers,
    )  # fmt: skip
    tasks = (candidates.task(layer, moments, widths[layer.name]) for layer, moments in all_moments)
    known = set()
    fitting = [layer for layer in layers if has_moments(layer)]
    count = processes(work(fitting, widths) + factoring(fitting))
    for layer, found in setting.workers.map(
        fitted, tasks, processes=count, name=lambda task: f"layer {task.layer.name}"
    ):
        for rounded, shift in found:
            candidates.replace(layer, rounded, shift)
        known.add(layer.name)
    return known


def code_widths(setting: Setting) -> dict[str, list[int]]:
    """The widths of codes that each layer is left to choose from."""
    return {name: [o.weight_bits for o in some if o.is_quantized] for name, some in setting.choices.items()}


def _tell(setting: Setting, known: Collection[str], data: Dataset) -> None:
    """Say which layers were rounded in blocks, and which without moments."""
    note, widths = setting.stages.note, code_widths(setting)
    layers = [layer for layer in setting.prepared.layers if widths[layer.name]]
    _tell_blocks([layer for layer in layers if layer.name in known], note)
    if not data.synthetic:
        unknown = [la for la in layers if has_moments(la) and la.name not in known]
        _tell_unknown("too few windows to learn from", unknown, note)
    blind = [la for la in layers if la.layout.blind and la.layout.columns and not la.weights_only]
    for why in dict.fromkeys(la.layout.blind or "" for la in blind):
        _tell_unknown(why, [la for la in blind if la.layout.blind == why], note)


def processes(products: int) -> int:
    """Processes that so many products are divided among."""
    return min(cores(), _MOST_PROCESSES) if products > _WORTH_PROCESSES else 1


def work(layers: Sequence[Layer], widths: Mapping[str, Sequence[int]]) -> int:
    """About how many products of two numbers the roundings of these layers at these widths take."""
    return sum(la.params * columns(la) * len(widths[la.name]) for la in layers)


def factoring(layers: Sequence[Layer]) -> int:
    """About how many products it takes to factor the matrix of moments of each layer, which is done in large blocks."""
    return sum(la.group * block_count(la) * block_columns(la) ** 3 for la in layers) // _FACTORED


def _tell_blocks(layers: Sequence[Layer], note: Callable[[str], None]) -> None:
    """Say which layers' errors make up for each other within blocks of input channels only."""
    wide = [layer for layer in layers if block_count(layer) > 1]
    if wide:
        named = ", ".join(f"{la.name} ({block_count(la)} of {block_columns(la):,} columns)" for la in wide)
        note(f"wider than {MOST_COLUMNS:,} columns, rounded in blocks of input channels: {named}")


def _tell_unknown(why: str, layers: Sequence[Layer], note: Callable[[str], None]) -> None:
    """Say which layers are not rounded against their inputs."""
    if layers:
        others = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
        named = ", ".join(layer.name for layer in layers[:_NAMED])
        note(f"{why}, so the errors of each kernel cancel in {named}{others}")
