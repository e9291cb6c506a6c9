"""An output that is next to nothing is proved by the scale of what it was made of."""

import numpy as np
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.normalize.proof import prove
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

CPU = Runtime("cpu", threads=1)
SAMPLE = {"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}
W = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32) * 0.1
QUIET = {  # what of an output is rounding, and what is not
    "a probability": ("h = Gemm (x, w, low) y = Sigmoid (h)", 1e-9, 1e-3),
    "a product of probabilities": (
        "h = Gemm (x, w, low) s = Sigmoid (h) t = Sigmoid (x) m = ReduceMax <axes = [1]> (t) y = Mul (s, m)",
        1e-9,
        1e-3,
    ),
    "what is left of one": (
        "h = Gemm (x, w, low) n = Neg (h) s = Sigmoid (n) y = Sub (one, s)",
        1e-9,
        1e-3,
    ),
    "the largest probability": (
        "h = Gemm (x, w, low) s = Sigmoid (h) y = ReduceMax <axes = [1]> (s)",
        1e-9,
        1e-3,
    ),
    "a sigmoid written out": (
        "h = Gemm (x, w, low) n = Neg (h) e = Exp (n) d = Add (e, one) y = Div (one, d)",
        1e-9,
        1e-3,
    ),
    "a difference": ("h = MatMul (x, w) k = Add (h, small) y = Sub (k, h)", 1e-7, 1e-3),
    "what a bias takes away": ("z = MatMul (x, tiny) h = Sub (z, low) y = Gemm (h, unit, low)", 1e-6, 1e-2),
}


@pytest.mark.parametrize("case", QUIET)
def test_what_is_next_to_nothing_may_differ_by_rounding(case: str) -> None:
    body, rounding, change = QUIET[case]
    constants = {
        "w": W, "low": np.full(3, -16, np.float32), "one": np.float32(1), "small": np.float32(1e-6), "tiny": W * 1e-6,
        "unit": np.eye(3, dtype=np.float32),
    }  # fmt: skip
    used = {name: np.asarray(value) for name, value in constants.items() if name in body}
    model = model_of(f"g (float[4, 8] x) => (float[N, M] y) {{ {body} }}", **used)
    reference = CPU.session(model, optimize=False).run(SAMPLE)
    noise = np.where(np.arange(reference["y"].size).reshape(reference["y"].shape) % 2, 1, -1)
    prove(CPU, model, SAMPLE, {"y": reference["y"] + np.float32(rounding) * noise.astype(np.float32)}, 60, "")
    with pytest.raises(ModelError, match="changed output 'y'"):
        prove(CPU, model, SAMPLE, {"y": reference["y"] + np.float32(change)}, 60, "a pass")
