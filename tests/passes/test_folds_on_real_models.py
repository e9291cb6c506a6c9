"""The preserving passes together, on exports of many tools."""

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from shared import SHARED, needs_shared

from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.onnx_io.graph import hoist_initializers
from onnxmpq.passes.normalize.drop_noops import drop_noops
from onnxmpq.passes.normalize.fold_affine import fold_affine
from onnxmpq.passes.normalize.fold_batch_norm import fold_batch_norm
from onnxmpq.passes.normalize.fold_pad import fold_pad
from onnxmpq.passes.normalize.fold_weight_views import fold_weight_views
from onnxmpq.passes.normalize.hoist_subgraph_weights import hoist_subgraph_weights
from onnxmpq.passes.normalize.lift_constants import lift_constants
from onnxmpq.testing import random_feeds, run
from onnxmpq.values.arrays import Array

MODELS = sorted([*SHARED.glob("models/*.onnx"), *SHARED.glob("robustness/*.onnx")])

PASSES = (
    lift_constants,
    hoist_subgraph_weights,
    fold_weight_views,
    drop_noops,
    fold_batch_norm,
    fold_affine,
    fold_pad,
)
NOT_RUNNABLE = {"op_prelu_2d"}  # ONNX Runtime has no kernel for it
HALF = {"squeezenet_fp16_winml"}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {  # of inputs whose free dimensions cannot be 1
    "bodypix_mnv1_050_s16": {"input": (1, 65, 65, 3)},
    "ppocr_v2_cls": {"x": (1, 3, 48, 64)},
    "ppocr_v2_det_prune": {"x": (1, 3, 64, 64)},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_half": {"input": (1, 576), "state": (2, 1, 128)},
    "yunet_n_dynamic": {"input": (1, 3, 64, 64)},
}
# Operators left behind: what the passes are for is gone, what they may not touch is there.
LEFT = {
    "light_densenet121": {"Conv": 121, "BatchNormalization": 121, "ConstantOfShape": 836},
    "light_resnet50": {"Conv": 53, "BatchNormalization": 53, "ConstantOfShape": 239},
    "mnist_cntk": {"Conv": 2, "Reshape": 1, "MatMul": 1, "Add": 1},
    "ppocr_v2_cls": {"Constant": 0, "BatchNormalization": 0, "Conv": 53},
    "ppocr_v2_det_prune": {"Constant": 0, "BatchNormalization": 0, "ConvTranspose": 4},
    "resnet56_cifar10_bn": {"BatchNormalization": 0, "Conv": 55},
    "squeezenet_fp16_winml": {"Dropout": 0},
    "ultraface_rfb320": {"BatchNormalization": 0, "Constant": 0},
}

pytestmark = needs_shared


def feeds_of(name: str, model: onnx.ModelProto) -> dict[str, Array]:
    feeds, rng = random_feeds(model), np.random.default_rng(0)
    for key, shape in SHAPES.get(name, {}).items():
        feeds[key] = rng.standard_normal(shape).astype(np.float32)
    return feeds | ({"sr": np.array(16000)} if "sr" in feeds else {})


def normalise(graph: gs.Graph) -> bool:
    """Every pass until none of them changes anything; True if one did."""
    changed = False
    while sum(step(graph) for step in PASSES):
        changed = True
    return changed


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in MODELS])
def test_outputs_are_kept(path: Path) -> None:
    if path.stem in NOT_RUNNABLE:
        pytest.skip("ONNX Runtime cannot run the original")
    model = onnx.load(path)
    feeds = feeds_of(path.stem, model)
    expected = run(model, feeds)
    graph = gs.import_onnx(model)
    changed = normalise(graph)
    assert not normalise(graph)
    counts = [node.op for node in graph.nodes]
    assert {op: counts.count(op) for op in LEFT.get(path.stem, {})} == LEFT.get(path.stem, {})
    folded = gs.export_onnx(graph)
    hoist_initializers(folded)
    found = run(folded, feeds)
    assert list(found) == list(expected)
    wanted = (60 if path.stem in HALF else 100) if changed else np.inf
    for name, value in expected.items():
        assert signal_to_noise(value, found[name]) >= wanted
