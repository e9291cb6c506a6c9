"""Options as a target holds them, and what is said of the change."""

from onnxmpq.place.legalize import legalize
from onnxmpq.values.option import Option
from onnxmpq.values.target import TARGETS

ORT = TARGETS["ort-cpu"]
OPTIONS = {
    "a": tuple(Option(bits, 8) for bits in (2, 3, 4, 6, 8)),
    "b": tuple(Option(bits) for bits in (2, 8)),
    "c": (Option(32),),
}


def test_equal_options_are_one_and_their_order_stays() -> None:
    held, notes = legalize(OPTIONS, ORT.storing("native"))
    assert held["a"] == (Option(4, 8), Option(7, 8, 8))
    assert held["b"] == OPTIONS["b"]
    assert held["c"] == OPTIONS["c"]
    assert (
        notes[0] == "native storage for ort-cpu rounds codes of 2, 3 and 6 bits up to tensors of 4 and 8 bits"
    )
    assert "dequantized at every run" in notes[1]
    assert "within 7 bits" in notes[2]
    assert "--isa vnni" in notes[2]


def test_what_plain_weights_cost_is_said_of_every_target() -> None:
    _, notes = legalize({"b": OPTIONS["b"]}, TARGETS["portable"])
    (said,) = notes
    assert said.startswith(
        "in ONNX Runtime native weights are dequantized at every run where no integer kernel"
    )
    assert "packed" not in said
    assert "packed ones when the file is loaded" in legalize(OPTIONS, ORT.storing("native"))[1][1]
    assert legalize({"c": OPTIONS["c"]}, ORT.storing("native"))[1] == ()


def test_bytes_say_that_they_are_bytes() -> None:
    held, notes = legalize(OPTIONS, ORT.storing("int8").on("vnni"))
    assert [option.weight_bits for option in held["a"]] == [2, 3, 4, 6, 8]
    assert {option.stored_bits for option in held["a"]} == {8}
    assert notes == ("int8 storage spends 8 bits on every weight, whatever the width of its codes",)


def test_what_changes_nothing_says_nothing() -> None:
    assert legalize(OPTIONS, ORT.on("vnni")) == (OPTIONS, ())


def test_float_layers_beside_integer_ones_may_be_held_to_their_rules() -> None:
    held, _ = legalize(OPTIONS, TARGETS["portable"], beside_integers=True)
    assert held["b"] == (Option(4), Option(7, None, 8))
