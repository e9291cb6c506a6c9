"""Images in a folder, or in a zip of one (read as it is), with labels from folder names or a file.

An image in a folder named by an integer has that class index; `labels.txt` (lines `path label`) or `labels.csv`
(`path,label`; paths relative to the file) takes precedence. EXIF orientation is not applied.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from onnxmpq.data.npz import open_zip
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.data.samples import Labels, Positions, Sample, Source, batch_step, check_fit
from onnxmpq.errors import DataError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SHOWN = 8  # suffixes of files that are no images
_SEPARATORS = {"labels.txt": None, "labels.csv": ","}  # None: white space

Read = Callable[[str], bytes]


def open_images(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None) -> Source:
    """The images anywhere below `path` (a folder or a zip), sorted by name, for the only graph input.

    Decodes the first image only. Raises DataError for a missing `preprocess`, several graph inputs, an image
    that cannot be read or does not fit, and for labels that miss an image.
    """
    files = _list_files(path)
    images = [name for name in files if PurePosixPath(name).suffix.lower() in _SUFFIXES]
    if not images:
        raise DataError(f"{path} holds no images: {_found(files)}; read are {', '.join(sorted(_SUFFIXES))}")
    spec, prepared = _check_request(path, inputs, preprocess)
    with _reader(path) as read:
        labels = _read_labels(read, files, images, path)
        first = _decode(read, images[0], spec, prepared, path)

    def samples(positions: Positions) -> Iterator[Sample]:
        with _reader(path) as read:
            for position in positions:
                yield {spec.name: _decode(read, images[position], spec, prepared, path)}

    step = batch_step(inputs, {spec.name: first.ndim}, str(path))
    return Source(str(path), (spec,), len(images), step, labels, samples)


def _check_request(
    path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None
) -> tuple[InputSpec, Preprocess]:
    if preprocess is None:
        raise DataError(
            f"{path} holds images, and nothing says how to prepare them; give --preprocess as the model was trained, "
            "such as --preprocess imagenet,resize=256,crop=224"
        )
    if len(inputs) != 1:
        names = ", ".join(repr(spec.name) for spec in inputs)
        raise DataError(f"{path} holds images, but the graph has {len(inputs)} inputs ({names}); use an npz")
    return inputs[0], preprocess


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[Read]:
    """A function that gives the bytes of a file below `path`, by its relative name."""
    if path.is_dir():
        yield lambda name: _read_file(path / name)
        return
    with open_zip(path) as archive:
        yield archive.read


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _list_files(path: Path) -> list[str]:
    """Relative names, sorted; hidden files and what macOS adds to a zip are left out."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()]
    else:
        with open_zip(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    return sorted(name for name in names if not any(map(_is_hidden, PurePosixPath(name).parts)))


def _found(files: Sequence[str]) -> str:
    """What a folder without images holds, in words."""
    if not files:
        return "it is empty"
    suffixes = sorted({PurePosixPath(name).suffix.lower() or "no suffix" for name in files})
    more = ", ..." if len(suffixes) > _SHOWN else ""
    return (
        f"found {len(files)} other file{'s' if len(files) > 1 else ''} ({', '.join(suffixes[:_SHOWN])}{more})"
    )


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _decode(read: Read, name: str, spec: InputSpec, preprocess: Preprocess, path: Path) -> Array:
    what = f"image {name} of {path}"
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            sample = preprocess.apply(image)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError(f"{what} cannot be used: {error}") from error
    check_fit(spec, sample.dtype, sample.shape, what, f"change --preprocess (it is {preprocess})")
    return sample


def _read_labels(read: Read, files: Sequence[str], images: Sequence[str], path: Path) -> Labels | None:
    lists = [name for name in files if PurePosixPath(name).name in _SEPARATORS]
    if len(lists) > 1:
        raise DataError(f"{path} holds several lists of labels ({', '.join(lists)}); keep one")
    if lists:
        listed = _parse_labels(read(lists[0]), PurePosixPath(lists[0]), path)
        labels = [listed.get(name) for name in images]
        remedy = f"add them to {lists[0]}"
    else:
        folders = [PurePosixPath(name).parent.name for name in images]
        labels = [int(folder) if _is_class(folder) else None for folder in folders]
        remedy = "put each in a folder named by its class index, or none"
    missing = [name for name, label in zip(images, labels, strict=True) if label is None]
    if len(missing) == len(images) and not lists:
        return None
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images of {path} have no label ({missing[0]}); {remedy}"
        )
    return np.array(labels, np.int64)


def _is_class(word: str) -> bool:
    return word.isascii() and word.isdigit()  # there are other digits, which are no numbers to Python


def _parse_labels(data: bytes, name: PurePosixPath, path: Path) -> dict[str, int]:
    """Labels by image name; the last field of a line is the label, so that names may hold the separator."""
    labels = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        image, *label = line.strip().rsplit(_SEPARATORS[name.name], 1)
        if len(label) != 1 or not _is_class(label[0].strip()):
            raise DataError(
                f"line {number} of {name} in {path} is {line[:80]!r}; wanted an image's path and its class index"
            )
        labels[str(name.parent / image.strip())] = int(label[0])
    return labels
