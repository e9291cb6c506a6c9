"""The same compile on a GPU: skipped aloud where no session gets the CUDA execution provider."""

from pathlib import Path

import numpy as np
import pytest

import onnxmpq
from onnxmpq.runtime.session import Runtime, resolve_runtime

pytestmark = pytest.mark.cuda

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"


@pytest.fixture
def cuda() -> Runtime:
    runtime = resolve_runtime("auto")
    if runtime.provider != "cuda":
        pytest.skip("no session gets the CUDA execution provider here")
    return runtime


def test_sessions_land_on_the_gpu(cuda: Runtime) -> None:
    assert cuda.session(DIGITS).provider == "cuda"


def test_a_compile_on_the_gpu_agrees_with_one_on_the_cpu(cuda: Runtime, tmp_path: Path) -> None:
    reports = {
        provider: onnxmpq.compile_model(
            DIGITS, ["4bit-avg"], provider=provider, samples=64, output=tmp_path / f"{provider}.onnx"
        )
        for provider in (cuda.provider, "cpu")
    }
    on_gpu, on_cpu = reports["cuda"], reports["cpu"]
    assert on_gpu.run.provider == "cuda"
    assert on_gpu.size.average_weight_bits == pytest.approx(on_cpu.size.average_weight_bits, abs=0.05)
    before, after = on_cpu.quality.metrics["compiled"].top1, on_gpu.quality.metrics["compiled"].top1
    assert before is not None
    assert after is not None
    assert abs(before - after) < 0.02
    image = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    outputs = [
        r.session(tmp_path / "cuda.onnx").run({"image": image})["logits"] for r in (cuda, Runtime("cpu"))
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0.05, atol=0.2)
