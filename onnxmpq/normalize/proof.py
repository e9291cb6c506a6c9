"""The proof that an edited model computes what it did before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnxmpq.errors import ModelError
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.metrics.makers import Makers
from onnxmpq.metrics.output_channels import FLOOR
from onnxmpq.onnx_io.subgraph import giving, names_read
from onnxmpq.operators import is_computing, is_product
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array

RAISED_DB = 90.0  # rewritten operators reorder no arithmetic
FOLDED_DB = 60.0  # folded constants are rounded once more
_HALF_DB = 50.0  # half precision rounds every tensor to 11 bits
_PARTED = 0.01  # of integers that ties may change
_SHAPE_READERS = ("Shape", "Size")
_SUMS = ("Add", "Sub", "Sum")


def prove(
    runtime: Runtime,
    model: onnx.ModelProto,
    sample: Mapping[str, Array],
    reference: Mapping[str, Array],
    decibels: float,
    what: str,
) -> None:
    """Raise ModelError unless the model gives the reference's outputs on the sample, to `decibels` of SQNR.

    Integers must be equal, shapes too. Only where they are decided by what a layer computed (an ArgMax, the
    indices of detections) may one in a hundred differ: rounding in another order parts what was nearly a tie. An output
    that is next to nothing is held to the scale of what it was made of (see `_floor`): the runtime's own rounding is
    large beside it.
    """
    outputs = runtime.session(model, optimize=False).run(sample)
    for name, expected in reference.items():
        if getattr(expected, "dtype", None) is None:  # a sequence or an optional
            continue
        wanted = min(decibels, _HALF_DB) if expected.dtype == np.float16 else decibels
        found = signal_to_noise(expected, outputs[name])
        if found < wanted and expected.dtype.kind == "f":
            found = signal_to_noise(expected, outputs[name], _floor(runtime, model, sample, name))
        if found < wanted and not (_nearly_equal(expected, outputs[name]) and _is_decided(model, name)):
            raise ModelError(
                f"{what} changed output {name!r} of the model ({found:.0f} dB, wanted {wanted:.0f}); "
                "this is a fault of onnxmpq: please report it with the model"
            )


def _floor(runtime: Runtime, model: onnx.ModelProto, sample: Mapping[str, Array], name: str) -> float:
    """The root mean square below which an output is next to nothing: a hundredth of what lies in 0..1, or of its summands."""
    makers = Makers(model.graph)
    if makers.is_share(name):
        return FLOOR
    node = makers.node(name)
    if node is None:
        return 0.0
    summands = node.input if node.op_type in _SUMS else node.input[2:3] if is_product(node.op_type) else ()
    return FLOOR * max((_scale(v) for v in _values(runtime, model, sample, list(summands))), default=0.0)


def _values(
    runtime: Runtime, model: onnx.ModelProto, sample: Mapping[str, Array], names: list[str]
) -> list[Array]:
    """What the tensors of a model hold: constants, inputs and what it computes."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in names}
    known: dict[str, Array] = {**constants, **sample}
    computed = [name for name in names if name and name not in known]
    if computed:
        known |= runtime.session(giving(model, computed), optimize=False).run(sample)
    return [known[name] for name in names if name in known]


def _scale(values: Array) -> float:
    """The root mean square of the finite ones among the values; 0 where there are none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return float(np.sqrt(np.square(finite).mean())) if finite.size else 0.0


def _nearly_equal(expected: Array, found: Array) -> bool:
    """True where integers or booleans of one shape differ in few elements."""
    alike = expected.dtype == found.dtype and expected.shape == found.shape and expected.dtype.kind != "f"
    return alike and float(np.mean(expected != found)) <= _PARTED


def _is_decided(model: onnx.ModelProto, name: str) -> bool:
    """True where the values of a layer's result, not its shape alone, reach this tensor."""
    made = {output: node for node in model.graph.node for output in node.output}
    seen, waiting = set(), [name]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor not in made or made[tensor].op_type in _SHAPE_READERS:
            continue
        if is_computing(made[tensor].op_type):
            return True
        seen.add(tensor)
        waiting.extend(names_read(made[tensor]))
    return False
