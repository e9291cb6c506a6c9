"""The same plan stored in its own bits and in whole bytes: one network, bit for bit."""

from pathlib import Path

import numpy as np
import pytest

import onnxmpq
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"


def outputs(path: Path) -> Array:
    images = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
    return Runtime("cpu").session(path).run({"image": images})["logits"]


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_weights_compute_what_plain_bytes_do(bits: int, activations: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{storage}.onnx" for storage in ("packed", "int8")]
    for file in files:
        onnxmpq.compile_model(
            DIGITS, ["8bit-avg"], activations=activations, storage=file.stem, keep=[f"*={bits}"], isa="vnni",
            samples=8, rounding="nearest", method="size", verify=False, force=True, output=file,
        )  # fmt: skip
    packed, plain = map(outputs, files)
    np.testing.assert_array_equal(packed, plain)
