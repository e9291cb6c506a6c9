"""Random small networks: branches, groups, shared weights, several outputs, every operator of the table, opsets 7 to 26."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = st.DrawFn
_IR = {
    7: 3,
    8: 3,
    9: 4,
    10: 5,
    11: 6,
    12: 7,
    13: 7,
    14: 7,
    15: 8,
    16: 8,
    17: 8,
    18: 8,
    19: 9,
    20: 9,
    21: 10,
    22: 10,
    23: 11,
    24: 11,
    25: 12,
    26: 12,
}
_EINSUM = 12  # the opset that it came with


@dataclass
class Network:
    """A network that is being written; tensors are known by name, channels and whether they are maps."""

    opset: int
    rng: np.random.Generator
    size: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, channels: int, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name.upper(), **attributes))
        self.channels[name] = channels
        return name

    def weight(self, *shape: int, fan: int | None = None) -> str:
        name = f"w{len(self.weights)}"
        fan = fan or int(np.prod(shape[1:])) or 1
        self.weights[name] = (self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        return name

    def ints(self, *values: int) -> str:
        name = f"i{len(self.weights)}"
        self.weights[name] = np.array(values, np.int64)
        return name

    def model(self, outputs: list[tuple[str, int]]) -> onnx.ModelProto:
        """The model, with a free batch and a fixed size; each output with its rank."""
        x = helper.make_tensor_value_info(
            "x", TensorProto.FLOAT, ["N", self.channels["x"], self.size, self.size]
        )
        made = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *[None] * (rank - 1)])
            for n, rank in outputs
        ]
        constants = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        values = [
            helper.make_tensor_value_info(n, t.data_type, t.dims)
            for n, t in zip(self.weights, constants, strict=True)
        ]
        inputs = [x, *values] if self.opset < 9 else [x]  # initializers were inputs up to IR version 3
        graph = helper.make_graph(self.nodes, "random", inputs, made, constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=_IR[self.opset]
        )


@st.composite
def networks(draw: Draw) -> onnx.ModelProto:
    """Two to six layers on maps, with branches between, and one or two heads."""
    net = Network(
        draw(st.sampled_from(sorted(_IR))),
        np.random.default_rng(draw(st.integers(0, 2**20))),
        draw(st.sampled_from([6, 8])),
    )
    net.channels["x"] = draw(st.sampled_from([3, 4]))
    maps = [_conv(draw, net, "x")]
    for _ in range(draw(st.integers(1, 5))):
        maps.append(
            draw(
                st.sampled_from([_conv, _conv, _transposed, _branch, _pooled, _activated, _shared, _embedded])
            )(draw, net, maps[-1])
        )
    heads = [_head(draw, net, draw(st.sampled_from(maps))) for _ in range(draw(st.integers(1, 2)))]
    outputs = [(name, 2) for name in dict.fromkeys(heads)]
    if draw(st.booleans()):
        outputs.append((maps[-1], 4))
    return net.model(outputs)


def _conv(draw: Draw, net: Network, x: str) -> str:
    cin, cout, k = net.channels[x], draw(st.sampled_from([4, 6, 8])), draw(st.sampled_from([1, 3]))
    groups = draw(st.sampled_from([g for g in (1, 2, cin) if cin % g == 0 and cout % g == 0]))
    bias = [net.weight(cout)] if draw(st.booleans()) else []
    return net.op(
        "Conv",
        x,
        net.weight(cout, cin // groups, k, k),
        *bias,
        channels=cout,
        group=groups,
        pads=[k // 2] * 4,
        kernel_shape=[k, k],
    )


def _transposed(draw: Draw, net: Network, x: str) -> str:
    cin, cout = net.channels[x], draw(st.sampled_from([2, 4]))
    groups = draw(st.sampled_from([g for g in (1, 2) if cin % g == 0]))
    weight = net.weight(cin, cout, 3, 3)
    return net.op(
        "ConvTranspose", x, weight, channels=cout * groups, group=groups, pads=[1] * 4, kernel_shape=[3, 3]
    )


def _branch(draw: Draw, net: Network, x: str) -> str:
    a, b = _conv(draw, net, x), _conv(draw, net, x)
    if net.channels[a] == net.channels[b]:
        return net.op("Add", a, b, channels=net.channels[a])
    return net.op("Concat", a, b, channels=net.channels[a] + net.channels[b], axis=1)


def _pooled(draw: Draw, net: Network, x: str) -> str:
    kind = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    return net.op(kind, x, channels=net.channels[x], kernel_shape=[3, 3], pads=[1] * 4)


def _activated(draw: Draw, net: Network, x: str) -> str:
    return net.op(
        draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu"])), x, channels=net.channels[x]
    )


def _shared(draw: Draw, net: Network, x: str) -> str:
    """One weight that two layers read."""
    weight = net.weight(net.channels[x], net.channels[x], 1, 1)
    inner = net.op("Relu", net.op("Conv", x, weight, channels=net.channels[x]), channels=net.channels[x])
    return net.op("Conv", inner, weight, channels=net.channels[x])


def _embedded(draw: Draw, net: Network, x: str) -> str:
    """Beside the map, a table looked up by the largest channel of the input, which no rounding changes."""
    width = draw(st.sampled_from([4, 64]))
    table = net.weight(1024 // width, width)
    largest = net.op("ArgMax", "x", channels=1, axis=1, keepdims=0)
    rows = net.op("Gather", table, largest, channels=width)
    turned = net.op("Transpose", rows, channels=width, perm=[0, 3, 1, 2])
    return net.op("Concat", x, turned, channels=net.channels[x] + width, axis=1)


def _recurrent(draw: Draw, net: Network, x: str) -> str:
    """[N, features]: the last states of a recurrence over the rows of the map, in one direction or both."""
    kind, gates = draw(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]))
    width, hidden, directions = net.channels[x] * net.size, 6, draw(st.sampled_from([1, 2]))
    turned = net.op("Transpose", x, channels=width, perm=[2, 0, 1, 3])
    steps = net.op("Reshape", turned, net.ints(net.size, -1, width), channels=width)
    weights = [net.weight(directions, gates * hidden, columns, fan=columns) for columns in (width, hidden)]
    direction = "bidirectional" if directions == 2 else draw(st.sampled_from(["forward", "reverse"]))
    name = f"{kind.lower()}_{len(net.nodes)}"
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    net.nodes.append(helper.make_node(kind, [steps, *weights], ["", name], name=name.upper(), **attributes))
    last = net.op("Transpose", name, channels=hidden, perm=[1, 0, 2])
    return net.op("Reshape", last, net.ints(-1, directions * hidden), channels=directions * hidden)


def _head(draw: Draw, net: Network, x: str) -> str:
    if draw(st.booleans()):
        flat = _recurrent(draw, net, x)
    else:
        flat = net.op(
            "Flatten", net.op("GlobalAveragePool", x, channels=net.channels[x]), channels=net.channels[x]
        )
    width, classes = net.channels[flat], draw(st.sampled_from([3, 5]))
    kind = draw(st.sampled_from(["Gemm", "MatMul", "Einsum"] if net.opset >= _EINSUM else ["Gemm", "MatMul"]))
    if kind == "Gemm":
        transposed = draw(st.booleans())
        weight = net.weight(classes, width) if transposed else net.weight(width, classes)
        y = net.op("Gemm", flat, weight, net.weight(classes), channels=classes, transB=int(transposed))
    elif kind == "Einsum":
        y = net.op("Einsum", flat, net.weight(classes, width), channels=classes, equation="nd,cd->nc")
    else:
        y = net.op("MatMul", flat, net.weight(width, classes), channels=classes)
    return net.op("Softmax", y, channels=classes, axis=1) if draw(st.booleans()) else y
