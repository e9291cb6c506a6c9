"""Files that break a rule of their target: each rule is caught on a file that kept it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmpq
from onnxmpq.errors import VerifyError
from onnxmpq.values.arrays import Array
from onnxmpq.values.target import TARGETS
from onnxmpq.verify import verify_file as verify
from onnxmpq.verify.rules import broken_rules, channel_axis

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"
Break = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """A file for each target."""
    folder = tmp_path_factory.mktemp("files")
    for name in TARGETS:
        onnxmpq.compile_model(
            DIGITS, ["8bit-avg"], target=name, bits=(3, 8), keep=["stage3/*=3"], samples=8, rounding="nearest",
            method="size", verify=False, activations="int8", output=folder / f"{name}.onnx",
        )  # fmt: skip
    return {name: onnx.load(folder / f"{name}.onnx") for name in TARGETS}


def constant(model: onnx.ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def first(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(n for n in model.graph.node if n.op_type == op)
    return found


def set_values(tensor: TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def test_what_is_written_keeps_the_rules(files: dict[str, onnx.ModelProto]) -> None:
    for name, model in files.items():
        assert broken_rules(model, TARGETS[name]) == []


def test_a_file_for_one_target_is_not_one_for_another(files: dict[str, onnx.ModelProto]) -> None:
    assert any("unpacks" in fault for fault in broken_rules(files["ort-cpu"], TARGETS["tensorrt"]))
    assert any("UINT2" in fault for fault in broken_rules(files["ort-cpu"], TARGETS["openvino"]))
    assert any("wanted int8" in fault for fault in broken_rules(files["portable"], TARGETS["tensorrt"]))
    assert any("INT4" in fault for fault in broken_rules(files["portable"], TARGETS["tensorrt"]))
    assert any("wanted uint8" in fault for fault in broken_rules(files["tensorrt"], TARGETS["portable"]))


def test_activations_are_as_wide_as_the_target_computes(files: dict[str, onnx.ModelProto]) -> None:
    wide = onnx.ModelProto.FromString(files["portable"].SerializeToString())
    for node in wide.graph.node:
        if node.op_type == "QuantizeLinear":
            set_values(constant(wide, node.input[2]), np.array(3, np.uint16))
    assert broken_rules(wide, TARGETS["portable"]) == []
    assert any("is uint16, wanted uint8" in fault for fault in broken_rules(wide, TARGETS["openvino"]))


def raise_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 26


def lower_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 8


def shift_zero_point(model: onnx.ModelProto) -> None:
    set_values(constant(model, first(model, "QuantizeLinear").input[2]), np.array(3, np.int8))


def quantize_by_channel(model: onnx.ModelProto) -> None:
    set_values(constant(model, first(model, "QuantizeLinear").input[1]), np.array([0.1, 0.2], np.float32))


def lose_the_scale(model: onnx.ModelProto) -> None:
    set_values(constant(model, first(model, "QuantizeLinear").input[1]), np.array(np.nan, np.float32))


def zero_the_scale(model: onnx.ModelProto) -> None:
    set_values(constant(model, first(model, "QuantizeLinear").input[1]), np.array(0, np.float32))


def part_the_pair(model: onnx.ModelProto) -> None:
    node = first(model, "QuantizeLinear")
    other = TensorProto()
    other.CopyFrom(constant(model, node.input[1]))
    other.name = "another_scale"
    model.graph.initializer.append(other)
    next(n for n in model.graph.node if n.input[0] == node.output[0]).input[1] = other.name


def compute_the_codes(model: onnx.ModelProto) -> None:
    node = next(
        n
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and "axis" in {a.name for a in n.attribute}
    )
    model.graph.node.insert(0, helper.make_node("Identity", [node.input[0]], ["computed"]))
    node.input[0] = "computed"


def turn_the_scales(model: onnx.ModelProto) -> None:
    """A square weight whose scales run along the other axis."""
    weights = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in weights:
            shape = constant(model, node.input[0]).dims
            if shape[0] == shape[1]:
                node.attribute[0].i = 1
                return


def widen_the_codes(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.attribute)
    tensor = constant(model, node.input[0])
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = 100
    set_values(tensor, values)


def narrow_the_tensor(model: onnx.ModelProto) -> None:
    """Of four bits to two, which the target reads beside float activations only."""
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.INT4)
    tensor.data_type, tensor.raw_data = TensorProto.INT2, tensor.raw_data[::2]


def negate_a_scale(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.attribute)
    tensor = constant(model, node.input[1])
    set_values(tensor, -numpy_helper.to_array(tensor))


def zero_a_scale(model: onnx.ModelProto) -> None:
    """Of all that are stored in half precision."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            set_values(tensor, 0 * numpy_helper.to_array(tensor))


def compute_a_scale(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.attribute)
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [node.input[1]], ["a_scale"]))
    node.input[1] = "a_scale"


def leave_out_the_zero_points(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.attribute)
    del node.input[2]


def read_in_float(model: onnx.ModelProto) -> None:
    """The first layer reads what its input was before it was quantized."""
    first(model, "Conv").input[0] = model.graph.input[0].name


def result_in_float(model: onnx.ModelProto) -> None:
    """The last layer gives the graph's output itself."""
    dequantize, quantize = model.graph.node[-1], model.graph.node[-2]
    layer = next(n for n in model.graph.node if quantize.input[0] in n.output)
    layer.output[0] = dequantize.output[0]
    del model.graph.node[-2:]


@pytest.mark.parametrize(
    ("target", "change", "words"),
    [
        ("tensorrt", raise_opset, "opset 26 is above 25"),
        ("tensorrt", lower_opset, "opset 8 is below 9"),
        ("tensorrt", shift_zero_point, "the zero point 3, wanted 0"),
        ("tensorrt", quantize_by_channel, "has 2 scales"),
        ("tensorrt", lose_the_scale, "the scale nan"),
        ("tensorrt", zero_the_scale, "the scale 0.0"),
        ("tensorrt", part_the_pair, "another scale or zero point"),
        ("ort-cpu", part_the_pair, "another scale or zero point"),
        ("tensorrt", compute_the_codes, "are computed"),
        ("portable", turn_the_scales, "scales along axis 1, wanted 0"),
        ("portable", widen_the_codes, "codes beyond -64 to 63"),
        ("portable", narrow_the_tensor, "is read as INT2 beside quantized activations"),
        ("tensorrt", negate_a_scale, "has scales below zero"),
        ("portable", compute_a_scale, "the scales of"),
        ("portable", leave_out_the_zero_points, "has no zero points"),
        ("qnn", leave_out_the_zero_points, "has no zero points"),
        ("qnn", read_in_float, "is read beside activations in float"),
        ("qnn", result_in_float, "goes into a layer whose result is not quantized"),
        ("ort-cpu", zero_a_scale, "scales that are zero or no numbers"),
    ],
)
def test_a_broken_rule_is_said(
    files: dict[str, onnx.ModelProto], target: str, change: Break, words: str
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(files[target])
    change(model)
    assert any(words in fault for fault in broken_rules(model, TARGETS[target])), broken_rules(
        model, TARGETS[target]
    )


@pytest.mark.parametrize(
    ("op", "inputs", "rank", "axis"),
    [
        ("Conv", "xw", 4, 0),
        ("ConvTranspose", "xw", 4, 1),
        ("Gemm", "xw", 2, 1),
        ("MatMul", "xw", 3, 2),
        ("MatMul", "wx", 2, None),
    ],
)
def test_where_each_operator_has_its_output_channels(
    op: str, inputs: str, rank: int, axis: int | None
) -> None:
    assert channel_axis(helper.make_node(op, list(inputs), ["y"]), "w", rank) == axis


def test_a_transposed_gemm_has_its_output_channels_first() -> None:
    assert channel_axis(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), "w", 2) == 0


def test_a_compile_does_not_leave_a_file_that_breaks_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: onnx.ModelProto, _target: object) -> list[str]:
        return ["it is wrong"] if model.producer_name == "onnxmpq" and model.metadata_props else []

    monkeypatch.setattr(verify, "broken_rules", broken)
    with pytest.raises(VerifyError, match="rules of target ort-cpu: it is wrong"):
        onnxmpq.compile_model(
            DIGITS, ["4bit-avg"], samples=8, rounding="nearest", method="size", output=tmp_path / "m.onnx"
        )
    assert not (tmp_path / "m.onnx").exists()


def test_a_float_layer_between_integer_ones_may_use_all_its_bits(tmp_path: Path) -> None:
    for target in ("ort-cpu", "portable"):
        report = onnxmpq.compile_model(
            DIGITS, ["8bit-avg"], target=target, bits=(8,), keep=["stage2/fire/*=8/fp32"], samples=8, activations="int8",
            rounding="nearest", method="size", output=tmp_path / f"{target}.onnx",
        )  # fmt: skip
        kept = {la.weight_bits for la in report.layers if la.activation_bits is None}
        assert kept == (
            {8} if target == "ort-cpu" else {7}
        )  # a plain file does not tell it from an integer layer
