from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.passes.lower.clip_pools import clip_pools
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_pass, model_of

HEADER = """g (float[1, 8, 12, 12] x) => (float[1, 8, 6, 6] y) {"""
POOLED = f"""{HEADER}
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    q = QuantizeLinear (p, scale, zero)
    y = DequantizeLinear (q, scale, zero)
}}"""


def pooled(text: str, zero: object = 0, scale: float = 0.0173) -> onnx.ModelProto:
    return model_of(
        text, scale=np.asarray(scale, np.float32), zero=np.asarray(zero, getattr(zero, "dtype", np.uint8))
    )


def ops(model: onnx.ModelProto) -> list[str]:
    """In order, but for the changes of layout that ONNX Runtime makes where its blocks divide 8 channels."""
    return [node.op_type for node in model.graph.node if not node.op_type.startswith("Reorder")]


@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(128), np.uint8(255), np.int8(0), np.int8(-128)])
@pytest.mark.parametrize("scale", [0.0173, 1 / 3, 1e-3])
def test_the_codes_stay_bit_for_bit(zero: np.generic, scale: float) -> None:
    changed = check_pass(clip_pools, pooled(POOLED, zero, scale), decibels=float("inf"))
    assert ops(changed) == ["MaxPool", "Clip", "QuantizeLinear", "DequantizeLinear"]


def test_the_runtime_keeps_the_pool_in_float_and_drops_the_clip(tmp_path: Path) -> None:
    for name, model in (("before", pooled(POOLED)), ("after", check_pass(clip_pools, pooled(POOLED)))):
        Runtime("cpu", 1).session(model, save_optimized=tmp_path / name)
    before, after = (onnx.load(tmp_path / name) for name in ("before", "after"))
    assert ops(before) == ["QuantizeLinear", "MaxPool", "DequantizeLinear"]  # what the pass is there against
    # Some versions lay the map out in blocks of channels for the float kernel.
    kernels = [op for op in ops(after) if not op.startswith("Reorder")]
    assert kernels == ["MaxPool", "QuantizeLinear", "DequantizeLinear"]


def test_a_pool_between_codes_is_left_alone() -> None:
    text = f"""{HEADER}
        a = QuantizeLinear (x, scale, zero)
        b = DequantizeLinear (a, scale, zero)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
        q = QuantizeLinear (p, scale, zero)
        y = DequantizeLinear (q, scale, zero)
    }}"""
    assert "Clip" not in ops(check_pass(clip_pools, pooled(text)))


def test_other_pools_are_left_alone() -> None:
    assert "Clip" not in ops(check_pass(clip_pools, pooled(POOLED.replace("MaxPool", "AveragePool"))))
