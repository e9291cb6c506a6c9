"""Does a change of the code leave the compiled files as they were? Compiles, and holds the files' hashes against others.

    python benchmarks/same_files.py --save before.json      # on the code before
    python benchmarks/same_files.py --against before.json   # on the code after: exit code 1 where a file differs

`twelve`: digits, ResNet-20, MobileNetV2 and SqueezeNet, each weight-only, int8 and in native tensors. `wide` (the
default): these on few samples, and the digits under every method, target, storage, rounding and kind of budget whose
result does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from machine import ROOT, SHARED
from networks import normalise

from onnxmpq.data.preprocess import Preprocess

Case = tuple[str, list[str]]

_FORMS: Mapping[str, Sequence[str]] = {
    "weight-only": ("--activations", "fp32"),
    "int8": ("--activations", "int8"),
    "native": ("--activations", "int8", "--storage", "native"),
}
_METHODS = ("measured", "fisher", "size", "first-order", "greedy", "csmpq", "ompq", "limpq", "semilayer")
_DIGITS: Mapping[str, Sequence[str]] = {
    **{f"method {name}": ("--budget", "3bit-avg", "--method", name, "--samples", "64") for name in _METHODS},
    **{
        f"budget {word}": ("--budget", word)
        for word in ("2.5bit-avg", "6bit-avg", "50kB", "15%", "8x", "0.02GBOPs", "drop=2%")
    },
    "two budgets": ("--budget", "4bit-avg", "--budget", "40kB"),
    "keep": ("--budget", "3bit-avg", "--keep", "op:Gemm=8", "--bits", "2,3,4,8,fp16"),
    **{
        f"target {name}": ("--budget", "4bit-avg", "--target", name)
        for name in ("ort-cuda", "openvino", "portable")
    },
    "target tensorrt": (
        "--budget",
        "8bit-avg",
        "--target",
        "tensorrt",
    ),  # its tensors of int8 layers have 8 bits
    "int16": ("--budget", "4bit-avg", "--target", "portable", "--activations", "int16"),
    "int4": ("--budget", "6bit-avg", "--target", "portable", "--activations", "int4"),
    "storage int8": ("--budget", "3bit-avg", "--storage", "int8"),
    "rounding nearest": ("--budget", "3bit-avg", "--rounding", "nearest"),
    "effort fast": ("--budget", "3bit-avg", "--effort", "fast"),
    "seed 1": ("--budget", "3bit-avg", "--seed", "1"),
    "vnni": ("--budget", "6bit-avg", "--isa", "vnni"),
    **{
        f"calibrator {name}": ("--budget", "4bit-avg", "--calibrator", name)
        for name in ("minmax", "percentile", "entropy", "mse")
    },
}


def networks(samples: Sequence[str], folder: Path) -> Iterator[Case]:
    """The twelve, those in ../shared where it is there."""
    images = ("--data", str(SHARED / "data/imagenet_calib_1000.zip"), "--preprocess")
    known: dict[str, tuple[Path, Sequence[str]]] = {"digits": (ROOT / "models/digits.onnx", ())}
    if not SHARED.is_dir():
        print(f"{SHARED} is not there: the digits alone")
    else:
        known |= {
            "resnet20": (SHARED / "models/resnet20_cifar10.onnx", ("--data", str(cifar(folder)))),
            "squeezenet": (SHARED / "models/squeezenet1_1.onnx", (*images, "imagenet,resize=256,crop=224")),
            "mobilenetv2": (SHARED / "models/mobilenetv2_1.0.onnx", (*images, "tf,resize=256,crop=224")),
        }
    for name, (model, data) in known.items():
        for form, options in _FORMS.items():
            yield f"{name} {form}", [str(model), "--budget", "4bit-avg", *data, *options, *samples]


def cifar(folder: Path) -> Path:
    """Calibration images for CIFAR-10 networks, normalised, as a file in `folder`."""
    target = folder / "cifar.npz"
    with np.load(SHARED / "data/cifar10_calib_2k.npz") as stored:
        np.savez(target, input=normalise(stored["images"], Preprocess.parse("imagenet")))
    return target


def cases(which: str, folder: Path) -> Iterator[Case]:
    yield from networks(() if which == "twelve" else ("--samples", "96"), folder)
    if which == "wide":
        digits = str(ROOT / "models/digits.onnx")
        yield from ((f"digits {name}", [digits, *options]) for name, options in _DIGITS.items())


def compiled(arguments: Sequence[str], folder: Path) -> str:
    """SHA-256 of the compiled file; the last line of what was printed where there is none."""
    output = folder / "compiled.onnx"
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "onnxmpq", "compile", *arguments, "--output", str(output), "--no-verify"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not output.is_file():
        return f"no file: {(done.stderr.strip().splitlines() or [''])[-1]}"
    return hashlib.sha256(output.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", choices=("wide", "twelve"), default="wide")
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    chosen = parser.parse_args()
    before = json.loads(chosen.against.read_text()) if chosen.against else {}
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in cases(chosen.cases, Path(folder)):
            if chosen.only not in name:
                continue
            start = time.perf_counter()
            found[name] = compiled(arguments, Path(folder))
            verdict = "" if name not in before else "same" if before[name] == found[name] else "DIFFERS"
            print(
                f"{name:32} {found[name][:60]:60} {time.perf_counter() - start:6.1f} s  {verdict}", flush=True
            )
    if chosen.save:
        chosen.save.write_text(json.dumps(found, indent=1) + "\n")
    differing = [name for name, value in found.items() if before.get(name, value) != value]
    print(f"{len(found)} compiles, {len(differing)} differ" if before else f"{len(found)} compiles")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
