"""Methods that take gradients, on networks that are hard to differentiate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmpq.errors import ModelError
from onnxmpq.sensitivity.methods import METHODS, Method
from onnxmpq.sensitivity.methods.first_order import FirstOrder
from onnxmpq.sensitivity.methods.limpq import Limpq
from onnxmpq.sensitivity.step_sizes import StepTraining
from onnxmpq.testing import classifier, labelled, model_of, probe_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.costs import CostTable

GRADIENTS: Mapping[str, Method] = {
    "fisher": METHODS["fisher"],
    "first-order": METHODS["first-order"],
    "elementwise": FirstOrder("elementwise"),
    "limpq": Limpq(StepTraining(least=0, epochs=1)),
}
POOL = "p = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (b)"  # its windows overlap
PAIR = "q = QuantizeLinear (b, s, z)  p = DequantizeLinear (q, s, z)"


def network(middle: str, kind: str = "float", opset: int = 17, **constants: Array) -> onnx.ModelProto:
    """Two convolutions with something between them, and five classes."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(np.float16 if kind == "float16" else np.float32)
    shapes = {"w1": (6, 2, 3, 3), "w2": (8, 6, 1, 1), "w3": (8, 5)}
    weights: dict[str, Array] = {n: rng.normal(0, 0.5, shape).astype(dtype) for n, shape in shapes.items()}
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[N, 2, 6, 6] x) => ({kind}[N, 5] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu (a)  {middle}  c = Conv (p, w2)  r = Relu (c)
        m = GlobalAveragePool (r)  h = Flatten (m)  y = MatMul (h, w3)
    }}"""
    return model_of(text, **weights, **constants)


def costs(method: Method, model: onnx.ModelProto, kind: str = "float32") -> Mapping[str, list[float]]:
    given = network(POOL)  # labels of another network do as well
    arrays = {name: v if name == "labels" else v.astype(kind) for name, v in labelled(given).items()}
    found = method(probe_of(model, arrays))
    assert isinstance(found, CostTable)
    return {name: list(some.values()) for name, some in found.costs.items()}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_pool_whose_windows_overlap_in_an_old_opset(name: str) -> None:
    old, new = (costs(GRADIENTS[name], network(POOL, opset=opset)) for opset in (13, 17))
    assert len(old) == 3
    for layer, values in new.items():
        assert old[layer] == pytest.approx(values)


@pytest.mark.parametrize("name", ["fisher", "first-order", "elementwise"])
def test_a_pool_whose_windows_overlap_in_half_precision(name: str) -> None:
    found = costs(GRADIENTS[name], network(POOL, "float16"), "float16")
    single = costs(GRADIENTS[name], network(POOL))
    for layer, values in single.items():  # at two bits: the others' losses are little above rounding's
        assert found[layer][0] == pytest.approx(values[0], rel=0.3), layer


@pytest.mark.parametrize("name", GRADIENTS)
def test_quantized_activations_let_the_gradient_through(name: str) -> None:
    step, zero = np.array(2**-8, np.float32), np.array(-30000, np.int16)
    plain, paired = network("p = Identity (b)"), network(PAIR, opset=21, s=step, z=zero)
    found, wanted = costs(GRADIENTS[name], paired), costs(GRADIENTS[name], plain)
    assert all(found[layer] == pytest.approx(values, rel=0.1) for layer, values in wanted.items())


BLOCKED = "t = Constant <value_float = 0.5> ()  g1 = Greater (b, t)  p = Cast <to = 1> (g1)"


@pytest.mark.parametrize("name", ["fisher", "first-order", "elementwise"])
def test_a_layer_that_no_gradient_reaches_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=r"no gradient of the loss reaches a: .*--keep 'a=8'"):
        costs(GRADIENTS[name], network(BLOCKED))


def test_a_layer_whose_steps_cannot_be_learned_costs_the_mean() -> None:
    notes: list[str] = []
    model = network(BLOCKED)
    probe = replace(probe_of(model, labelled(network(POOL))), note=notes.append)
    found = GRADIENTS["limpq"](probe)
    assert isinstance(found, CostTable)
    assert notes == ["no gradient of the loss reaches a, which cost the mean of the others"]
    blocked, *others = found.costs.values()
    for option, cost in blocked.items():
        assert cost == pytest.approx(np.mean([some[option] for some in others]))


@pytest.mark.parametrize("method", ["elementwise", "fisher"])
def test_outputs_whose_declared_batch_is_the_exporters(method: str) -> None:
    model = classifier()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    costs = [GRADIENTS[method](probe_of(some, labelled(classifier()))) for some in (model, classifier())]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("method", ["first-order", "limpq", "fisher"])
@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax", "Identity"])
def test_outputs_in_double_precision(method: str, last: str) -> None:
    single, double = classifier(), classifier()
    for model in (single, double):
        made = next(node for node in model.graph.node if node.output[0] == "y")
        made.output[0] = "logits"
        to = TensorProto.DOUBLE if model is double else TensorProto.FLOAT
        model.graph.node.extend(
            [helper.make_node(last, ["logits"], ["last"]), helper.make_node("Cast", ["last"], ["y"], to=to)]
        )
        model.graph.output[0].type.tensor_type.elem_type = to
    arrays = labelled(single)
    costs = [GRADIENTS[method](probe_of(model, arrays)) for model in (single, double)]
    first, second = (
        [cost for options in found.costs.values() for cost in options.values()]  # type: ignore[union-attr]
        for found in costs
    )
    assert first == pytest.approx(second, rel=1e-2)
