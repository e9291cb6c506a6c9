"""Photographs of ../shared for networks that take images, on the levels that each of them expects."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
from machine import SHARED
from PIL import Image

from onnxmpq.data.input_shapes import apply_shapes, guess_shapes
from onnxmpq.data.levels import matching_levels
from onnxmpq.data.samples import is_channels_last
from onnxmpq.data.synthetic import LEVELS, Levels
from onnxmpq.errors import OnnxmpqError
from onnxmpq.runtime.session import InputSpec, Runtime
from onnxmpq.values.arrays import Array

ZIP = SHARED / "data" / "imagenet_calib_1000.zip"
PHOTOGRAPHS = LEVELS[1]  # of pixels from 0 to 1


def photos(model: Path, count: int) -> dict[str, Array] | None:
    """`count` photographs as a network takes them; None for one that does not take a colour image and nothing else."""
    try:
        runtime = Runtime("cpu")
        session = runtime.session(model)
        specs = guess_shapes(session, apply_shapes(session.inputs, {}), 0)
        if len(specs) != 1 or not _is_image(specs[0]):
            return None
        levels = matching_levels(runtime, onnx.load(model), specs, 0)
    except OnnxmpqError:
        return None
    return {specs[0].name: _read(specs[0], levels, count)}


def _is_image(spec: InputSpec) -> bool:
    shape = spec.shape[1:]
    colours = len(shape) == 3 and 3 in (shape[0], shape[-1])
    sizes = sorted(int(size or 0) for size in shape)
    return colours and spec.dtype.kind == "f" and sizes[1] >= 16


def _read(spec: InputSpec, levels: Levels, count: int) -> Array:
    last = is_channels_last(spec.shape)
    height, width = (int(spec.shape[i] or 1) for i in ((-3, -2) if last else (-2, -1)))
    with zipfile.ZipFile(ZIP) as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")][:count]
        images = [
            Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((width, height))
            for name in names
        ]
    pixels = np.stack([np.asarray(image, np.float32) / 255 for image in images])
    scaled = (pixels - PHOTOGRAPHS.mean) / PHOTOGRAPHS.deviation * levels.deviation + levels.mean
    return np.ascontiguousarray(scaled if last else scaled.transpose(0, 3, 1, 2)).astype(spec.dtype)
