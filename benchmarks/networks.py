"""The networks and data that benchmarks run on: those of ../shared, or models/digits where it is missing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from machine import ROOT, SHARED

from onnxmpq import Preprocess
from onnxmpq.data import Dataset, DataSource, InputSpec, open_data
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array

_CHUNK = 500  # test images that are normalised at a time


@dataclass(frozen=True, slots=True)
class Network:
    """A classifier with logits as its only output, and its data.

    `calibration` and `evaluation` are `.zip` files of images, or `.npz` files of `images` (uint8
    [N, 3, H, W]) or of the model's input; all hold labels. `preprocess` is for images, None for inputs.
    """

    name: str
    model: Path
    calibration: Path
    evaluation: Path
    preprocess: Preprocess | None = None

    @property
    def decoding(self) -> Preprocess | None:
        """What to open the data with: an npz is normalised here, images are by the library."""
        return self.preprocess if self.calibration.suffix == ".zip" else None


def networks(names: Sequence[str] = ()) -> list[Network]:
    """The networks of these names, all where none is given. SystemExit for a name that is not there."""
    if not SHARED.is_dir():
        print(f"{SHARED} is not there: running on the project's own models/digits")
    known = {network.name: network for network in (_shared() if SHARED.is_dir() else [])} or digits()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no network {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names or known]


def calibration(network: Network, scratch: Path) -> Path:
    """A file of the calibration data in `scratch`, without the labels, so that nothing can look at them."""
    source, target = network.calibration, scratch / network.calibration.name
    if source.suffix == ".zip":
        return _flat_copy(source, target)
    with np.load(source) as arrays:
        values = {name: arrays[name] for name in arrays.files if name != "labels"}
    if network.preprocess is not None:
        values = {"input": normalise(values["images"], network.preprocess)}
    np.savez(target, **values)
    return target


def labelled_calibration(network: Network) -> DataSource:
    """The calibration data with their labels, for methods that ask for them."""
    path, preprocess = network.calibration, network.preprocess
    if path.suffix == ".zip" or preprocess is None:
        return path
    with np.load(path) as arrays:  # all of them: a stream would give its first ones whatever the seed
        return {"input": normalise(arrays["images"], preprocess), "labels": arrays["labels"]}


def evaluation(network: Network) -> DataSource:
    """The held-out data with labels: for reporting, nothing is chosen on them."""
    path, preprocess = network.evaluation, network.preprocess
    if path.suffix == ".zip" or preprocess is None:
        return path

    def stream() -> Iterator[dict[str, Array]]:
        with np.load(path) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        for start in range(0, len(images), _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield {"input": normalise(images[rows], preprocess), "labels": labels[rows]}

    return stream


def open_samples(network: Network, source: DataSource, samples: int | None) -> Dataset:
    """`source` as the network takes it: so many samples at random, or all where None."""
    inputs = Runtime().session(network.model).inputs
    specs = [InputSpec(i.name, i.dtype, (None, *i.shape[1:])) for i in inputs]
    return open_data(source, specs, samples=samples, preprocess=network.decoding)


def normalise(images: Array, preprocess: Preprocess) -> Array:
    """Float32 inputs [N, 3, H, W] from uint8 images of that shape."""
    mean = np.array(preprocess.mean, np.float32).reshape(-1, 1, 1)
    std = np.array(preprocess.std, np.float32).reshape(-1, 1, 1)
    values: Array = (images.astype(np.float32) * np.float32(preprocess.scale) - mean) / std
    return values


def _shared() -> list[Network]:
    models, data = SHARED / "models", SHARED / "data"
    cifar = (data / "cifar10_calib_2k.npz", data / "cifar10_test.npz", Preprocess.parse("imagenet"))
    imagenet = (data / "imagenet_calib_1000.zip", data / "imagenet_val_800.zip")
    return [
        Network("resnet20", models / "resnet20_cifar10.onnx", *cifar),
        Network("resnet56", models / "resnet56_cifar10.onnx", *cifar),
        Network("mobilenetv2", models / "mobilenetv2_1.0.onnx", *imagenet, Preprocess.parse("tf")),
        Network("squeezenet", models / "squeezenet1_1.onnx", *imagenet, Preprocess.parse("imagenet")),
    ]


def digits() -> dict[str, Network]:
    """The project's own model, by its name."""
    model = ROOT / "models" / "digits.onnx"
    data = model.with_suffix(".calib.npz"), model.with_suffix(".eval.npz")
    return {"digits": Network("digits", model, *data)}


def _flat_copy(source: Path, target: Path) -> Path:
    """The images of a zip whose folders are their labels, in no folder; the images' order stays."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for info in before.infolist():
            path = PurePosixPath(info.filename)
            if not info.is_dir():
                after.writestr(f"{path.parent.name}_{path.name}", before.read(info))
    return target
