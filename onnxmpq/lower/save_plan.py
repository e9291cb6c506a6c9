"""The plan of a draft as a file that people read and edit."""

from __future__ import annotations

from pathlib import Path

from onnxmpq.lower.draft import Draft
from onnxmpq.onnx_io.output_file import write_file
from onnxmpq.values.plan_file import PlanFile


def save_plan(draft: Draft, path: Path) -> None:
    """Write it; said where it cannot be: a plan over groups of channels, or integers of both kinds."""
    note = draft.setting.stages.note
    if {unit.name for unit in draft.units} != {layer.name for layer in draft.prepared.layers}:
        note(f"the plan is over groups of channels, which {path} cannot hold: it is not saved")
        return
    activations = _activations(draft)
    if activations is None:
        note(
            f"some layers find their ranges when they run and others do not, which {path} cannot hold: it is not saved"
        )
        return
    write_file(PlanFile.of(draft.plan, activations).text.encode(), path)


def _activations(draft: Draft) -> str | None:
    """What integer layers have, as `--activations` has it; fp32 without any, None where they differ."""
    integer = {
        name: o.activation_bits for name, o in draft.plan.options.items() if o.activation_bits is not None
    }
    if not integer:
        return "fp32"
    dynamic = draft.setting.quantized.dynamic & integer.keys()
    if dynamic:
        return "dynamic" if dynamic == integer.keys() else None
    return f"int{next(iter(integer.values()))}"
