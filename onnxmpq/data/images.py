"""Images in a folder, or in a zip of one (read as it is), with labels from folder names or a file.

An image in a folder named by an integer has that class index; `labels.txt` (lines `path label`) or `labels.csv`
(`path,label`; paths relative to the file) takes precedence. EXIF orientation is not applied.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxmpq.data.npz import open_zip
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.data.samples import (
    REMEMBERED_BYTES,
    Labels,
    Positions,
    Sample,
    Source,
    batch_step,
    check_fit,
    remembered,
)
from onnxmpq.data.text import decoded
from onnxmpq.errors import DataError
from onnxmpq.runtime.session import InputSpec
from onnxmpq.values.arrays import Array

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_LARGEST_BYTES = 1 << 28  # of a file in a zip: a small one may unpack to more than the memory
_NAMED = 3  # folders
_SHOWN = 8  # suffixes of files that are no images
_SEPARATORS = {"labels.txt": None, "labels.csv": ","}  # None: white space

Read = Callable[[str], bytes]
Pixels = NDArray[np.uint8]  # [H, W, C]


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
        first = _sample(_decode(read, images[0], prepared, path), images[0], spec, prepared, path)

    def decoded_images(positions: Positions) -> Iterator[Sample]:
        with _reader(path) as read:
            for position in positions:
                yield {spec.name: _decode(read, images[position], prepared, path)}

    def samples(positions: Positions) -> Iterator[Sample]:
        for position, image in zip(positions, pixels.read(positions), strict=True):
            yield {spec.name: _sample(image[spec.name], images[position], spec, prepared, path)}

    step = batch_step(inputs, {spec.name: first.ndim}, str(path))
    source = Source(
        str(path), (spec,), len(images), step, labels, decoded_images,
        notes=tuple(_unread_folders(images, labels, path)),
    )  # fmt: skip
    pixels = remembered(source, REMEMBERED_BYTES)  # as bytes: a quarter of what samples of floats take
    return replace(source, read=samples)


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
        yield lambda name: archive.read(_checked(archive.getinfo(name)))


def _read_file(file: Path) -> bytes:
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file} is no regular file; remove it")  # reading a pipe would wait for good
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _checked(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The member of a zip, unless it would fill the memory."""
    if member.file_size > _LARGEST_BYTES:
        raise DataError(f"it unpacks to {member.file_size:,} bytes; wanted at most {_LARGEST_BYTES:,}")
    return member


def _list_files(path: Path) -> list[str]:
    """Relative names, sorted; hidden files and what macOS adds to a zip are left out."""
    if path.is_dir():
        names = list(_walk(path))
    else:
        with open_zip(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    return sorted(name for name in names if not any(map(_is_hidden, PurePosixPath(name).parts)))


def _walk(root: Path) -> Iterator[str]:
    """Names of the files below a folder, those behind linked folders, too; each folder once, since links may go round."""
    seen, waiting = set[Path](), [root]
    while waiting:
        for here, folders, files in os.walk(waiting.pop(0)):
            folder = Path(here)
            folders[:] = [] if folder.resolve() in seen else sorted(f for f in folders if not _is_hidden(f))
            links = [folder / name for name in folders if (folder / name).is_symlink()]
            waiting += [link for link in links if not root.resolve().is_relative_to(link.resolve())]
            if folder.resolve() not in seen:
                yield from ((folder / name).relative_to(root).as_posix() for name in files)
            seen.add(folder.resolve())


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


def _decode(read: Read, name: str, preprocess: Preprocess, path: Path) -> Pixels:
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            return preprocess.pixels(image)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError(f"{_named(name, path)} cannot be used: {error}") from error


def _sample(pixels: Pixels, name: str, spec: InputSpec, preprocess: Preprocess, path: Path) -> Array:
    sample: Array = preprocess.normalised(pixels)
    remedy = f"change --preprocess (it is {preprocess})"
    check_fit(spec, sample.dtype, sample.shape, _named(name, path), remedy)
    return sample


def _named(image: str, path: Path) -> str:
    return f"image {image} of {path}"


def _read_labels(read: Read, files: Sequence[str], images: Sequence[str], path: Path) -> Labels | None:
    lists = [name for name in files if PurePosixPath(name).name in _SEPARATORS]
    if len(lists) > 1:
        raise DataError(f"{path} holds several lists of labels ({', '.join(lists)}); keep one")
    if lists:
        listed = _parse_labels(read(lists[0]), PurePosixPath(lists[0]), path)
        labels = [listed.get(name) for name in images]
    else:
        folders = [PurePosixPath(name).parent.name for name in images]
        labels = [int(folder) if _is_class(folder) else None for folder in folders]
    missing = [name for name, label in zip(images, labels, strict=True) if label is None]
    if missing and not lists:  # folders may have any names
        return None
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images of {path} have no label ({missing[0]}); add them to {lists[0]}"
        )
    return np.array(labels, np.int64)


def _unread_folders(images: Sequence[str], labels: Labels | None, path: Path) -> Iterator[str]:
    """Says where folders may be classes, by names of which nobody knows the class indices."""
    folders = {PurePosixPath(name).parent.name for name in images}
    others = sorted(folder for folder in folders if not _is_class(folder))
    if labels is None and len(folders) > 1:
        shown = ", ".join(name or "the folder itself" for name in others[:_NAMED])
        yield (
            f"no labels are taken from the folders of {path}: {len(others)} of {len(folders)} are not named by a class index "
            f"({shown}{', ...' if len(others) > _NAMED else ''}); name them so, or list the images in labels.txt, for top-1"
        )


def _is_class(word: str) -> bool:
    return word.isascii() and word.isdigit()  # there are other digits, which are no numbers to Python


def _parse_labels(data: bytes, name: PurePosixPath, path: Path) -> dict[str, int]:
    """Labels by image name; the last field of a line is the label, so that names may hold the separator."""
    labels = {}
    for number, line in enumerate(decoded(data).splitlines(), start=1):
        if not line.strip():
            continue
        image, *label = line.strip().rsplit(_SEPARATORS[name.name], 1)
        if len(label) != 1 or not _is_class(label[0].strip()):
            raise DataError(
                f"line {number} of {name} in {path} is {line[:80]!r}; wanted an image's path and its class index"
            )
        labels[str(name.parent / image.strip())] = int(label[0])
    return labels
