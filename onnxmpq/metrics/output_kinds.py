"""What each output of a model holds: by the graph, by the values, else by the shape; or as the user says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from onnxmpq.errors import OptionError
from onnxmpq.metrics.makers import Makers
from onnxmpq.values.arrays import Array
from onnxmpq.values.output_kind import OutputKind

Seen = Mapping[str, Sequence[Array]]  # an output's values, run by run

# What `--outputs NAME=` may say.
WORDS = {
    "classes": OutputKind.LOGITS,
    "probabilities": OutputKind.PROBABILITIES,
    "embedding": OutputKind.EMBEDDING,
    "values": OutputKind.VALUES,
    "heatmap": OutputKind.HEATMAP,
    "positions": OutputKind.POSITIONS,
}
_SIGMOIDS = ("Sigmoid", "HardSigmoid")
_TELLING = (*_SIGMOIDS, "Softmax", "LogSoftmax", "LpNormalization")  # operators that say what an output holds
_SHARE = "share"  # of what lies in 0..1 by what made it, whatever the last operator
_SUM_TO_ONE = 2e-3  # half floats' softmax of a thousand classes
_UNIT_NORM = 1e-3


def parse_outputs(words: Iterable[str]) -> dict[str, OutputKind]:
    """What outputs hold, from `NAME=WORD`. Raises OptionError for what is none."""
    found = {}
    for text in words:
        name, sign, word = text.rpartition("=")
        if not sign or not name or word not in WORDS:
            raise OptionError(
                f"outputs {text!r} was not understood; write NAME=WORD, for example logits=classes; the words are "
                f"{', '.join(WORDS)}"
            )
        found[name] = WORDS[word]
    return found


def output_kinds(
    model: onnx.ModelProto, seen: Seen, asked: Mapping[str, OutputKind] | None = None
) -> dict[str, OutputKind]:
    """The kinds of a model's float outputs; `seen` are values of its outputs, `asked` what the user says of some.

    Raises OptionError for an output that the model has not, and for a kind that does not fit the shape.
    """
    floats = {name: values for name, values in seen.items() if is_float(values)}
    for name, kind in (asked or {}).items():
        _require_fitting(name, kind, floats)
    makers, said = Makers(model.graph), asked or {}
    found = {name: _kind(_maker(makers, name), values) for name, values in floats.items() if name not in said}
    if set(found.values()) - {OutputKind.LOGITS}:  # beside others a shape alone makes no classes
        found = {n: OutputKind.VALUES if kind is OutputKind.LOGITS else kind for n, kind in found.items()}
    return {n: _as_asked(said[n], values) if n in said else found[n] for n, values in floats.items()}


def is_guessed(model: onnx.ModelProto, output: str, values: Sequence[Array]) -> bool:
    """True where nothing but the shape [N, classes] says that an output holds classes."""
    return _kind("", values) is OutputKind.LOGITS and _maker(Makers(model.graph), output) not in (
        *_TELLING,
        _SHARE,
    )


def is_float(values: Sequence[Array]) -> bool:
    """True for the values of a plain float tensor."""
    return bool(values) and all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in values)


def _maker(makers: Makers, output: str) -> str:
    op = makers.op(output)
    return _SHARE if op not in _TELLING and makers.is_share(output) else op


def _kind(op: str, values: Sequence[Array]) -> OutputKind:
    shape = values[0].shape
    if len(shape) < 2:
        return OutputKind.VALUES
    if all(size == 1 for size in shape[2:]):
        found = _kind_of_vectors(op, values, shape[1])
        # [N, anchors, 1] is a detector's, one score an anchor; classifiers give [N, classes] or, of convolutions, [N, classes, 1, 1].
        return OutputKind.VALUES if found is OutputKind.LOGITS and len(shape) == 3 else found
    if op in _SIGMOIDS:
        return OutputKind.HEATMAP
    if op in ("Softmax", "LogSoftmax") or class_axis(values) is not None:
        return OutputKind.POSITIONS
    return OutputKind.HEATMAP if op == _SHARE else OutputKind.VALUES


def _kind_of_vectors(op: str, values: Sequence[Array], width: int) -> OutputKind:
    """Of [N, width], with ones behind."""
    if op in _SIGMOIDS:
        return OutputKind.INDEPENDENT
    if width < 2:
        return OutputKind.INDEPENDENT if op == _SHARE else OutputKind.VALUES
    if op == "LogSoftmax":
        several = all((v <= 0).all() and _are_several(np.exp(v)) for v in values)
        return OutputKind.VALUES if several else OutputKind.LOG_PROBABILITIES
    if op == "Softmax" and all(_are_several(v) for v in values):
        return OutputKind.VALUES
    if op == "Softmax" or all(_sums_to_one(v, 1) for v in values):
        return OutputKind.PROBABILITIES
    if op == "LpNormalization" or all(_has_unit_rows(v) for v in values):
        return OutputKind.EMBEDDING
    return OutputKind.INDEPENDENT if op == _SHARE else OutputKind.LOGITS


def class_axis(values: Sequence[Array]) -> int | None:
    """The axis, the last or 1, along which probabilities lie by their values."""
    return next((axis for axis in (-1, 1) if all(_sums_to_one(v, axis) for v in values)), None)


def axis_of_classes(values: Array) -> int:
    """The axis of classes of an output that holds some at each position: by (logarithms of) probabilities, else by the rank."""
    by_values = class_axis([values])
    if by_values is None:
        with np.errstate(over="ignore", invalid="ignore"):
            by_values = class_axis([np.exp(values.astype(np.float64))])
    if by_values is not None:
        return by_values % values.ndim
    return 1 if values.ndim == 4 else values.ndim - 1


def _in_unit_range(values: Array) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite >= -_SUM_TO_ONE).all() and (finite <= 1 + _SUM_TO_ONE).all())


def _sums_to_one(values: Array, axis: int) -> bool:
    if values.shape[axis] < 2 or not np.isfinite(values).all():
        return False
    sums = values.sum(axis=axis, dtype=np.float64)
    return bool((values >= 0).all() and np.allclose(sums, 1, rtol=0, atol=_SUM_TO_ONE))


def _are_several(values: Array) -> bool:
    """True for rows of probabilities that hold several distributions: they were reshaped behind the softmax."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    sums = flat.sum(axis=1)
    whole = np.abs(sums - np.rint(sums)) < sums * _SUM_TO_ONE
    return bool(((flat >= 0) & (flat <= 1)).all() and (whole & (sums > 1.5)).all())


def _has_unit_rows(values: Array) -> bool:
    flat = values.reshape(len(values), -1).astype(np.float64)
    return bool(np.allclose(np.square(flat).sum(axis=1), 1, rtol=0, atol=2 * _UNIT_NORM))


def _as_asked(kind: OutputKind, values: Sequence[Array]) -> OutputKind:
    """Probabilities that are no distribution are independent ones; what users call classes may be logarithms of some."""
    if kind is OutputKind.PROBABILITIES and not all(_sums_to_one(v, 1) for v in values):
        return OutputKind.INDEPENDENT
    return kind


def _require_fitting(name: str, kind: OutputKind, floats: Seen) -> None:
    if name not in floats:
        several = "; one NAME=WORD each: repeat --outputs" if "=" in name else ""
        raise OptionError(
            f"output {name!r} is none of the model's float outputs: {', '.join(floats) or 'none'}{several}"
        )
    if kind in (OutputKind.HEATMAP, OutputKind.PROBABILITIES) and not all(map(_in_unit_range, floats[name])):
        word = "heatmap" if kind is OutputKind.HEATMAP else "probabilities"
        raise OptionError(
            f"output {name!r} leaves 0 to 1, which {word} do not; write {name}=values or {name}=classes"
        )
    shape = floats[name][0].shape
    rows = len(shape) >= 2 and all(size == 1 for size in shape[2:])
    if kind.is_distribution and (not rows or (kind is OutputKind.LOGITS and shape[1] < 2)):
        raise OptionError(
            f"output {name!r} is {'x'.join(map(str, shape))}, and {'classes' if kind.has_classes else 'probabilities'} "
            f"are [N, classes]; write {name}=positions or {name}=values"
        )
    if kind is OutputKind.POSITIONS and len(shape) < 3:
        raise OptionError(
            f"output {name!r} is {'x'.join(map(str, shape))}, and positions are [N, T, classes]; write {name}=classes"
        )
