"""Weights are rounded against mirror images where the network sees the same in them, and only there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.api import compile_model
from onnxmpq.budgets.budget import Budget
from onnxmpq.calibrate.mirror import sees_the_same
from onnxmpq.calibrate.stage import calibrate
from onnxmpq.context.setting import Loaded
from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.data.augmentations import NO_AUGMENTATION, Augmentations
from onnxmpq.load.stage import load
from onnxmpq.metrics.metric import Metric
from onnxmpq.normalize.stage import prepare_model
from onnxmpq.observer import Observer, Stages
from onnxmpq.pipeline import compiled
from onnxmpq.place.stage import place
from onnxmpq.request import Request, Sources
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.effort import EFFORTS
from onnxmpq.values.output_kind import OutputKind

NETWORK = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[n, 3, 6, 8] x) => (float[n, 5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)
    r = Relu (a)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, wb, bb)
}
"""
SHAPES = {"wa": (16, 3, 3, 3), "ba": (16,), "wb": (5, 16), "bb": (5,)}
MAX = EFFORTS["balanced"]


def network(*, symmetric: bool) -> onnx.ModelProto:
    """A classifier that sees the same in mirror images (its kernels are their own mirror images), or does not."""
    model, rng = onnx.parser.parse_model(NETWORK), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values: Array = rng.standard_normal(shape).astype(np.float32)
        if name == "wa" and symmetric:
            values = values + values[..., ::-1]
        elif name == "wa":
            values[..., :] = np.array([1, 0, -1]) * values[..., :1]
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def images(count: int) -> Array:
    """Float32 [count, 3, 6, 8], brighter to one side."""
    rng = np.random.default_rng(1)
    slopes = np.linspace(-1, 1, 8) * rng.standard_normal((count, 3, 6, 1))
    found: Array = (slopes + 0.3 * rng.standard_normal((count, 3, 6, 8))).astype(np.float32)
    return found


@pytest.fixture
def loads(tmp_path: Path, asked: Callable[..., Request]) -> Callable[..., Loaded]:
    def loaded(*, symmetric: bool = True, **changes: object) -> Loaded:
        path = tmp_path / "net.onnx"
        onnx.save(network(symmetric=symmetric), path)
        some = images(64)
        sources = Sources(
            model=path, output=tmp_path / "out.onnx", data={"x": some}, evaluation={"x": some[:8]}, training=None,
            preprocess=None, shapes={}, samples=64,
        )  # fmt: skip
        request = asked(**{"rounding": "compensated", "effort": MAX, **changes})
        return load(sources, request, Stages(Observer()))

    return loaded


def found(loaded: Loaded) -> Augmentations:
    return calibrate(loaded, place(loaded, prepare_model(loaded))).augmentations


@pytest.mark.parametrize("effort", ["balanced"])
def test_all_efforts_but_fast_mirror(loads: Callable[..., Loaded], effort: str) -> None:
    assert found(loads(effort=EFFORTS[effort])) == Augmentations(-1)


@pytest.mark.parametrize(
    ("symmetric", "augmentations"), [(True, Augmentations(-1)), (False, NO_AUGMENTATION)]
)
def test_images_are_mirrored_where_the_network_sees_the_same(
    loads: Callable[..., Loaded], symmetric: bool, augmentations: Augmentations
) -> None:
    assert found(loads(symmetric=symmetric)) == augmentations


@pytest.mark.parametrize("change", [{"effort": EFFORTS["fast"]}, {"rounding": "nearest"}])
def test_fast_does_not_mirror_nor_what_looks_at_no_inputs(
    loads: Callable[..., Loaded], change: dict[str, object]
) -> None:
    assert found(loads(**change)) == NO_AUGMENTATION


@pytest.mark.parametrize(
    ("count", "augmentations"),
    [(1, NO_AUGMENTATION), (7, NO_AUGMENTATION), (8, Augmentations(-1)), (20, Augmentations(-1))],
)
def test_few_samples_tell_nothing(
    loads: Callable[..., Loaded], count: int, augmentations: Augmentations
) -> None:
    loaded = loads()
    few = replace(loaded.evidence, calibration=loaded.evidence.calibration.take(range(count)))
    assert found(replace(loaded, evidence=few)) == augmentations


@pytest.mark.parametrize("step", [1, 3, 32])
def test_batches_of_a_fixed_size_tell_as_well(loads: Callable[..., Loaded], step: int) -> None:
    loaded = loads()
    data = loaded.evidence.calibration
    fixed = Dataset(replace(data.source, step=step), data.positions[: data.count // step * step])
    metric = prepare_model(loaded).metric
    assert sees_the_same(loaded.session, metric, fixed, -1, 64, 0)


def test_a_network_that_cannot_tell_has_nothing_to_learn_from_it(loads: Callable[..., Loaded]) -> None:
    """Of images that are their own mirror images there are no more windows."""
    loaded = loads()
    metric = prepare_model(loaded).metric
    images = np.random.default_rng(3).standard_normal((32, 3, 6, 4)).astype(np.float32)
    same = {"x": np.concatenate([images, images[..., ::-1]], 3)}
    data = open_data(same, loaded.evidence.calibration.source.inputs, samples=None)
    assert not sees_the_same(loaded.session, metric, data, -1, 16, 0)


@pytest.mark.parametrize(("outputs", "alike"), [("y", True), ("yz", False)])
def test_every_output_must_see_the_same(outputs: str, alike: bool) -> None:
    text = f"""g (float[N, 3, 6, 8] x) => ({", ".join(f"float[?] {name}" for name in outputs)}) {{
        a = Mul (x, nearly)  y = ReduceMean <axes = [3], keepdims = 0> (a)  z = Identity (x)
    }}"""
    model = model_of(text, nearly=np.linspace(1, 1.01, 8, dtype=np.float32))
    session = Runtime("cpu", 1).session(model)
    specs = [InputSpec("x", np.dtype(np.float32), (None, 3, 6, 8))]
    data = open_data({"x": images(32)}, specs, samples=None)
    metric = Metric("nse", dict.fromkeys(outputs, OutputKind.VALUES))
    assert sees_the_same(session, metric, data, -1, 16, 0) is alike


def test_a_network_that_takes_one_sample_at_a_time(tmp_path: Path) -> None:
    """Its batch may be given any size, but a Reshape holds it to one."""
    model = network(symmetric=True)
    flatten = next(n for n in model.graph.node if n.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 16]), "shape"))
    onnx.save(model, tmp_path / "one.onnx")
    report = compile_model(
        tmp_path / "one.onnx", ["4bit-avg"], {"x": images(40)}, effort="balanced", provider="cpu", bits=(2, 4, 8),
        target="portable", force=True,
    )  # fmt: skip
    assert report.size.average_weight_bits <= 4


def test_a_compile_with_mirror_images_meets_its_budget(
    tmp_path: Path, asked: Callable[..., Request], loads: Callable[..., Loaded]
) -> None:
    loads()
    sources = Sources(
        model=tmp_path / "net.onnx", output=tmp_path / "out.onnx", data={"x": images(40)}, evaluation=None, training=None,
        preprocess=None, shapes={}, samples=40,
    )  # fmt: skip
    request = asked(
        rounding="compensated", effort=MAX, widths=(2, 4, 8), budgets=(Budget.parse("4bit-avg"),), verify=True,
        activations="int8",
    )  # fmt: skip
    notes: list[str] = []

    class Listening(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    report = compiled(sources, request, Stages(Listening()))
    assert report.size.average_weight_bits <= 4
    assert any("mirror images" in note for note in notes)
