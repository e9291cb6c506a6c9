import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import DataError, MissingFileError, OptionError
from onnxmpq.values.keep import options_of
from onnxmpq.values.layer import Layer, matrix
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.plan_file import PlanFile


def layer(name: str, reason: str | None = None) -> Layer:
    return Layer(name, "MatMul", (name,), f"{name}.w", (4, 4), matrix(1), reason=reason)


LAYERS = [layer("stem"), layer("a[0]*"), layer("head"), layer("odd", reason="its weight is a vector")]
PLAN = Plan({"stem": Option(7, 8, 8), "a[0]*": Option(4), "head": Option(32), "odd": Option(32)})


def saved(folder: Path, text: str) -> Path:
    file = folder / "plan.json"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    file = saved(tmp_path, PlanFile.of(PLAN, "int8").text)
    found = PlanFile.read(file)
    assert found.layers == {"stem": "7/8", "a[0]*": "4/fp32", "head": "fp32", "odd": "fp32"}
    found.check(LAYERS)
    options = options_of(LAYERS, (4, 8), 8, found.keeps)
    assert options == {
        "stem": (Option(7, 8),),
        "a[0]*": (Option(4),),
        "head": (Option(32),),
        "odd": (Option(32),),
    }


def test_without_integers_a_width_is_a_number_alone() -> None:
    assert PlanFile.of(Plan({"a": Option(4), "b": Option(16)}), "fp32").layers == {"a": "4", "b": "fp16"}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.sampled_from([Option(3), Option(5, 8), Option(16)]), min_size=1
    )
)
def test_any_names(options: dict[str, Option]) -> None:
    layers = [layer(name) for name in options]
    file = PlanFile.of(Plan(options), "int8")
    assert json.loads(file.text)["layers"] == file.layers
    file.check(layers)
    assert {name: (option,) for name, option in options.items()} == options_of(layers, (4,), 8, file.keeps)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"stem": "4", "a[0]*": "4", "haed": "4"}, r"has no layer 'haed'; nearest: head"),
        ({"stem": "4", "head": "4"}, r"says nothing of layer 'a\[0\]\*'"),
        (
            {"stem": "4", "a[0]*": "4", "head": "4", "odd": "4"},
            r"layer 'odd' '4', but it stays as it is: its weight is a vector",
        ),
        ({"stem": "9", "a[0]*": "4", "head": "4"}, r"gives layer 'stem' '9': .*not a width"),
    ],
)
def test_the_first_layer_that_does_not_fit_is_named(layers: dict[str, str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        PlanFile("fp32", layers).check(LAYERS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no plan of version 1"),
        ('{"onnxmpq plan": 2, "activations": "int8", "layers": {"a": "4"}}', "is no plan of version 1"),
        ('{"onnxmpq plan": 1, "layers": {"a": "4"}}', "lacks 'activations'"),
        (
            '{"onnxmpq plan": 1, "activations": "int8", "layers": {}}',
            "lacks 'activations', a word, or 'layers'",
        ),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        PlanFile.read(saved(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="--save-plan writes one"):
        PlanFile.read(tmp_path / "none.json")
