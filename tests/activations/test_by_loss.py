from collections.abc import Mapping

from onnxmpq.activations.by_loss import IntegerInput, Layers, Network, costly


def network(losses: Mapping[str, float], work: Mapping[str, float], rest: float = 0.0) -> Network:
    """Losses that add up over the layers in integers."""

    def total(amounts: Mapping[str, float], floats: Layers) -> float:
        return sum(amount for name, amount in amounts.items() if name not in floats)

    return Network(lambda floats: rest + total(losses, floats), lambda floats: total(work, floats))


def inputs(losses: Mapping[str, float], makers: Mapping[str, str] | None = None) -> list[IntegerInput]:
    made = makers or {}
    return [
        IntegerInput(Layers([name]), Layers([made[name]] if name in made else []), loss)
        for name, loss in losses.items()
    ]


def test_a_layer_of_much_loss_and_little_work_goes_to_float() -> None:
    losses, work = {"stem": 0.7, "a": 0.1, "b": 0.2}, {"stem": 0.02, "a": 0.28, "b": 0.7}
    assert costly(inputs(losses), network(losses, work)) == {"stem"}


def test_a_layer_that_does_much_of_the_work_stays() -> None:
    losses, work = {"a": 0.9, "b": 0.1}, {"a": 0.5, "b": 0.5}
    assert not costly(inputs(losses), network(losses, work))


def test_next_to_coarse_weights_nothing_is_spared() -> None:
    losses, work = {"stem": 0.7, "a": 0.1, "b": 0.2}, {"stem": 0.02, "a": 0.28, "b": 0.7}
    assert not costly(inputs(losses), network(losses, work, rest=20.0))


def test_what_remains_weighs_more_once_the_worst_is_gone() -> None:
    losses, work = {"worst": 0.9, "next": 0.05, "a": 0.05}, {"worst": 0.02, "next": 0.03, "a": 0.95}
    assert costly(inputs(losses), network(losses, work)) == {"worst", "next"}


def test_the_makers_go_too_where_their_codes_are_what_costs() -> None:
    """The reader's input is quantized by the kernel that makes it: in float it changes nothing alone."""

    def loss(floats: Layers) -> float:
        return 0.1 if {"reader", "maker"} <= floats else 1.0

    work = network({}, {"reader": 0.01, "maker": 0.02, "a": 0.97}).work
    found = costly(inputs({"reader": 0.9, "a": 0.1}, {"reader": "maker"}), Network(loss, work))
    assert found == {"reader", "maker"}


def test_trials_that_do_not_help_change_nothing() -> None:
    work = network({}, {"a": 0.01, "b": 0.99}).work
    assert not costly(inputs({"a": 0.9, "b": 0.1}), Network(lambda _: 1.0, work))


def test_layers_of_one_input_go_together() -> None:
    """The tensor stays quantized as long as one of them reads its codes."""

    def loss(floats: Layers) -> float:
        return 0.1 if {"query", "key"} <= floats else 1.0

    read = IntegerInput(Layers(["query", "key"]), Layers(), 0.9)
    assert costly([read], Network(loss, network({}, {"query": 0.02, "key": 0.02, "a": 0.96}).work)) == {
        "query",
        "key",
    }
