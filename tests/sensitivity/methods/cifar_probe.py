"""The probe of a real network, for the slow tests of methods."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from shared import SHARED

from onnxmpq.data import InputSpec, open_data
from onnxmpq.normalize.prepare import prepare
from onnxmpq.rounding.candidates import Candidates
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.values.option import Option


@functools.cache
def cifar_probe() -> Probe:
    """ResNet-56 on 128 labelled training images, nearest rounding, 2 to 8 bits; KL as papers have it."""
    runtime = Runtime("cpu", threads=1)
    model = onnx.load(SHARED / "models" / "resnet56_cifar10.onnx")
    with np.load(SHARED / "data" / "cifar10_calib_2k.npz") as arrays:
        images, labels = arrays["images"][:128], arrays["labels"][:128]
    mean, std = (np.reshape(v, (3, 1, 1)) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    arrays_ = {"input": ((images / 255 - mean) / std).astype(np.float32), "labels": labels}
    data = open_data(arrays_, [InputSpec("input", np.dtype(np.float32), (None, 3, 32, 32))], samples=None)
    prepared = prepare(
        runtime, model, next(data.batches(1)).feeds, integer=False, batchable=True, metric="kl"
    )
    options = {
        la.name: tuple(Option(b) for b in (2, 3, 4, 5, 6, 8)) for la in prepared.layers if la.reason is None
    }
    return Probe(
        prepared.model, prepared.layers, options, Candidates(prepared.model, "nearest").constants, data,
        prepared.metric, runtime, prepared.traced, prepared.batch_size,
    )  # fmt: skip
