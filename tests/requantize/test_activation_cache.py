"""The cache: what is asked of it comes out as if the whole network had run, whatever it holds."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmpq.data import Dataset, InputSpec, open_data
from onnxmpq.data.augmentations import Augmentations
from onnxmpq.onnx_io.traced import Traced
from onnxmpq.requantize import activation_cache
from onnxmpq.requantize.activation_cache import ActivationCache, CachedPair, held_samples
from onnxmpq.runtime.session import Runtime
from onnxmpq.runtime.trace import trace
from onnxmpq.testing import model_of

CPU = Runtime("cpu", threads=1)
TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[n, 6] x) => (float[n, 6] y) {
    a = MatMul (x, w1)
    r = Relu (a)
    b = MatMul (r, w2)
    s = Add (b, a)
    y = MatMul (s, w3)
}
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    model, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    for name in ("w1", "w2", "w3"):
        weight = rng.standard_normal((6, 6)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


@pytest.fixture
def data() -> Dataset:
    values = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    return open_data({"x": values}, [InputSpec("x", np.dtype(np.float32), (None, 6))], samples=20)


def cache_of(model: onnx.ModelProto, data: Dataset, most: int = 1 << 20) -> ActivationCache:
    return ActivationCache(
        CPU, model, trace(CPU, model, next(iter(data.batches(1))).feeds), data, 8, most=most
    )


def outputs(cache: ActivationCache, name: str) -> np.ndarray:
    part = cache.part(cache.behind([name]), [name])
    session = CPU.session(part.model)
    runs = [session.run({n: state[n] for n in part.inputs})[name] for state in cache.states()]
    return np.concatenate(runs)


def test_it_runs_up_to_the_first_constant_that_may_change(model: onnx.ModelProto, data: Dataset) -> None:
    cache = cache_of(model, data)
    expected = outputs(cache, "y")
    cache.advance({"w2", "w3"})
    assert {name for state in cache.states() for name in state} == {"a", "r"}
    assert [node.output[0] for node in cache.behind(["y"])] == ["b", "s", "y"]
    assert np.allclose(outputs(cache, "y"), expected, atol=1e-5)


def test_what_has_run_reads_the_constants_of_its_time(model: onnx.ModelProto, data: Dataset) -> None:
    cache = cache_of(model, data)
    cache.advance({"w2", "w3"})
    changed = next(i for i in model.graph.initializer if i.name == "w2")
    changed.CopyFrom(numpy_helper.from_array(np.zeros((6, 6), np.float32), "w2"))
    cache.advance({"w3"})
    x = np.concatenate([batch.feeds["x"] for batch in data.batches(8)])
    w1 = numpy_helper.to_array(model.graph.initializer[0])
    held = np.concatenate([state["s"] for state in cache.states()])
    assert np.allclose(held, x @ w1, atol=1e-4)


def test_it_never_goes_back(model: onnx.ModelProto, data: Dataset) -> None:
    cache = cache_of(model, data)
    cache.advance({"w3"})
    cache.advance({"w1"})
    assert {name for state in cache.states() for name in state} == {"s"}


@pytest.mark.parametrize("most", [0, 100, 20 * 6 * 4 - 1])
def test_it_stays_where_more_crosses_than_it_may_hold(
    model: onnx.ModelProto, data: Dataset, most: int
) -> None:
    cache = cache_of(model, data, most)
    expected = outputs(cache, "y")
    cache.advance({"w2"})
    assert {name for state in cache.states() for name in state} == {"x"}
    assert np.array_equal(outputs(cache, "y"), expected)


def test_it_stops_before_where_less_crosses(model: onnx.ModelProto, data: Dataset) -> None:
    """Behind the first product, not behind its Relu: that needs both."""
    cache = cache_of(model, data, 20 * 6 * 4 * 2 - 1)
    expected = outputs(cache, "y")
    cache.advance({"w2"})
    assert {name for state in cache.states() for name in state} == {"a"}
    assert np.allclose(outputs(cache, "y"), expected, atol=1e-5)
    cache.advance({"w3"})  # a and b, or s: the nearer place
    assert {name for state in cache.states() for name in state} == {"s"}


def test_what_crosses_counts_in_every_view(model: onnx.ModelProto, data: Dataset) -> None:
    """Two augmentations of the first product may be held, but not of its Relu too."""
    traced = trace(CPU, model, next(iter(data.batches(1))).feeds)
    cache = ActivationCache(CPU, model, traced, data, 8, Augmentations(-1), most=2 * 20 * 6 * 4 * 2 - 1)
    cache.advance({"w2"})
    assert {name for state in cache.states() for name in state} == {"a"}


def test_as_many_samples_as_are_told_never_make_it_go_back(
    model: onnx.ModelProto, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_cache, "_HELD_BYTES", 300)  # private: no map of a test is large
    traced = trace(CPU, model, next(iter(data.batches(1))).feeds)
    count = held_samples(data, model, traced)
    assert 1 < count < data.count
    cache = ActivationCache(CPU, model, traced, data.some(count, 0), 8, most=300)
    for changing in ({"w2", "w3"}, {"w3"}):
        cache.advance(changing)
        assert not any(node.output[0] == "a" for node in cache.behind(["y"]))


def test_it_stays_where_a_trace_was_wrong(model: onnx.ModelProto, data: Dataset) -> None:
    """The first batch tells."""
    traced = trace(CPU, model, next(iter(data.batches(1))).feeds)
    wrong = {name: replace(value, shape=(1, 1)) for name, value in traced.items()}
    cache = ActivationCache(CPU, model, wrong, data, 8, most=20 * 6 * 4 - 1)
    cache.advance({"w2"})
    assert {name for state in cache.states() for name in state} == {"x"}


def test_a_pair_that_no_trace_has_seen_gives_as_much_as_it_takes(data: Dataset) -> None:
    """Either end of it may have the name that the float network had."""
    text = """g (float[n, 6] x) => (float[n, 6] y) {
        q = QuantizeLinear (x, s1)  d = DequantizeLinear (q, s2)  made = Mul (d, c)
        p = QuantizeLinear (made, s3)  y = DequantizeLinear (p, s4) }"""
    model = model_of(text, **dict.fromkeys(("s1", "s2", "c", "s3", "s4"), np.array(0.5, np.float32)))
    traced = {name: Traced(onnx.TensorProto.FLOAT, (1, 6)) for name in "xy"}
    cache = ActivationCache(CPU, model, traced, data, 8, most=20 * 6 * 4)
    for changing, held in (("s2", "q"), ("c", "d"), ("s3", "made"), ("s4", "p")):
        cache.advance({changing})
        assert {name for state in cache.states() for name in state} == {held}


def test_a_graph_that_demands_its_batch_is_counted_by_the_batch(model: onnx.ModelProto) -> None:
    values = np.random.default_rng(2).standard_normal((64, 6)).astype(np.float32)
    data = open_data({"x": values}, [InputSpec("x", np.dtype(np.float32), (8, 6))], samples=64)
    traced = trace(CPU, model, next(iter(data.batches(1))).feeds)
    cache = ActivationCache(CPU, model, traced, data, 1, most=2 * 64 * 6 * 4)
    cache.advance({"w2"})
    assert {name for state in cache.states() for name in state} == {"a", "r"}
    less = ActivationCache(CPU, model, traced, data, 1, most=2 * 64 * 6 * 4 - 1)
    less.advance({"w2"})
    assert {name for state in less.states() for name in state} == {"a"}


def test_a_network_that_has_run_whole_gives_nothing_more_to_run(
    model: onnx.ModelProto, data: Dataset
) -> None:
    cache = cache_of(model, data)
    cache.advance(())
    assert cache.behind(["y"]) == []


def test_a_source_is_read_by_one_at_a_time(model: onnx.ModelProto) -> None:
    class Loader:
        """Starts over when it is asked for an iterator, and is its own: two at a time would share its place."""

        def __iter__(self) -> "Loader":
            self.left = 6
            return self

        def __next__(self) -> dict[str, np.ndarray]:
            if not self.left:
                raise StopIteration
            self.left -= 1
            return {"x": np.full((4, 6), self.left, np.float32)}

    loader = Loader()
    data = open_data(lambda: loader, [InputSpec("x", np.dtype(np.float32), (None, 6))], samples=24)
    first, second = cache_of(model, data), cache_of(model, data)
    assert (
        sum(len(a["x"]) for a, b in CachedPair(first, second).states() if np.array_equal(a["x"], b["x"]))
        == 24
    )
    first.advance({"w2"})
    assert sum(len(b["x"]) for a, b in CachedPair(first, second).states() if len(a["r"]) == len(b["x"])) == 24
