"""The table holds every operator that it must, and each of them is named in a test of its gradient."""

import re
from pathlib import Path

import pytest

from onnxmpq.passes.gradients.rules import RULES, VARIADIC_RULES

WANTED = [
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log",
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu", "Erf",
    "Softmax", "LogSoftmax", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
    "AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean", "ReduceSum", "Concat", "Split", "Slice",
    "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Resize", "DepthToSpace",
    "Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear",
]  # fmt: skip
OTHERS = [path for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in OTHERS)


@pytest.mark.parametrize("op", WANTED)
def test_an_operator_that_gradients_must_pass_has_a_rule(op: str) -> None:
    assert op in RULES or op in VARIADIC_RULES


@pytest.mark.parametrize("op", [*RULES, *VARIADIC_RULES])
def test_a_rule_is_named_in_a_test(op: str) -> None:
    assert re.search(rf"\b{op}\b", TESTS)
