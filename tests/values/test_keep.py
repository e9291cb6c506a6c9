import pytest

from onnxmpq.errors import OptionError
from onnxmpq.testing.models import example_layer
from onnxmpq.values.keep import Keep, looser_options, options_of, overridden
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import Option


def layer(name: str, op: str = "Conv", **fields: object) -> Layer:
    return example_layer(name, op, (name,), f"{name}.w", (4, 4), 0, **fields)  # type: ignore[arg-type]


LAYERS = (layer("stem"), layer("body/conv1"), layer("head", "Gemm"))
STUCK = layer("computed", reason="its weight is computed by ConstantOfShape")


def test_without_a_pattern_every_width_is_free() -> None:
    options = options_of(LAYERS, (4, 2), 8, ())
    assert options["stem"] == (Option(2, 8), Option(4, 8))


@pytest.mark.parametrize(
    ("text", "name", "option"),
    [
        ("stem=8", "stem", Option(8, 8)),
        ("stem=8/fp32", "stem", Option(8, None)),
        ("body/*=fp32", "body/conv1", Option(32)),
        ("op:Gemm=fp16", "head", Option(16)),
        ("h*=3/8", "head", Option(3, 8)),
        ("head=8/4", "head", Option(8, 4)),
    ],
)
def test_a_pattern_fixes_what_it_matches(text: str, name: str, option: Option) -> None:
    options = options_of(LAYERS, (2, 4), 8, [Keep.parse(text)])
    assert options[name] == (option,)
    assert all(len(o) == 2 for n, o in options.items() if n != name)


def test_the_last_pattern_counts() -> None:
    keeps = [Keep.parse("*=8"), Keep.parse("head=fp32")]
    assert options_of(LAYERS, (2,), None, keeps)["head"] == (Option(32),)


def test_a_pattern_that_decides_nothing_is_found() -> None:
    keeps = [Keep.parse(text) for text in ("stem=8", "op:Gemm=4", "*=4", "head=fp32")]
    assert overridden(LAYERS, keeps) == keeps[:2]
    assert overridden(LAYERS, keeps[2:]) == []


def test_what_would_allow_more_is_told_in_words() -> None:
    keeps = [Keep.parse("stem=8/fp32"), Keep.parse("head=fp16")]
    looser = dict(looser_options(LAYERS, (2, 4), 8, keeps))
    assert list(looser) == [
        "without --keep 'stem=8/fp32'", "without --keep 'head=fp16'", "with 1 among --bits",
    ]  # fmt: skip
    assert looser["without --keep 'stem=8/fp32'"]["stem"] == (Option(2, 8), Option(4, 8))
    assert looser["without --keep 'stem=8/fp32'"]["head"] == (Option(16),)
    assert looser["with 1 among --bits"]["body/conv1"][0] == Option(1, 8)
    assert list(looser_options(LAYERS, (1, 2), 8, ())) == []


def test_float_activations_stay_float() -> None:
    assert options_of(LAYERS, (2, 4), None, [Keep.parse("stem=8")])["stem"] == (Option(8, None),)


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"'haed' matches no layer; nearest: head"):
        options_of(LAYERS, (4,), None, [Keep.parse("haed=8")])


def test_a_layer_that_cannot_be_quantized_has_no_choice() -> None:
    assert options_of((STUCK,), (4,), 8, ())["computed"] == (Option(32),)
    assert options_of((STUCK,), (4,), 8, [Keep.parse("*=fp32")])["computed"] == (Option(32),)


def test_demanding_a_width_by_name_of_such_a_layer_is_refused_but_a_sweep_passes_it_by() -> None:
    with pytest.raises(OptionError, match="ConstantOfShape"):
        options_of((STUCK,), (4,), 8, [Keep.parse("computed=4")])


def test_control_flow_bodies_take_weights_only() -> None:
    inner = layer("inner", weights_only=True)
    assert options_of((inner,), (4,), 8, ())["inner"] == (Option(4, None),)
    with pytest.raises(OptionError, match="weights only"):
        options_of((inner,), (4,), 8, [Keep.parse("inner=4/8")])


@pytest.mark.parametrize(
    "text", ["stem", "=8", "stem=9", "stem=int8", "stem=8/2", "stem=", "stem=fp16/8", "stem=fp32/8"]
)
def test_other_words_are_usage_errors(text: str) -> None:
    with pytest.raises(OptionError, match="--keep"):
        Keep.parse(text)


def test_widths_of_16_and_32_let_a_layer_compute_in_float() -> None:
    options = options_of(LAYERS, (32, 4, 16), 8, [Keep.parse("head=4")])
    assert options["stem"] == (Option(4, 8), Option(16), Option(32))
    assert options["head"] == (Option(4, 8),)
    half = layer("half", float_bits=16)
    assert options_of((half,), (4, 16, 32), None, ())["half"] == (Option(4), Option(16))


def test_a_container_is_not_the_users_to_name() -> None:
    with pytest.raises(OptionError, match="--storage decides"):
        Keep.parse("stem=4in8")
