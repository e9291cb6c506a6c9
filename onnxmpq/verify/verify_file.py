"""The written file against the plan: read back from the disk, checked, loaded, run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from onnxmpq.context.prepared import Prepared
from onnxmpq.errors import EngineError, VerifyError
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array
from onnxmpq.values.option import HALF_BITS
from onnxmpq.values.plan import Plan
from onnxmpq.values.target import Target
from onnxmpq.verify.readback import read_halves, read_weights
from onnxmpq.verify.rules import broken_rules


def verify_file(
    path: Path,
    model: onnx.ModelProto,
    prepared: Prepared,
    plan: Plan,
    candidates: Candidates,
    target: Target,
    runtime: Runtime,
) -> Session:
    """Check the file with onnx.checker and by its target's rules, load and run it, compare its codes with the plan's.

    `model` is what was read back from `path`; the runtime reads the file itself.

    Raises VerifyError with the first difference.
    """
    _check_valid(model, prepared.original)
    _check_interface(model, prepared.original)
    check_weights(model, prepared, plan, candidates)
    try:
        session = runtime.session(path)
        outputs = session.run(prepared.sample)
    except EngineError as error:
        raise VerifyError(f"the written file does not run: {error}") from error
    _check_outputs(outputs, runtime.session(prepared.original).run(prepared.sample))
    _check_rules(model, prepared, target)
    return session


def _check_valid(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """onnx.checker must accept the file, unless it quarrels with the original, which the runtime runs, too."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        try:
            onnx.checker.check_model(original)
        except onnx.checker.ValidationError:
            return
        raise VerifyError(f"the written file is not valid ONNX: {error}") from error


def _check_interface(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    weights = {i.name for i in original.graph.initializer}
    wanted = [v for v in original.graph.input if v.name not in weights], list(original.graph.output)
    found = list(model.graph.input), list(model.graph.output)
    for before, after in zip(wanted, found, strict=True):
        names = [v.name for v in before], [v.name for v in after]
        if names[0] != names[1]:
            raise VerifyError(f"the written file has the inputs or outputs {names[1]}, the model {names[0]}")
        for old, new in zip(before, after, strict=True):
            # A model may leave an output's type to inference.
            if old.type.WhichOneof("value") and old.type != new.type:
                raise VerifyError(f"the type or shape of {old.name!r} in the written file is not the model's")


def check_weights(model: onnx.ModelProto, prepared: Prepared, plan: Plan, candidates: Candidates) -> None:
    """The file must hold the codes and scales of the plan. Raises VerifyError."""
    stored, halves = read_weights(model), read_halves(model)
    for layer in prepared.layers:
        option = plan[layer.name]
        bits = option.stored_bits
        if layer.reason is not None or bits == layer.float_bits:
            continue
        found = stored.get(layer.weight)
        held = HALF_BITS if layer.weight in halves else found.bits if found else layer.float_bits
        if held != bits:
            raise VerifyError(f"layer {layer.name!r} was to be stored at {bits} bits; the file holds {held}")
        if found is not None:
            wanted = candidates.quantized(layer, option.weight_bits)
            if not (np.array_equal(found.codes, wanted.codes) and np.array_equal(found.scale, wanted.scale)):
                raise VerifyError(f"the codes of layer {layer.name!r} in the file are not the plan's")


def _check_rules(model: onnx.ModelProto, prepared: Prepared, target: Target) -> None:
    """The target's rules must hold, but for what the model broke before."""
    before = set(broken_rules(prepared.model, target))
    broken = [fault for fault in broken_rules(model, target) if fault not in before]
    if broken:
        raise VerifyError(f"the written file breaks the rules of target {target.name}: {broken[0]}")


def _check_outputs(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
    for name, value in outputs.items():
        if getattr(value, "dtype", None) is None or value.dtype.kind != "f":
            continue
        if not np.isfinite(value).all() and np.isfinite(reference[name]).all():
            raise VerifyError(f"output {name!r} of the written file is not finite")
