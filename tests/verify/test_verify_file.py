"""Files that are not what the plan says: each is caught, whatever was changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, numpy_helper

from onnxmpq.context.prepared import Prepared
from onnxmpq.errors import VerifyError
from onnxmpq.normalize.prepare import prepare
from onnxmpq.passes.lower.pack_weights import PackedLayer, PackWeights
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.quantized_weight import QuantizedWeight
from onnxmpq.values.target import TARGETS
from onnxmpq.verify.verify_file import verify_file

RUNTIME = Runtime("cpu", 1)
PLAN = Plan({"h": Option(4), "y": Option(8)})
TEXT = """<ir_version: 13, opset_import: ["" : 25]>
g (float[N, 3, 6, 6] x) => (float[N, 2, 2, 2] y) { h = Conv (x, v) y = Conv (h, w) }"""


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    rng = np.random.default_rng(0)
    model = model_of(
        TEXT,
        v=rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        w=rng.standard_normal((2, 4, 3, 3)).astype(np.float32),
    )
    sample = {"x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32)}
    return prepare(RUNTIME, model, sample, integer=False, batchable=True)


@pytest.fixture(scope="module")
def candidates(prepared: Prepared) -> Candidates:
    return Candidates(prepared.model, "nearest")


Check = Callable[..., None]


@pytest.fixture
def check(prepared: Prepared, candidates: Candidates, tmp_path: Path) -> Check:
    def verify(model: onnx.ModelProto, prepared: Prepared = prepared) -> None:
        onnx.save(model, tmp_path / "m.onnx")
        path = tmp_path / "m.onnx"
        verify_file(path, onnx.load(path), prepared, PLAN, candidates, TARGETS["ort-cpu"], RUNTIME)

    return verify


def packed(prepared: Prepared, weights: dict[str, QuantizedWeight]) -> onnx.ModelProto:
    graph = gs.import_onnx(prepared.model)
    PackWeights({name: PackedLayer(weight, "float") for name, weight in weights.items()}, native2=True)(graph)
    model: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort())
    model.ir_version = 13
    return model


def planned(prepared: Prepared, candidates: Candidates) -> dict[str, QuantizedWeight]:
    return {la.weight: candidates.quantized(la, PLAN[la.name].weight_bits) for la in prepared.layers}


def test_the_plan_itself_passes(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    check(packed(prepared, planned(prepared, candidates)))


def test_wrong_codes(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    weights = planned(prepared, candidates)
    old = weights["w"]
    codes = old.codes.copy()
    codes[0, 0, 0, 0] = -codes[0, 0, 0, 0] or 1
    weights["w"] = QuantizedWeight(codes, old.scale, old.axis, old.bits)
    with pytest.raises(VerifyError, match="codes of layer 'y'"):
        check(packed(prepared, weights))


def test_wrong_scales(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    weights = planned(prepared, candidates)
    old = weights["v"]
    weights["v"] = QuantizedWeight(old.codes, old.scale * np.float32(1.001), old.axis, old.bits)
    with pytest.raises(VerifyError, match="codes of layer 'h'"):
        check(packed(prepared, weights))


def test_wrong_width(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    weights = planned(prepared, candidates)
    layer = next(layer for layer in prepared.layers if layer.weight == "v")
    weights["v"] = candidates.quantized(layer, 5)
    with pytest.raises(VerifyError, match="'h' was to be stored at 4 bits; the file holds 5"):
        check(packed(prepared, weights))


def test_float_where_codes_were_planned(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    weights = planned(prepared, candidates)
    del weights["v"]
    with pytest.raises(VerifyError, match="'h' was to be stored at 4 bits; the file holds 32"):
        check(packed(prepared, weights))


def test_a_changed_interface(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    model = packed(prepared, planned(prepared, candidates))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(VerifyError, match="type or shape of 'x'"):
        check(model)
    model = packed(prepared, planned(prepared, candidates))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 4, 4, 4]))
    with pytest.raises(VerifyError, match=r"inputs or outputs \['h'\], the model \['y'\]"):
        check(model)


def test_a_file_that_does_not_run(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    model = packed(prepared, planned(prepared, candidates))
    model.graph.node[-1].op_type = "MatMul"
    with pytest.raises(VerifyError, match=r"does not run|not valid"):
        check(model)


def test_an_output_that_is_not_finite(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    model = packed(prepared, planned(prepared, candidates))
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), "infinity"))
    last = next(node for node in model.graph.node if "y" in node.output)
    last.output[0] = "finite"
    model.graph.node.append(onnx.helper.make_node("Mul", ["finite", "infinity"], ["y"]))
    with pytest.raises(VerifyError, match="output 'y' of the written file is not finite"):
        check(model)


def test_a_file_that_is_not_valid(prepared: Prepared, candidates: Candidates, check: Check) -> None:
    model = packed(prepared, planned(prepared, candidates))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    with pytest.raises(VerifyError):
        check(model)


def without_layers(prepared: Prepared, original: onnx.ModelProto, x: list[float]) -> Prepared:
    return replace(prepared, original=original, layers=(), sample={"x": np.array(x, np.float32)})


def test_outputs_in_another_order_are_another_interface(prepared: Prepared, check: Check) -> None:
    models = [
        model_of(f"g (float[N] x) => (float[N] {a}, float[N] {b}) {{ y = Relu (x) z = Neg (x) }}")
        for a, b in ("yz", "zy")
    ]
    own = without_layers(prepared, models[0], [1.0])
    check(models[0], own)
    with pytest.raises(VerifyError, match=r"inputs or outputs \['z', 'y'\], the model \['y', 'z'\]"):
        check(models[1], own)


def test_a_rule_that_the_model_broke_before_may_stay_broken(prepared: Prepared, check: Check) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) {
        q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"""
    own = model_of(text, s=np.array(0.1, np.float32), z=np.array(3, np.int8))
    kept = without_layers(prepared, own, [1.0])
    check(own, replace(kept, model=own))
    with pytest.raises(VerifyError, match="'x' is int8, wanted uint8"):
        check(own, kept)


def test_an_output_may_be_as_little_finite_as_the_models(prepared: Prepared, check: Check) -> None:
    root = model_of("g (float[N] x) => (float[N] y) { y = Sqrt (x) }")
    check(root, without_layers(prepared, root, [-1.0]))
    with pytest.raises(VerifyError, match="'y' of the written file is not finite"):
        check(
            root, without_layers(prepared, model_of("g (float[N] x) => (float[N] y) { y = Abs (x) }"), [-1.0])
        )
