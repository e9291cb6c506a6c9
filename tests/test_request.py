"""What is asked is checked before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxmpq.budgets.budget import Budget
from onnxmpq.errors import OptionError
from onnxmpq.request import (
    Request,
    default_output,
    parse_budgets,
    parse_keeps,
    parse_target,
    parse_widths,
    protected,
)
from onnxmpq.sensitivity.methods import METHODS, Method
from onnxmpq.sensitivity.methods.ompq import as_published
from onnxmpq.values.activation_range import CodeType
from onnxmpq.values.keep import Keep
from onnxmpq.values.target import find_target

Ask = Callable[..., Request]
PORTABLE = find_target("portable")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": ()}, "no budget was given"),
        ({"rounding": "up"}, "choose compensated or nearest"),
        ({"activations": "int2"}, "choose auto, int8, dynamic, int16, int4, fp32"),
        (
            {"keeps": parse_keeps(["stem=8/16"])},
            "--keep 'stem=8/16' beside activations of 8 bits.*write /8 or /fp32",
        ),
        (
            {"activations": "int16", "target": PORTABLE, "keeps": parse_keeps(["stem=8/8"])},
            "write /16 or /fp32",
        ),
    ],
)
def test_choices_that_make_no_sense(asked: Ask, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        asked(**changes)


@pytest.mark.parametrize("bits", [(), (9,), (4, 33)])
def test_widths_that_cannot_be_stored(bits: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="widths"):
        parse_widths(bits, ())


def test_float_is_a_width_where_a_file_is_measured() -> None:
    assert parse_widths((8, 4, 4), parse_budgets(["25%"])) == (4, 8)
    for budget in ("drop=1%", "latency=0.7x"):
        assert parse_widths((8, 4), parse_budgets([budget])) == (4, 8, 32)


def test_text_becomes_values_and_values_stay() -> None:
    budget, keep = Budget.parse("8x"), Keep.parse("stem=8")
    assert parse_budgets([budget, "8x"]) == (budget, budget)
    for alone in ("8x", budget):
        assert parse_budgets(alone) == (budget,)
    assert parse_keeps([keep, "stem=8"]) == (keep, keep)
    target = parse_target("ort-cpu", "native", "vnni")
    assert (target.name, target.stored_as, target.weights.code_bits) == ("ort-cpu", "native", 8)


def test_the_data_decide_on_activations_where_nobody_did(asked: Ask) -> None:
    for synthetic, bits in ((True, None), (False, 8)):
        assert asked(activations=None).decided(synthetic=synthetic).activation_bits == bits
        assert asked(activations="int8").decided(synthetic=synthetic).activation_bits == 8
        assert asked(activations="fp32").decided(synthetic=synthetic).activation_bits is None


@pytest.mark.parametrize("activations", ["fp32", "auto"])
def test_activations_in_float_are_for_targets_that_take_integer_weights_beside_them(activations: str) -> None:
    assert parse_target("portable", None, "any", activations).name == "portable"
    with pytest.raises(OptionError, match="choose int8 or int16"):
        parse_target("qnn", None, "any", activations)


def test_without_data_activations_are_quantized_where_weights_can_be_then_only(asked: Ask) -> None:
    for name, activations in (("portable", "fp32"), ("qnn", "int8")):
        request = asked(target=find_target(name), activations=None)
        assert request.decided(synthetic=True).quantizers.activations == activations


def test_activations_are_as_wide_as_asked_where_the_target_has_them(asked: Ask) -> None:
    wide = asked(activations="int16", target=PORTABLE, keeps=parse_keeps(["stem=8/16", "head=8/fp32"]))
    assert (wide.activation_bits, wide.codes.bits, wide.codes.signed) == (16, 16, False)
    with pytest.raises(
        OptionError, match=r"ort-cpu has no kernels for 16-bit activations.* such as portable"
    ):
        parse_target("ort-cpu", None, "any", "int16")
    only = PORTABLE.computing(16)
    assert asked(activations=None, target=only).decided(synthetic=False).activation_bits == 16
    assert asked().codes == CodeType(8)  # of what is quantized by --keep


def test_budgets_that_only_a_run_can_tell_of(asked: Ask) -> None:
    found = [asked(budgets=parse_budgets([text])) for text in ("4bit-avg", "drop=1%", "latency=0.7x")]
    assert [(request.is_measured, request.is_timed) for request in found] == [
        (False, False), (True, False), (True, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "storage", "words"),
    [
        ("openvino", None, "files for target openvino run elsewhere; use --target ort-cpu"),
        ("ort-cuda", None, "files for target ort-cuda run elsewhere"),
        ("ort-cpu", "native", "native weights are not: .* use --storage packed or int8"),
    ],
)
def test_latency_budgets_are_for_what_is_timed_here(
    asked: Ask, target: str, storage: str | None, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        asked(budgets=parse_budgets(["latency=0.7x"]), target=parse_target(target, storage, "any"))
    assert asked(budgets=parse_budgets(["8x"]), target=parse_target(target, storage, "any"))


def test_what_is_read_is_never_written_over() -> None:
    model = Path("there") / "m.onnx"
    assert default_output(model) == Path("there") / "m.mpq.onnx"
    assert protected(model, "some.npz", "data.py:samples", None, {}) == [
        model, Path("there") / "m.calib.npz", Path("there") / "m.eval.npz", Path("some.npz"), Path("data.py"),
    ]  # fmt: skip


@pytest.mark.parametrize("method", [METHODS["greedy"], METHODS["semilayer"], as_published])
def test_a_search_of_its_own_knows_no_times(asked: Callable[..., Request], method: Method) -> None:
    with pytest.raises(OptionError, match="searches a path of its own, which knows no times"):
        asked(budgets=parse_budgets(["latency=0.7x"]), method=method)
