"""The bytes that are counted are those of the lowered model, for plans of every kind; no file is made to count them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq import compile_model
from onnxmpq.context.prepared import Activations, Prepared
from onnxmpq.lower import draft, file_bytes
from onnxmpq.lower.channel_groups import joined, split
from onnxmpq.lower.file_bytes import FileBytes
from onnxmpq.lower.lower_plan import frame, known_names, lower
from onnxmpq.normalize.prepare import prepare
from onnxmpq.onnx_io.default_attributes import drop_defaults
from onnxmpq.onnx_io.graph import import_graph
from onnxmpq.onnx_io.short_names import shorten_names
from onnxmpq.place import POLICIES
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.rounding.half_scales import has_half_scales
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of, random_feeds
from onnxmpq.values.activation_range import range_of
from onnxmpq.values.group import Group, Unit, divided, layer_of
from onnxmpq.values.layer import Layer
from onnxmpq.values.option import FLOAT_BITS, HALF_BITS, Option
from onnxmpq.values.plan import Plan
from onnxmpq.values.quantized_weight import QuantizedWeight
from onnxmpq.values.target import TARGETS, Target

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"
CPU = Runtime("cpu", threads=1)
WIDTHS = (*range(1, 9), HALF_BITS, FLOAT_BITS)
STORED = [(name, storage) for name, target in TARGETS.items() for storage in target.weights.storages]


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def operators() -> onnx.ModelProto:
    """Every operator with a weight, a pad and a pool between them, and a weight that two nodes share."""
    return model_of(
        """g (float[1, 4, 8, 8] x) => (float[1, 6] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, stem, stem_bias)  b = Relu (a)
            c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
            d = Conv <group = 8, pads = [1, 1, 1, 1]> (c, depthwise, depthwise_bias)  e = Relu (d)
            f = Pad (e, pads)  h = ConvTranspose (f, up, up_bias)  i = Relu (h)
            j = GlobalAveragePool (i)  k = Flatten (j)
            l = MatMul (k, shared)  m = Relu (l)  n = MatMul (m, shared)
            o = Gemm <transB = 1, beta = 0.5> (n, head, head_bias)  p = Relu (o)  y = MatMul (p, last)
        }""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        **weights(
            stem=(8, 4, 3, 3), stem_bias=(8,), depthwise=(8, 1, 3, 3), depthwise_bias=(8,), up=(8, 5, 2, 2), up_bias=(5,),
            shared=(5, 5), head=(7, 5), head_bias=(7,), last=(7, 6),
        ),
    )  # fmt: skip


def twins() -> onnx.ModelProto:
    """Weights so small that codes coincide, two that are equal, and names that packed weights would take."""
    held = weights(mpq_1=(2, 2), other=(2, 2), row=(2, 4), column=(4, 2), mpq_sizes=(2,))
    return model_of(
        """g (float[1, 2] x) => (float[1, 2] y) {
            a = MatMul (x, mpq_1)  b = Relu (a)  c = MatMul (b, twin)  d = Relu (c)  e = MatMul (d, other)  f = Relu (e)
            mpq_3 = MatMul (f, row)  h = Relu (mpq_3)  i = MatMul (h, column)  j = Relu (i)
            y = Gemm (j, last, mpq_sizes)
        }""",
        twin=held["mpq_1"],
        last=np.zeros((2, 2), np.float32),
        **held,
    )


def branches() -> onnx.ModelProto:
    """A weight that a control-flow subgraph reads, and one in half precision, and metadata."""
    model = model_of(
        """g (float[2, 4] x, bool c) => (float[2, 3] y) {
            h = Cast <to = 10> (x)  i = MatMul (h, half)  j = Cast <to = 1> (i)  k = Relu (j)
            y = If (c) <
                then_branch = t () => (float[2, 3] u) { u = MatMul (k, one) },
                else_branch = e () => (float[2, 3] v) { w = Neg (k)  v = MatMul (w, two) }
            >
        }""",
        half=weights(half=(4, 5))["half"].astype(np.float16),
        **weights(one=(5, 3), two=(5, 3)),
    )
    model.metadata_props.add(key="author", value="somebody")
    model.doc_string = "a network with branches " * 20
    return model


def shared() -> onnx.ModelProto:
    """A weight that only the two branches read, and one that the main graph reads as well."""
    return model_of(
        """g (float[2, 4] x, bool c) => (float[2, 4] y) {
            k = MatMul (x, both)  l = Relu (k)
            y = If (c) <
                then_branch = t () => (float[2, 4] u) { m = MatMul (l, one)  n = Relu (m)  u = MatMul (n, both) },
                else_branch = e () => (float[2, 4] v) { w = Neg (l)  v = MatMul (w, one) }
            >
        }""",
        **weights(one=(4, 4), both=(4, 4)),
    )


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "operators": operators, "twins": twins, "branches": branches, "shared": shared, "digits": lambda: onnx.load(DIGITS),
}  # fmt: skip


@dataclass(frozen=True)
class Lowered:
    """A model on its way to files for a target, its activations quantized or not."""

    target: Target
    prepared: Prepared
    acts: int | None
    activations: Activations
    candidates: Candidates

    @classmethod
    def of(cls, model: onnx.ModelProto, target: Target, acts: int | None) -> Lowered:
        feeds = random_feeds(model)
        prepared = prepare(CPU, model, feeds, integer=acts is not None, batchable=False)
        layers = tuple(halved(la, prepared.model) if target.halves else la for la in prepared.layers)
        prepared = replace(prepared, layers=layers)
        asked = [la.name for la in layers if la.reason is None] if acts else []
        placement = POLICIES[target.activations.placement](import_graph(prepared.model), layers, asked)
        rng = random.Random(1)
        codes = target.activations.codes(acts)
        ranges = {
            name: range_of(-rng.random(), rng.random(), codes)
            for name in {*placement.tensors, *placement.spare}
        }
        return cls(
            target, prepared, acts, Activations(placement, ranges, target.activations.placement),
            Candidates(prepared.model, "nearest", target.grids),
        )  # fmt: skip

    def plan(self, rng: random.Random, units: Sequence[Unit]) -> Plan:
        """Any; three times in four with integers wherever they can be."""
        whole, integer = rng.random() < 0.75, self.activations.placement.integer_layers
        widths = rng.sample(WIDTHS, rng.randint(1, len(WIDTHS)))
        options = {}
        for unit in units:
            layer = layer_of(unit)
            bits = rng.choice(widths) if layer.reason is None else layer.float_bits
            computes = layer.name in integer and bits < HALF_BITS and (whole or rng.random() < 0.5)
            option = Option(bits, self.acts if computes else None)
            options[unit.name] = self.target.legalize(option, beside_integers=bool(integer))
        return Plan(options)

    def rounded(self, rng: random.Random) -> Candidates:
        """Candidates whose codes of two bits are odd or not, and whose biases have moved."""
        some, draw = self.candidates.copy(), np.random.default_rng(rng.randrange(1 << 30))
        for layer in self.prepared.layers:
            odd = rng.random() < 0.5 and self.target.grids.odd
            codes = draw.choice([-3, -1, 1, 3] if odd else [-2, -1, 0, 1], layer.shape).astype(np.int8)
            scale = draw.uniform(0.01, 0.1, layer.channels).astype(np.float32)
            shift = draw.normal(0, 0.1, layer.channels).astype(np.float32) if layer.bias else None
            some.replace(layer, QuantizedWeight(codes, scale, layer.axis, 2, odd), shift)
        return some

    def check(self, counted: FileBytes, prepared: Prepared, plan: Plan, candidates: Candidates) -> None:
        arguments = (prepared, plan, candidates, self.activations, self.target)
        model = drop_defaults(lower(*arguments))
        shorten_names(model, known_names(prepared.layers))
        assert counted.of(*arguments) == model.ByteSize() == len(model.SerializeToString()), plan


def halved(layer: Layer, model: onnx.ModelProto) -> Layer:
    """The layer with scales in half precision, where that holds them."""
    weight = next(onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name == layer.weight)
    return replace(layer, scale_bytes=2) if has_half_scales(weight, layer.axis) else layer


@pytest.mark.parametrize("activations", [None, 8])
@pytest.mark.parametrize(("name", "storage"), STORED)
@pytest.mark.parametrize("network", MODELS)
def test_counted_bytes_are_those_of_the_lowered_model(
    network: str, name: str, storage: str, activations: int | None
) -> None:
    lowered = Lowered.of(MODELS[network](), TARGETS[name].storing(storage), activations)
    rng, counted = random.Random(f"{network} {name} {storage} {activations}"), FileBytes()
    for _ in range(4):
        plan = lowered.plan(rng, lowered.prepared.layers)
        lowered.check(counted, lowered.prepared, plan, lowered.rounded(rng))


@pytest.mark.parametrize("bits", [4, 16])
def test_activations_of_other_widths(bits: int) -> None:
    lowered = Lowered.of(operators(), TARGETS["portable"].computing(bits), bits)
    rng, counted = random.Random(bits), FileBytes()
    for _ in range(4):
        lowered.check(
            counted, lowered.prepared, lowered.plan(rng, lowered.prepared.layers), lowered.candidates
        )


@pytest.mark.parametrize("activations", [None, 8])
def test_groups_of_channels(activations: int | None) -> None:
    lowered = Lowered.of(operators(), TARGETS["ort-cpu"], activations)
    rng, counted = random.Random(0), FileBytes()
    free = [layer for layer in lowered.prepared.layers if layer.reason is None]
    groups = {la.name: tuple(tuple(range(i, la.channels, 2)) for i in range(2)) for la in free}
    for _ in range(6):
        plan = lowered.plan(rng, tuple(divided(lowered.prepared.layers, groups)))
        stored = joined(tuple(divided(lowered.prepared.layers, groups)), plan)
        prepared = split(lowered.prepared, tuple(stored))
        parts = [unit for unit in stored if isinstance(unit, Group)]
        candidates = lowered.candidates.of_groups(prepared.model, parts)
        merged = Plan({unit.name: option for unit, option in stored.items()})
        lowered.check(counted, prepared, merged, candidates)


@pytest.mark.parametrize("method", ["size", "greedy"])
def test_a_budget_on_the_file_lowers_no_model_but_the_one_that_is_written(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowerings: list[int] = []
    frames: list[int] = []
    counted: list[int] = []

    def counting(calls: list[int], function: Callable[..., object]) -> Callable[..., object]:
        def called(*args: object) -> object:
            calls.append(1)
            return function(*args)

        return called

    monkeypatch.setattr(draft, "lower", counting(lowerings, lower))
    monkeypatch.setattr(file_bytes, "frame", counting(frames, frame))
    monkeypatch.setattr(FileBytes, "of", counting(counted, FileBytes.of))
    output = tmp_path / "digits.onnx"
    compile_model(
        DIGITS,
        ["50kB"],
        output=output,
        method=method,
        activations="int8",
        rounding="nearest",
        samples=16,
        effort="fast",
        verify=False,
    )
    assert len(counted) >= 3
    assert len(lowerings) == 1
    assert len(frames) <= 3  # one for each opset
    assert output.stat().st_size <= 50_000
