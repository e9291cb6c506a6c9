"""place: where Q/DQ pairs go, and with that what each layer may really be given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from onnx import numpy_helper

from onnxmpq.context.prepared import Placed, Prepared
from onnxmpq.context.setting import Loaded
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.place import POLICIES
from onnxmpq.place.few_rows import few_rows
from onnxmpq.place.half_precision import LARGEST_HALF, largest_of
from onnxmpq.place.legalize import legalize
from onnxmpq.rounding.half_scales import has_half_scales
from onnxmpq.values.keep import options_of
from onnxmpq.values.option import DIRECT_BITS, HALF_BITS, Option, Options
from onnxmpq.values.target import Target

_MANY_SCALES = 256  # what fewer save, the nodes that read them take


def place(loaded: Loaded, prepared: Prepared) -> Placed:
    """What was asked of every layer, as half precision, the target and its integer kernels allow it."""
    request = loaded.request
    if request.constraints.plan is not None:
        request.constraints.plan.check(prepared.layers)
    asked = options_of(
        prepared.layers, request.constraints.widths, request.activation_bits, request.constraints.kept
    )
    return placed(prepared, asked, request.target, loaded.stages.note)


def within_half(prepared: Prepared, options: Options, note: Callable[[str], None]) -> Options:
    """The options without fp16 where that cannot hold the layer and there are others; said."""
    weights = {i.name: i for i in prepared.model.graph.initializer}
    half = Option(HALF_BITS)
    free = [la for la in prepared.layers if half in options[la.name] and len(options[la.name]) > 1]
    beyond = [la.name for la in free if largest_of(numpy_helper.to_array(weights[la.weight])) > LARGEST_HALF]
    if beyond:
        note(f"fp16 cannot hold the largest weights of {', '.join(beyond)}, which get another width")
    return {
        name: tuple(o for o in some if o != half) if name in beyond else some
        for name, some in options.items()
    }


def placed(
    prepared: Prepared, options: Options, target: Target, note: Callable[[str], None] = lambda _: None
) -> Placed:
    """Where Q/DQ pairs go, and the options as they then really are, fp16 only where it holds the weights.

    Float where there is no integer kernel; and as wide as what the target stores them in.
    """
    options = within_half(prepared, options, note)
    asked = [name for name, choices in options.items() if any(o.activation_bits is not None for o in choices)]
    placement = POLICIES[target.activations.placement](import_graph(prepared.model), prepared.layers, asked)
    integer = set(placement.integer_layers)
    computed = {name: choices if name in integer else in_float(choices) for name, choices in options.items()}
    # A plain file does not tell a float layer beside quantized activations from an integer one.
    held, changes = legalize(computed, target, beside_integers=target.is_plain and bool(placement.tensors))
    for change in changes:
        note(change)
    prepared = with_direct(with_scales(prepared) if target.halves else prepared, target, note)
    direct = {la.name: in_float(held[la.name]) for la in prepared.layers if la.direct}
    return Placed(prepared, placement, held | direct)


def with_direct(prepared: Prepared, target: Target, note: Callable[[str], None]) -> Prepared:
    """The model with the layers marked whose codes the target may multiply as they are; said."""
    most = target.weights.direct_rows if target.stored_as == "packed" else 0
    shapes = {name: traced.shape for name, traced in prepared.traced.items()}
    names = few_rows(prepared.model, prepared.layers, shapes, most)
    if names:
        note(
            f"{len(names)} matrices see {most} rows of a sample or fewer: their codes of {DIRECT_BITS} bits are multiplied as "
            "they are (MatMulNBits); with many rows that is slower than in float"
        )
    return replace(prepared, layers=tuple(replace(la, direct=la.name in names) for la in prepared.layers))


def with_scales(prepared: Prepared) -> Prepared:
    """The model's layers with scales of two bytes where half precision holds them at every width, if there are many."""
    if sum(layer.channels for layer in prepared.layers if layer.reason is None) < _MANY_SCALES:
        return prepared
    weights = {i.name: numpy_helper.to_array(i) for i in prepared.model.graph.initializer}
    layers = [
        replace(la, scale_bytes=2)
        if la.reason is None
        and has_half_scales(weights[la.weight].reshape(la.unstacked.shape), la.unstacked.axis)
        else la
        for la in prepared.layers
    ]
    return replace(prepared, layers=tuple(layers))


def in_float(choices: Iterable[Option]) -> tuple[Option, ...]:
    """The same widths, each once, for a layer that computes in float."""
    return tuple(dict.fromkeys(Option(o.weight_bits) for o in choices))
