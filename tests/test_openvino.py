"""Files for OpenVINO, run in OpenVINO itself (a test extra): skipped aloud where it is not installed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from shared import DIGITS, shared

import onnxmpq
from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import check_target
from onnxmpq.values.arrays import Array
from onnxmpq.values.target import TARGETS, ActivationRules, Target

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (pip install '.[test]')")

# Where integer kernels round another way than ONNX Runtime's, single codes differ by one.
ONE_CODE_DB = 40.0
CONFIG = {
    "INFERENCE_NUM_THREADS": "1",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # else it quantizes the inputs of float layers with integer weights
}


def compiled(model: onnx.ModelProto | Path) -> Any:
    core = openvino.Core()
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return core.compile_model(core.read_model(source), "CPU", CONFIG)


def run(model: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    network = compiled(model)
    results = network(dict(feeds))
    return {output.any_name: np.asarray(results[output]) for output in network.outputs}


def kernels(model: Path) -> Counter[str]:
    """The kinds of kernels that OpenVINO runs."""
    nodes = compiled(model).get_runtime_model().get_ordered_ops()
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in nodes)


def convolutions(model: Path) -> Counter[str]:
    """The types that OpenVINO's convolutions compute in."""
    nodes = [node.get_rt_info() for node in compiled(model).get_runtime_model().get_ordered_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in nodes]
    return Counter(precision for kind, precision in kinds if kind == "Convolution")


def test_every_storage_and_width_runs_as_in_onnx_runtime() -> None:
    check_target(TARGETS["openvino"], runs=run, decibels=ONE_CODE_DB)


def without_int2(activation_bits: tuple[int, ...]) -> Target:
    portable = TARGETS["portable"]
    return replace(
        portable,
        weights=replace(portable.weights, tensor_bits=(8, 4)),
        activations=ActivationRules(activation_bits),
    )


def test_portable_files_without_int2_run_too() -> None:
    target = without_int2((8, 16))
    check_target(target, runs=run, decibels=ONE_CODE_DB)


def test_activations_of_4_bits_run_too() -> None:
    target = without_int2((4,))
    check_target(target, runs=run, decibels=ONE_CODE_DB - 24)  # a code is sixteen times as much of the range


def test_int2_tensors_are_still_refused() -> None:
    """The reason why the target has none; once this fails, it may."""
    with pytest.raises(AssertionError, match="Unsupported data type INT2"):
        check_target(TARGETS["portable"], runs=run, decibels=ONE_CODE_DB)


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_unpacking_is_folded_when_the_file_is_loaded(activations: str, tmp_path: Path) -> None:
    written = {}
    for storage in ("packed", "int8"):
        written[storage] = tmp_path / f"{storage}.onnx"
        onnxmpq.compile_model(
            DIGITS, ["8bit-avg"], activations=activations, target="openvino",
            storage=storage, bits=(3, 5, 6, 7), keep=["stage1/*=3", "stage2/*=5", "stage3/*=6", "head=1"], samples=16,
            rounding="nearest", method="size", verify=False, output=written[storage],
        )  # fmt: skip
    left = {storage: kernels(path) for storage, path in written.items()}
    for kind in ("Split", "Eltwise", "Reshape", "Convert", "Subgraph"):
        assert left["packed"][kind] <= left["int8"][kind], kind
    image = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    packed, plain = (run(path, {"image": image})["logits"] for path in written.values())
    np.testing.assert_array_equal(packed, plain)


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["resnet20_cifar10", "mobilenetv2_1.0", "squeezenet1_1"])
def test_real_networks_run_as_in_onnx_runtime(name: str, activations: str, tmp_path: Path) -> None:
    path = shared(f"models/{name}.onnx")
    written = tmp_path / "m.onnx"
    onnxmpq.compile_model(
        path, ["4bit-avg"], activations=activations, target="openvino", samples=8, rounding="nearest", method="size",
        verify=False, force=True, output=written,
    )  # fmt: skip
    (spec,) = Runtime("cpu").session(written).inputs
    shape = [size or 1 for size in spec.shape]
    feeds = {spec.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    expected = Runtime("cpu").session(written).run(feeds)
    for output, value in run(written, feeds).items():
        ratio = signal_to_noise(expected[output], value)
        assert ratio >= (100.0 if activations == "fp32" else 25.0), f"{output}: {ratio:.1f} dB"
    wanted = {"u8", "i8"} if activations == "int8" else {"f32"}
    assert convolutions(written).keys() <= wanted
