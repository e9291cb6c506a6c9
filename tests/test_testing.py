"""The battery must find what is wrong with a pass: one wrong pass for every clause of the contract."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxmpq.metrics.decibels import signal_to_noise
from onnxmpq.testing import Pass, check_pass, model_of, random_feeds, run

MODEL = model_of(
    "g (float[N, 3] x) => (float[N, 3] y) { a = Add (x, b)  y = Relu (a) }", b=np.ones(3, np.float32)
)
_COUNT = itertools.count()


@dataclass(frozen=True, slots=True)
class Nothing:
    def __call__(self, _: gs.Graph) -> bool:
        return False


@dataclass
class Mutable:
    def __call__(self, _: gs.Graph) -> bool:
        return False


@dataclass(frozen=True)
class SaysNothing(Nothing):
    def __call__(self, _: gs.Graph) -> Any:
        return None


@dataclass(frozen=True)
class Boasts(Nothing):
    def __call__(self, _: gs.Graph) -> bool:
        return True


@dataclass(frozen=True)
class Hides(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        graph.nodes[0].name = "hidden"
        return False


@dataclass(frozen=True)
class NeverEnds(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        graph.nodes[0].name += "x"
        return True


@dataclass(frozen=True)
class HidesLater(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        again = graph.nodes[0].name == "first"
        graph.nodes[0].name = "second" if again else "first"
        return not again


@dataclass(frozen=True)
class Random(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        changed: bool = not graph.nodes[0].name
        graph.nodes[0].name = graph.nodes[0].name or f"node{next(_COUNT)}"
        return changed


@dataclass(frozen=True)
class Renames(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        changed: bool = graph.outputs[0].name != "z"
        graph.outputs[0].name = "z"
        return changed


@dataclass(frozen=True)
class Fixes(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        changed: bool = graph.inputs[0].shape != [2, 3]
        graph.inputs[0].shape = [2, 3]
        return changed


@dataclass(frozen=True)
class Scales(Nothing):
    by: float = 2.0

    def __call__(self, graph: gs.Graph) -> bool:
        constant = graph.nodes[0].inputs[1]
        changed: bool = constant.name == "b"
        if changed:
            graph.nodes[0].inputs[1] = gs.Constant("c", constant.values * np.float32(self.by))
        return changed


@dataclass(frozen=True)
class Taps(Nothing):
    def __call__(self, graph: gs.Graph) -> bool:
        if len(graph.outputs) > 1:
            return False
        tapped = graph.nodes[0].outputs[0]
        tapped.dtype, tapped.shape = np.dtype(np.float32), ["N", 3]
        graph.outputs.append(tapped)
        return True


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Mutable(), "neither a function nor a frozen dataclass"),
        (SaysNothing(), "returned None"),
        (Boasts(), "returned True, but the graph is the same"),
        (Hides(), "returned False, but the graph is another"),
        (NeverEnds(), "True again"),
        (HidesLater(), "changed its own result"),
        (Random(), "not deterministic"),
        (Renames(), r"outputs changed from \['y'\] to \['z'\]"),
        (Fixes(), "inputs changed"),
        (Taps(), "outputs changed"),
        (Scales(), "output y agrees to"),
    ],
)
def test_what_is_wrong_is_found(wrong: Pass, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_pass(wrong, MODEL)


def test_a_pass_may_do_nothing() -> None:
    assert len(check_pass(Nothing(), MODEL).graph.node) == 2


def test_an_exposing_pass_may_add_outputs() -> None:
    assert [o.name for o in check_pass(Taps(), MODEL, kind="exposing").graph.output] == ["y", "a"]


def test_an_exposing_pass_is_held_to_every_bit() -> None:
    almost = Scales(by=float(np.nextafter(np.float32(1), np.float32(2))))
    check_pass(almost, MODEL)
    with pytest.raises(AssertionError, match="wanted at least inf"):
        check_pass(almost, MODEL, kind="exposing")


def test_a_lowering_pass_may_change_values() -> None:
    check_pass(Scales(), MODEL, kind="lowering")


def test_the_model_given_is_left_alone() -> None:
    before = MODEL.SerializeToString()
    check_pass(Scales(), MODEL, kind="lowering")
    assert MODEL.SerializeToString() == before


def test_random_feeds_fit_any_input() -> None:
    model = model_of(
        "g (float16[N, 2] a, int64[3] b, bool c) => (float16[N, 2] d, int64[3] e, bool f) { d = Relu (a)  e = Abs (b)  f = Not (c) }"
    )
    feeds = random_feeds(model)
    assert {name: value.shape for name, value in feeds.items()} == {"a": (1, 2), "b": (3,), "c": ()}
    assert set(run(model, feeds)) == {"d", "e", "f"}


@pytest.mark.parametrize(
    ("expected", "found", "decibels"),
    [
        ([1.0, 0.0], [1.0, 0.1], 20),
        ([1.0, np.nan], [1.0, np.nan], np.inf),
        ([1.0, np.inf], [1.0, 0.0], -np.inf),
        ([1.0, 2.0], [1.0, np.nan], -np.inf),
        ([1, 2], [1, 2], np.inf),
        ([1, 2], [1, 3], -np.inf),
        ([1.0], [[1.0]], -np.inf),
        ([1.0], [1], -np.inf),
    ],
)
def test_signal_to_noise(expected: list[float], found: list[Any], decibels: float) -> None:
    assert signal_to_noise(np.array(expected), np.array(found)) == pytest.approx(decibels)
