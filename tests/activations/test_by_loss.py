from collections.abc import Mapping

from onnxmpq.activations.by_loss import IntegerInput, Layers, Network, costly


def network(
    losses: Mapping[str, float], work: Mapping[str, float], rest: float = 0.0, much: float = 1.5
) -> Network:
    """Losses that add up over the layers in integers, beside the `rest` that the weights lose."""

    def total(amounts: Mapping[str, float], floats: Layers) -> float:
        return sum(amount for name, amount in amounts.items() if name not in floats)

    def share(floats: Layers) -> float:
        return sum(work[name] for name in floats)

    return Network(lambda floats: rest + total(losses, floats), share, much)


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


def test_as_far_along_as_it_pays() -> None:
    losses, work = {"worst": 0.9, "next": 0.09, "a": 0.01}, {"worst": 0.02, "next": 0.03, "a": 0.95}
    assert costly(inputs(losses), network(losses, work)) == {"worst", "next"}


def test_where_the_function_suffers_more_work_is_given_up() -> None:
    losses, work = {"a": 0.3, "b": 0.3, "c": 0.4}, {"a": 0.1, "b": 0.1, "c": 0.8}
    assert not costly(inputs(losses), network(losses, work, rest=0.3))
    assert costly(inputs(losses), network(losses, work, rest=0.3, much=0.7)) == {"a", "b"}


def test_where_the_weights_do_it_no_more_is_given_up() -> None:
    losses, work = {"a": 0.3, "b": 0.3, "c": 0.4}, {"a": 0.1, "b": 0.1, "c": 0.8}
    assert not costly(inputs(losses), network(losses, work, rest=3.0, much=0.7))


def test_nothing_more_is_given_up_than_what_helps() -> None:
    losses, work = {"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}
    found = costly(inputs(losses), network(losses, work, rest=50.0, much=0.1))
    assert not found


def test_a_network_that_gives_no_numbers_is_no_choice() -> None:
    def loss(floats: Layers) -> float:
        return 0.1 if floats == {"a"} else float("nan")

    share = network({}, {"a": 0.1, "b": 0.9}).share
    assert costly(inputs({"a": 0.9, "b": 0.1}), Network(loss, share, 1.5)) == {"a"}


def test_the_makers_go_too_where_their_codes_are_what_costs() -> None:
    """The reader's input is quantized by the kernel that makes it: in float it changes nothing alone."""

    def loss(floats: Layers) -> float:
        return 0.1 if {"reader", "maker"} <= floats else 1.0

    share = network({}, {"reader": 0.01, "maker": 0.02, "a": 0.97}).share
    found = costly(inputs({"reader": 0.9, "a": 0.1}, {"reader": "maker"}), Network(loss, share, 1.5))
    assert found == {"reader", "maker"}


def test_trials_that_do_not_help_change_nothing() -> None:
    share = network({}, {"a": 0.01, "b": 0.99}).share
    assert not costly(inputs({"a": 0.9, "b": 0.1}), Network(lambda _: 1.0, share, 1.5))


def test_layers_of_one_input_go_together() -> None:
    """The tensor stays quantized as long as one of them reads its codes."""

    def loss(floats: Layers) -> float:
        return 0.1 if {"query", "key"} <= floats else 1.0

    read = IntegerInput(Layers(["query", "key"]), Layers(), 0.9)
    assert costly([read], Network(loss, network({}, {"query": 0.02, "key": 0.02, "a": 0.96}).share, 1.5)) == {
        "query",
        "key",
    }
