"""Targets: what each makes of an option, that every built-in passes its battery, and a third party's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmpq.errors import MissingFileError, OptionError
from onnxmpq.testing import check_target
from onnxmpq.values.option import Option
from onnxmpq.values.target import STORAGES, TARGETS, ActivationRules, Target, WeightRules, find_target

ORT = TARGETS["ort-cpu"]
FLOAT, INTEGER = None, 8


def held(target: Target, storage: str, activation: int | None) -> list[str]:
    """What becomes of the widths 1 to 8."""
    return [str(target.storing(storage).legalize(Option(bits, activation))) for bits in range(1, 9)]


@pytest.mark.parametrize("name", TARGETS)
def test_every_built_in_target_passes_the_battery(name: str) -> None:
    check_target(TARGETS[name])


def test_packed_weights_take_their_own_width() -> None:
    assert held(ORT, "packed", FLOAT) == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert held(ORT, "packed", INTEGER) == ["1/8", "2/8", "3/8", "4/8", "5/8", "6/8", "7/8", "7/8"]


def test_native_weights_are_rounded_up_to_a_tensor() -> None:
    assert held(ORT, "native", FLOAT) == ["2", "2", "4", "4", "8", "8", "8", "8"]
    assert (
        held(ORT, "native", INTEGER) == ["4/8"] * 4 + ["7in8/8"] * 4
    )  # INT2 is refused beside int8 activations
    assert held(TARGETS["openvino"], "native", FLOAT) == ["4"] * 4 + ["8"] * 4
    assert held(TARGETS["tensorrt"], "native", INTEGER) == ["8/8"] * 8


def test_bytes_hold_codes_of_every_width() -> None:
    assert held(ORT, "int8", FLOAT) == [*(f"{bits}in8" for bits in range(1, 8)), "8"]
    assert held(ORT, "int8", INTEGER)[-2:] == ["7in8/8", "7in8/8"]


def test_vnni_lifts_the_limit_on_codes() -> None:
    assert held(ORT.on("vnni"), "packed", INTEGER)[-1] == "8/8"
    assert held(ORT.on("any"), "packed", INTEGER)[-1] == "7/8"
    assert TARGETS["ort-cuda"].on("any").weights.code_bits == 8  # never narrower than the target asks


def test_seven_bits_are_what_saturating_kernels_sum_exactly() -> None:
    """vpmaddubsw adds two products of uint8 and int8 in int16, saturating."""
    limits = np.iinfo(np.int16)
    for bits, exact in ((7, True), (8, False)):
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        assert (2 * 255 * low >= limits.min and 2 * 255 * high <= limits.max) == exact


def test_layers_in_float_are_held_as_they_are_unless_told() -> None:
    assert ORT.legalize(Option(32)) == Option(32)
    assert ORT.legalize(Option(16)) == Option(16)
    assert ORT.legalize(Option(8), beside_integers=True) == Option(7)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"storages": ()}, "storages must"),
        ({"storages": ("zipped",)}, "storages must"),
        ({"tensor_bits": (4, 2)}, "tensor_bits must"),
        ({"tensor_bits": (8, 3)}, "tensor_bits must"),
        ({"direct_bits": (4,)}, "direct_bits must"),
        ({"tensor_bits": (8,)}, "direct_bits must"),
        ({"folds": False}, "packed weights need"),
        ({"code_bits": 6}, r"code_bits=6.*: code_bits must be 7 or 8; see docs/targets.md"),
    ],
)
def test_rules_for_weights_that_contradict_each_other(rules: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        WeightRules(**rules)


@pytest.mark.parametrize("bits", [(), (8, 5)])
def test_widths_of_activations_that_there_are_not(bits: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="bits must be some of 4, 8 and 16"):
        ActivationRules(bits)


@pytest.mark.parametrize(
    ("opsets", "bits", "words"),
    [
        ((7, 12), (8,), "target 'dsp' of opsets 7 to 12: the highest opset must be 13"),
        ((7, 20), (8, 16), "highest opset of 21"),
        ((26, 25), (8,), "no more than the highest"),
    ],
)
def test_opsets_that_hold_too_little(opsets: tuple[int, int], bits: tuple[int, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Target("dsp", "a signal processor", activations=ActivationRules(bits), opsets=opsets)


def test_choices_that_a_target_has_not() -> None:
    with pytest.raises(OptionError, match="native or int8"):
        TARGETS["tensorrt"].storing("packed")
    with pytest.raises(OptionError, match="any or vnni"):
        ORT.on("sse2")
    assert ORT.storing(None) is ORT
    assert ORT.storing("int8").weights.storages == ("int8", "packed", "native")  # the others are still read
    assert [target.stored_as for target in TARGETS.values()] == [
        "packed",
        "packed",
        "packed",
        "packed",
        "native",
        "native",
        "native",
    ]
    assert set(STORAGES) == {"packed", "native", "int8"}


def test_integer_weights_beside_integer_activations_alone() -> None:
    """The HTP has no DequantizeLinear of its own for weights of many scales."""
    qnn = TARGETS["qnn"]
    assert qnn.legalize(Option(4)) == Option(32)
    assert qnn.computing(16).legalize(Option(2, 16)) == Option(4, 16)
    assert qnn.computing(8).legalize(Option(5, 8)) == Option(8, 8)  # nothing saturates there
    with pytest.raises(OptionError, match="beside integer activations alone; choose int8 or int16"):
        qnn.in_float()
    assert ORT.in_float() is ORT


DSP = """
from onnxmpq import ActivationRules, Target, WeightRules
DSP = Target(
    "dsp", "a signal processor",
    WeightRules(("native",), tensor_bits=(8, 4), folds=False),
    ActivationRules((8, 16, 4), signed=True),
    opsets=(7, 21),
)
NUMBER = 3
"""


def test_a_third_partys_target(tmp_path: Path) -> None:
    path = tmp_path / "my_target.py"
    path.write_text(DSP, encoding="utf-8")
    found = find_target(f"{path}:DSP")
    assert (found.name, found.stored_as) == ("dsp", "native")
    check_target(found)
    with pytest.raises(OptionError, match="is a int; wanted"):
        find_target(f"{path}:NUMBER")
    with pytest.raises(MissingFileError):
        find_target(f"{tmp_path / 'other.py'}:DSP")
    with pytest.raises(
        OptionError, match="ort-cpu, ort-cpu-tokens, ort-cuda, openvino, tensorrt, portable, qnn"
    ):
        find_target("ort")


def test_codes_beside_wide_activations_have_all_their_bits() -> None:
    portable = TARGETS["portable"]
    assert portable.computing(8).legalize(Option(8, 8)) == Option(7, 8, 8)
    assert portable.computing(16).legalize(Option(8, 16)) == Option(8, 16)
    assert portable.computing(16).activations.bits == (16,)
    with pytest.raises(OptionError, match="tensorrt has no kernels for 16-bit activations"):
        TARGETS["tensorrt"].computing(16)


def test_the_battery_finds_a_target_that_does_not_hold_what_it_says() -> None:
    wrong = Target(
        "wrong", "says that it runs opset 13 only", WeightRules(("native",), folds=False), opsets=(7, 13)
    )
    with pytest.raises(AssertionError, match=r"wrong, native, 1 bits, fp32 activations: .*opset"):
        check_target(wrong)
    with pytest.raises(AssertionError, match="agrees to"):
        check_target(ORT, runs=lambda _, feeds: {"y": np.zeros((len(feeds["x"]), 7), np.float32)})


@pytest.mark.parametrize(
    ("opset", "tensors", "wide", "storages"),
    [
        (25, (8, 4, 2), False, ("packed", "native", "int8")),
        (24, (8, 4), False, ("packed", "native", "int8")),
        (20, (8,), False, ("packed", "native", "int8")),
        (17, (8,), True, ("packed", "native", "int8")),
        (13, (8,), True, ("native", "int8")),
    ],
)
def test_files_of_older_opsets_do_without_what_came_later(
    opset: int, tensors: tuple[int, ...], wide: bool, storages: tuple[str, ...]
) -> None:
    fitted = TARGETS["ort-cpu"].within(opset)
    assert fitted.opsets[1] == opset
    weights = fitted.weights
    assert (weights.tensor_bits, weights.wide, weights.storages) == (tensors, wide, storages)
    assert set(weights.direct_bits) <= set(tensors)
    assert TARGETS["ort-cpu"].within(30) == TARGETS["ort-cpu"]
