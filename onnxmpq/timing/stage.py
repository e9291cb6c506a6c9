"""time: what each layer takes as an integer kernel and in float, for budgets on latency."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from onnxmpq.errors import OptionError
from onnxmpq.lower.draft import Lowering
from onnxmpq.timing.layer_times import LayerTimes, layer_times
from onnxmpq.values.latency import TimeTable
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan


def time_layers(lowering: Lowering) -> TimeTable:
    """Seconds of every option of every layer: those of integer kernels where it has integer activations.

    Raises OptionError on a provider that does not tell what its kernels take.
    """
    setting = lowering.setting
    runtime, prepared, options = setting.runtime, setting.prepared, setting.options
    if runtime.provider != "cpu":
        raise OptionError(
            f"a latency budget rests on the times of single kernels, which the {runtime.provider.upper()} provider "
            "does not tell; use --provider cpu, or another budget"
        )

    def lowered(floats: Collection[str]) -> onnx.ModelProto:
        return lowering.draft(with_float(lowering, floats)).lowered()

    times = layer_times(runtime, prepared.layers, prepared.sample, prepared.original, lowered)
    return TimeTable({name: option_times(times, name, opts) for name, opts in options.items()}, times.fp32)


def with_float(lowering: Lowering, names: Collection[str]) -> Plan:
    """The plan of these layers in float and all others as wide as they may be, in integers where they can."""
    floats = {layer.name: Option(layer.float_bits) for layer in lowering.setting.prepared.layers}
    widest = {
        name: max(choices, key=lambda o: (o.activation_bits or 0, o.weight_bits))
        for name, choices in lowering.setting.options.items()
    }
    return Plan({name: floats[name] if name in names else option for name, option in widest.items()})


def option_times(times: LayerTimes, layer: str, options: Sequence[Option]) -> dict[Option, float]:
    """Seconds of each option; a layer that has no integer kernel is in float wherever it was timed."""
    mixed = any(o.activation_bits is not None for o in options)
    floating = times.floating[layer] if mixed else times.integer[layer]
    return {o: floating if o.activation_bits is None else times.integer[layer] for o in options}
