"""Two thousand damaged files: models, data, images, saved sensitivities, texts. One line each, never a traceback or a hang."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from mutate import USES
from PIL import Image

import onnxmpq
from onnxmpq.testing import model_of

FEW, MANY, AT_ONCE = 6, 400, 50  # mutations of a kind; and in a process, which may take so many seconds
SECONDS = 600
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folder `valid`: a model, and one file of each kind that goes with it."""
    root = tmp_path_factory.mktemp("mutated")
    folder = root / "valid"
    folder.mkdir()
    model = model_of(
        """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p)
            y = Gemm (f, v)
        }""",
        w=RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
        b=RNG.standard_normal(8).astype(np.float32),
        v=RNG.standard_normal((8, 5)).astype(np.float32),
    )
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", x=RNG.standard_normal((8, 3, 8, 8)).astype(np.float32))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(6):
            held = io.BytesIO()
            Image.fromarray(RNG.integers(0, 256, (9, 9, 3)).astype(np.uint8)).save(held, "png")
            archive.writestr(f"{number}.png", held.getvalue())
        archive.writestr("labels.csv", "".join(f"{n}.png,{n % 5}\n" for n in range(6)))
    (folder / "steps.txt").write_text("resize=8\ncrop=8\nscale=1/255\nmean=0.5:0.4:0.5\n")
    onnxmpq.compile_model(
        folder / "model.onnx", ["5bit-avg"], folder / "data.npz", output=root / "out.onnx", activations="fp32", effort="fast",
        provider="cpu", verify=False, save_sensitivity=folder / "found.json",
    )  # fmt: skip
    return root


def faults(kind: str, folder: Path, first: int, count: int) -> list[str]:
    """What went wrong: an exception that is none of ours, a crash, or no end."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("mutate.py")),
        kind,
        str(folder),
        str(first),
        str(count),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as hung:
        said = hung.stdout.decode() if isinstance(hung.stdout, bytes) else str(hung.stdout)
        return [f"no end: {said.strip().splitlines()[-1:]}"]
    found = done.stdout.split("FAULT ")[1:]
    if done.returncode:
        found.append(f"exit {done.returncode} {done.stdout.strip().splitlines()[-1:]}: {done.stderr[-500:]}")
    return found


@pytest.mark.parametrize("kind", USES)
def test_a_few_damaged_files_end_in_one_line(kind: str, valid: Path) -> None:
    assert faults(kind, valid, 0, FEW) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", USES)
@pytest.mark.parametrize("first", range(0, MANY, AT_ONCE))
def test_damaged_files_end_in_one_line(kind: str, first: int, valid: Path) -> None:
    assert faults(kind, valid, first, AT_ONCE) == []
