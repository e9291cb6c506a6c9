"""Runs mutated files through the tool in one process, as many as it is told; what is no error of ours is printed.

python mutate.py KIND FOLDER FIRST COUNT
"""

from __future__ import annotations

import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator

import onnxmpq
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.inspection import inspect_model

MEMORY = 6 << 30  # bytes of address space; threads and libraries take two of them


def main() -> None:
    kind, folder, first, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(first, first + count):
        print(f"at {kind} {number}", flush=True)  # the last that is printed did it, where the process dies
        _try(kind, folder, number)


def _try(kind: str, folder: Path, number: int) -> None:
    """One mutated copy of the file of this kind, used as its user would."""
    work = folder / f"{kind}-{number}"
    shutil.copytree(folder / "valid", work)
    victim = next(work.glob(f"{kind}.*"))
    victim.write_bytes(mutated(victim.read_bytes(), np.random.default_rng([number, len(kind)])))
    try:
        USES[kind](work)
    except (onnxmpq.OnnxmpqError, OSError):
        pass
    except MemoryError:
        print(f"FAULT {kind} {number}: MemoryError", flush=True)
    except BaseException:  # noqa: BLE001 - whatever it is, it is a fault
        print(f"FAULT {kind} {number}: {traceback.format_exc()}", flush=True)
    finally:
        shutil.rmtree(work)


def mutated(content: bytes, rng: Generator) -> bytes:
    """Bytes flipped, cut out, repeated, overwritten with numbers at the edges, or the end cut off."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place, length = int(rng.integers(0, max(len(data), 1))), int(rng.integers(1, 9))
        change = int(rng.integers(0, 6))
        if change == 0:
            data[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif change == 1:
            del data[place : place + length]
        elif change == 2:
            data[place:place] = data[place : place + length]
        elif change == 3:
            data[place : place + length] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * length
        elif change == 4:
            data[place : place + length] = rng.bytes(length)
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def _compile(work: Path, data: str = "data.npz", **options: object) -> None:
    onnxmpq.compile_model(
        work / "model.onnx", ["8bit-avg"], work / data, output=work / "out.onnx", activations="fp32", effort="fast",
        rounding="nearest", provider="cpu", verify=False, **{"method": "size", **options},  # type: ignore[arg-type]
    )  # fmt: skip


def _model(work: Path) -> None:
    inspect_model(work / "model.onnx")
    _compile(work)


def _images(work: Path) -> None:
    _compile(work, "images.zip", preprocess=Preprocess.parse("resize=8,crop=8"))


def _steps(work: Path) -> None:
    _compile(work, "images.zip", preprocess=Preprocess.parse(str(work / "steps.txt")))


USES: dict[str, Callable[[Path], None]] = {
    "model": _model,
    "data": _compile,
    "images": _images,
    "found": lambda work: _compile(work, method=str(work / "found.json")),
    "steps": _steps,
}

if __name__ == "__main__":
    main()
