"""Small networks whose gradients PyTorch has found as well; `make_golden.py` writes them again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxmpq.passes.expose.emit_loss import Loss
from onnxmpq.testing import model_of
from onnxmpq.values.arrays import Array
from onnxmpq.values.score import OutputKind

GOLDEN = Path(__file__).with_name("golden.npz")
_OPSET_20 = '<ir_version: 10, opset_import: ["": 20]> '


@dataclass(frozen=True, slots=True, eq=False)
class GoldenNetwork:
    """A graph from x to y, its weights, one batch, and the loss; all values are drawn by a fixed seed."""

    name: str
    text: str
    weights: dict[str, Array]
    x: Array
    target: Array
    loss: Loss
    kind: OutputKind

    @property
    def model(self) -> onnx.ModelProto:
        return model_of(_OPSET_20 + self.text, **self.weights)


def golden_networks() -> list[GoldenNetwork]:
    return [residual(), attention(), decoder()]


def _draw(seed: int, **shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}


def residual() -> GoldenNetwork:
    """Convolutions with strides, dilations and groups, BatchNorm, pools and a shortcut; cross-entropy."""
    drawn = _draw(
        0, x=(2, 3, 9, 9), w1=(4, 3, 3, 3), b1=(4,), scale=(4,), shift=(4,), mean=(4,), w2=(4, 1, 3, 3), b2=(4,),
        w3=(6, 2, 3, 3), w4=(6, 4, 1, 1), w5=(5, 6), b5=(5,),
    )  # fmt: skip
    weights = {n: v for n, v in drawn.items() if n != "x"}
    weights |= {
        "var": np.array([0.5, 1, 2, 1.5], np.float32),
        "low": np.zeros((), np.float32),
        "high": np.ones((), np.float32),
    }
    text = """g (float[2, 3, 9, 9] x) => (float[2, 5] y) {
        c1 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w1, b1)
        n1 = BatchNormalization (c1, scale, shift, mean, var)
        r1 = LeakyRelu <alpha = 0.1> (n1)
        c2 = Conv <group = 4, pads = [1, 1, 1, 1]> (r1, w2, b2)
        r2 = Clip (c2, low, high)
        s1 = Add (r2, r1)
        p1 = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (s1)
        c3 = Conv <group = 2, dilations = [2, 2], pads = [2, 2, 2, 2], strides = [2, 2]> (p1, w3)
        p2 = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (s1)
        c4 = Conv (p2, w4)
        s2 = Add (c3, c4)
        r3 = Elu (s2)
        m = GlobalAveragePool (r3)
        f = Flatten (m)
        y = Gemm <transB = 1> (f, w5, b5)
    }"""
    target = np.array([3, 1])
    return GoldenNetwork("residual", text, weights, drawn["x"], target, Loss.CROSS_ENTROPY, OutputKind.LOGITS)


def attention() -> GoldenNetwork:
    """A transformer block of one head; divergence from given probabilities."""
    drawn = _draw(
        1, x=(2, 3, 4), scale=(4,), shift=(4,), wq=(4, 4), wk=(4, 4), wv=(4, 4), w1=(4, 8), b1=(8,), w2=(8, 4), w3=(12, 3),
    )  # fmt: skip
    weights = {n: v for n, v in drawn.items() if n != "x"} | {"half": np.array(0.5, np.float32)}
    text = """g (float[2, 3, 4] x) => (float[2, 3] y) {
        n = LayerNormalization (x, scale, shift)
        q = MatMul (n, wq)
        k = MatMul (n, wk)
        v = MatMul (n, wv)
        kt = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, kt)
        h = Mul (s, half)
        p = Softmax (h)
        a = MatMul (p, v)
        r = Add (a, x)
        u = MatMul (r, w1)
        t = Add (u, b1)
        e = Gelu (t)
        o = MatMul (e, w2)
        z = Add (o, r)
        f = Flatten (z)
        l = MatMul (f, w3)
        y = Softmax (l)
    }"""
    target = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]], np.float32)
    return GoldenNetwork("attention", text, weights, drawn["x"], target, Loss.KL, OutputKind.PROBABILITIES)


def decoder() -> GoldenNetwork:
    """Transposed convolution, InstanceNorm, PRelu, resizes and depth to space; squared error."""
    drawn = _draw(
        2, x=(2, 4, 3, 4), w1=(4, 2, 3, 3), b1=(4,), scale=(4,), shift=(4,), slope=(4, 1, 1), w2=(8, 8, 3, 3), target=(2, 2, 20, 28),
    )  # fmt: skip
    weights = {n: v for n, v in drawn.items() if n not in {"x", "target"}}
    weights |= {"twice": np.array([1, 1, 2, 2], np.float32)}
    text = """g (float[2, 4, 3, 4] x) => (float[2, 2, 20, 28] y) {
        c1 = ConvTranspose <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (x, w1, b1)
        n1 = InstanceNormalization (c1, scale, shift)
        r1 = PRelu (n1, slope)
        up = Resize <mode = "linear"> (r1, , twice)
        ne = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (r1, , twice)
        j = Concat <axis = 1> (up, ne)
        c2 = Conv <pads = [1, 1, 1, 1]> (j, w2)
        d = DepthToSpace <blocksize = 2, mode = "CRD"> (c2)
        y = Tanh (d)
    }"""
    return GoldenNetwork(
        "decoder", text, weights, drawn["x"], drawn["target"], Loss.SQUARED_ERROR, OutputKind.VALUES
    )
