"""Every method, built in or in a file of its own, meets the battery; the battery finds what is wrong with one."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq.allocate.choose import choose_plan
from onnxmpq.allocate.follow import follow
from onnxmpq.budgets.budget import Budget
from onnxmpq.data import Dataset
from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import Metric
from onnxmpq.sensitivity.answer import fault
from onnxmpq.sensitivity.methods import (
    METHODS,
    Method,
    check_data,
    find_method,
    ignores_training,
    is_demanding,
)
from onnxmpq.sensitivity.methods.csmpq import Csmpq
from onnxmpq.sensitivity.methods.first_order import FORMS, FirstOrder
from onnxmpq.sensitivity.methods.greedy import Greedy
from onnxmpq.sensitivity.methods.limpq import Limpq
from onnxmpq.sensitivity.methods.measured import measured
from onnxmpq.sensitivity.methods.ompq import Ompq
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.step_sizes import StepTraining
from onnxmpq.testing import check_method, classifier, labelled, probe_of
from onnxmpq.values.costs import CostTable, Sensitivity, Trajectory
from onnxmpq.values.group import Unit, channels_of, divided, layer_of
from onnxmpq.values.option import Option
from onnxmpq.values.plan import Plan

KURTOSIS = '''
"""A method in one file: layers with heavy tails are sensitive."""
import numpy as np
from onnxmpq import CostTable, Dataset, Metric

def kurtosis(probe):
    costs = {}
    for layer in probe.layers:
        if layer.name in probe.options:
            options = probe.options[layer.name]
            weight = probe.candidate(layer, 8)[layer.weight].ravel()
            tails = float(np.mean(weight**4) / np.mean(weight**2) ** 2)
            costs[layer.name] = {option: tails * 4.0**-option.weight_bits for option in options}
    return CostTable(costs, "tails", "kurtosis", 0)
'''


def with_channels_permuted() -> onnx.ModelProto:
    """`classifier` with its hidden channels in another order: the same function."""
    model = classifier()
    rng = np.random.default_rng(4)
    first, last = rng.permutation(6), rng.permutation(8)  # the skip ties those of w1 and w2
    orders = {"w1": (first, None), "w2": (first, first), "w3": (last, first), "w4": (last, None)}
    for tensor in model.graph.initializer:
        rows, columns = orders[tensor.name]
        values = onnx.numpy_helper.to_array(tensor)[rows]
        values = values if columns is None else values[:, columns]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return model


def sizes(found: Trajectory, probe: Probe) -> list[dict[str, int]]:
    """The stored bits of each layer of the model, plan by plan."""
    steps = []
    for plan in found.plans:
        bits = dict.fromkeys(probe.options, 0)
        for unit in divided(probe.chosen, found.groups):
            bits[layer_of(unit).name] += unit.params * plan[unit.name].weight_bits
        steps.append(bits)
    return steps


@pytest.mark.parametrize("name", METHODS)
def test_channels_in_another_order_change_nothing(name: str) -> None:
    arrays = labelled(classifier())
    # Sums in another order round some values to other codes, and what is trained long on that goes another way.
    method = Limpq(StepTraining(least=0)) if name == "limpq" else METHODS[name]
    probes = probe_of(classifier(), arrays), probe_of(with_channels_permuted(), arrays)
    found, other = map(method, probes)
    if isinstance(found, Trajectory) and isinstance(other, Trajectory):
        assert sizes(found, probes[0]) == sizes(other, probes[1])
        return
    assert isinstance(found, CostTable)
    assert isinstance(other, CostTable)
    near = 0.03 if name == "limpq" else 1e-3
    for layer, costs in found.costs.items():
        assert other.costs[layer] == pytest.approx(costs, rel=near), layer


@pytest.mark.parametrize("name", METHODS)
def test_built_in_methods_meet_the_battery(name: str) -> None:
    found = check_method(METHODS[name])
    assert found.method == name


def test_a_method_in_a_file_meets_the_battery(tmp_path: Path) -> None:
    (tmp_path / "my_metric.py").write_text(KURTOSIS, encoding="utf-8")
    assert check_method(find_method(f"{tmp_path}/my_metric.py:kurtosis")).method == "kurtosis"


def test_what_is_no_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Tails:\n    pass\n\nwidths = (2, 4)\n", encoding="utf-8")
    for name, kind in (("Tails", "class"), ("widths", "tuple")):
        with pytest.raises(OptionError, match=rf"mine.py:{name} is a {kind}; name a function from a Probe"):
            find_method(f"{tmp_path}/mine.py:{name}")


@pytest.mark.parametrize("variant", [
    "greedy:by_loss", "greedy:by_steps", "first_order:squared", "first_order:without_labels", "limpq:without_labels",
    "limpq:as_published", "measured:at_every_width",
])  # fmt: skip
def test_named_variants_meet_the_battery(variant: str) -> None:
    check_method(find_method(f"onnxmpq.sensitivity.{variant}"))


def test_which_methods_have_no_use_for_training_data(tmp_path: Path) -> None:
    (tmp_path / "my_metric.py").write_text(KURTOSIS, encoding="utf-8")
    for name in (
        "measured",
        "onnxmpq.sensitivity.methods.greedy:by_loss",
        "onnxmpq.sensitivity.methods.first_order:squared",
    ):
        assert ignores_training(find_method(name))
    for name in (
        "limpq",
        "onnxmpq.sensitivity.methods.limpq:without_labels",
        f"{tmp_path}/my_metric.py:kurtosis",
    ):
        assert not ignores_training(find_method(name))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_first_order_meets_the_battery(form: str) -> None:
    check_method(FirstOrder(form))


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (Greedy, "judged_by", "los"),
        (Greedy, "moves", "stps"),
        (Csmpq, "direction", "inv"),
        (Csmpq, "program", "exat"),
        (Ompq, "program", "exat"),
        (StepTraining, "trains", "wieghts"),
        (StepTraining, "targets", "flaot"),
        (FirstOrder, "form", "square"),
        (FirstOrder, "labels", "dta"),
    ],
)
def test_a_misspelt_option_is_refused(kind: Callable[..., object], option: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"'s {option} '{value}' is not known; choose "):
        kind(**{option: value})


def test_a_variant_of_an_earlier_version_goes_on_working() -> None:
    now = find_method("onnxmpq.sensitivity.methods.ompq:as_published")
    assert find_method("onnxmpq.sensitivity.ompq:as_published") is now


@pytest.mark.parametrize("variant", ["csmpq:as_published", "ompq:as_published"])
def test_the_published_programs_do_not_see_the_network(variant: str) -> None:
    """Their importances drown in the solver's tolerance: what is left is the projection of the sizes."""
    with pytest.raises(AssertionError, match="another network gave the same result"):
        check_method(find_method(f"onnxmpq.sensitivity.{variant}"))


def test_each_method_finds_something_else() -> None:
    """Costs that are no multiples of another's, and other plans at some size, whether by costs or along a path."""
    probe = probe_of(classifier(), labelled(classifier()), bits=(2, 3, 4, 6, 8))
    found = {name: method(probe) for name, method in METHODS.items()}
    tables = {name: relative(some) for name, some in found.items() if isinstance(some, CostTable)}
    for made in (tables, {name: widths_by_size(some, probe) for name, some in found.items()}):
        for (one, first), (other, second) in itertools.combinations(made.items(), 2):
            assert first != second, f"{one} and {other} find the same"


def relative(table: CostTable) -> list[list[float]]:
    """Costs relative to their sum, so that equal tables in other units are equal."""
    costs = np.array([list(options.values()) for options in table.costs.values()])
    return np.round(costs / costs.sum(), 6).tolist()  # type: ignore[no-any-return]


def widths_by_size(found: Sensitivity, probe: Probe) -> list[dict[str, list[int]]]:
    """The width of every channel of every layer, for a row of budgets."""
    return [widths(found, probe, Budget.parse(f"{bits}bit-avg")) for bits in np.arange(2.25, 8, 0.25)]


def widths(found: Sensitivity, probe: Probe, budget: Budget) -> dict[str, list[int]]:
    units: Sequence[Unit] = probe.chosen
    if isinstance(found, Trajectory):
        units = list(divided(probe.chosen, found.groups))
        plan = follow(found, units, [budget], no_file, no_loss)
    else:
        plan = choose_plan(found, probe.chosen, probe.options, [budget], no_file, no_loss)
    by_channel = {layer.name: [0] * layer.channels for layer in probe.chosen}
    for unit in units:
        for channel in channels_of(unit):
            by_channel[layer_of(unit).name][channel] = plan[unit.name].weight_bits
    return by_channel


def no_file(_: Plan) -> int:
    raise AssertionError("no budget on a file was asked")


def no_loss(_: Plan) -> float:
    raise AssertionError("no budget on a loss was asked")


def changed(edit: Callable[[CostTable], Any], method: Method = measured) -> Method:
    """A method that gives another's table, edited."""

    def wrong(probe: Probe) -> Sensitivity:
        table = method(probe)
        assert isinstance(table, CostTable)
        found: Sensitivity = edit(table)
        return found

    return wrong


def without_a_layer(table: CostTable) -> CostTable:
    return replace(table, costs=dict(list(table.costs.items())[1:]))


def random(table: CostTable) -> CostTable:
    return replace(
        table, costs={n: {o: np.random.random() for o in options} for n, options in table.costs.items()}
    )


def by_name(table: CostTable) -> CostTable:
    return replace(
        table, costs={n: {o: c + len(n) for o, c in options.items()} for n, options in table.costs.items()}
    )


def constant(table: CostTable) -> CostTable:
    return replace(table, costs={n: dict.fromkeys(options, 1.0) for n, options in table.costs.items()})


def silent(probe: Probe) -> Sensitivity:
    return measured(replace(probe, progress=lambda _done, _total: None))


def careless(probe: Probe) -> Sensitivity:
    next(iter(probe.model.graph.initializer)).name += "!"
    return size(probe)


def growing(probe: Probe) -> Sensitivity:
    plans = tuple(Plan({name: options[i] for name, options in probe.options.items()}) for i in (0, -1))
    return Trajectory(plans, (None, None), "none", "growing", 0)


def stopping(probe: Probe) -> Sensitivity:
    plan = Plan({name: options[-1] for name, options in probe.options.items()})
    return Trajectory((plan,), (None,), "none", "stopping", 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed(without_a_layer), "its table has no cost of layer .* wanted all of probe.options"),
        (changed(random), "a second run"),
        (changed(by_name), "under other names"),
        (changed(constant), "another network gave the same"),
        (changed(lambda table: replace(table, samples=0)), "read data and says that it did not"),
        (silent, "never called probe.progress"),
        (careless, "changed the probe"),
        (growing, "grows on its path"),
        (stopping, "its path ends before"),
        (changed(lambda table: table.costs), "wanted a CostTable or a Trajectory"),
    ],
)
def test_what_is_wrong_is_found(wrong: Method, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(wrong)


def test_costs_of_what_there_is_no_choice_of_do_no_harm() -> None:
    probe = probe_of(classifier(), labelled(classifier()))
    whole = size(probe)
    assert isinstance(whole, CostTable)
    first, *others = probe.options
    fewer = replace(probe, options={n: probe.options[n] for n in others}, untouched={others[0]: Option(32)})
    costs = {**whole.costs, others[0]: {**whole.costs[others[0]], Option(32): 0.0}}
    assert fault(replace(whole, costs=costs), fewer) is None
    path = growing(probe)
    assert isinstance(path, Trajectory)
    assert fault(replace(path, plans=path.plans[:1], losses=(None,)), fewer) is None
    strange = replace(whole, costs={**whole.costs, "nolayer": {Option(4): 1.0}})
    assert "costs of nolayer, which the model does not have" in str(fault(strange, probe))
    beyond = replace(whole, costs={**whole.costs, first: {**whole.costs[first], Option(7): 1.0}})
    assert f"a cost of layer '{first}' at 7; wanted only those" in str(fault(beyond, probe))


def test_a_path_over_what_the_model_does_not_have_is_refused() -> None:
    probe = probe_of(classifier(), labelled(classifier()))
    plan = Plan({"nolayer/part0": Option(2), **{layer.name: Option(2) for layer in probe.layers}})
    found = Trajectory((plan,), (None,), "none", "strange", 0, groups={"nolayer": ((0,),)})
    assert fault(found, probe) == "its plans decide nolayer/part0, which the model does not have"
    lacking = Trajectory(
        (Plan({layer.name: Option(2) for layer in probe.layers[1:]}),), (None,), "none", "lacking", 0
    )
    assert fault(lacking, probe) == f"its plans do not decide '{probe.layers[0].name}'"


def test_a_weight_handed_out_cannot_be_changed() -> None:
    def careless(probe: Probe) -> Sensitivity:
        probe.candidate(probe.layers[0], 4)[probe.layers[0].weight] *= 2
        return size(probe)

    with pytest.raises(ValueError, match="read-only"):
        check_method(careless)


def test_a_method_of_the_users_may_say_what_it_cannot_work_with() -> None:
    probe = probe_of(classifier(), labelled(classifier()))

    class Mine:
        def __call__(self, probe: Probe) -> Sensitivity:
            return size(probe)

        def check_data(self, _metric: Metric, data: Dataset, _training: Dataset | None) -> None:
            raise ValueError(f"{data.count} samples")

    assert is_demanding(Mine())
    assert not is_demanding(size)
    check_data(size, probe.metric, probe.data, None)
    with pytest.raises(OptionError, match="check_data failed: ValueError: 64 samples"):
        check_data(Mine(), probe.metric, probe.data, None)
