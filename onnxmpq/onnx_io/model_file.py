"""Model files, read and written. Nothing else reads a file that onnxmpq did not write itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from onnxmpq.errors import MissingFileError, ModelError, nearest
from onnxmpq.onnx_io.contents import DEFAULT_DOMAIN, nodes, tensors
from onnxmpq.onnx_io.late_values import raw_bytes
from onnxmpq.onnx_io.other_encodings import readable
from onnxmpq.onnx_io.output_file import require_writable, written

LARGEST_FILE = 2**31 - 1  # bytes: the longest message that protobuf reads and writes

# What onnx.checker refuses although ONNX Runtime runs it, and import_graph or export_model put in order.
_HARMLESS = (
    "must be topologically sorted",
    "'name' of 'graph' is required",
    "'type' of 'value_info' is required",  # an output without a type: inference finds it
    "in initializer but not in graph input",  # an IR version below 4 that leaves them out
    "is deprecated in domain_version",  # GroupNormalization-18, which ONNX Runtime runs
    "No Op registered for",  # ONNX Runtime knows more operators than onnx, and names those it does not
)


def load_model(
    path: str | os.PathLike[str], accepts: Callable[[onnx.ModelProto], bool] = lambda _: False
) -> onnx.ModelProto:
    """Read an ONNX file and its external data, which ends up inside the returned model.

    The model is checked by onnx.checker, whose verdict counts but for what ONNX Runtime does not mind:
    nodes out of order, a graph without a name, outputs without a type, initializers that an old IR version
    wants listed as inputs, operators unknown to onnx; and whatever else is in a model that it `accepts`, which is
    asked about those alone that the checker refuses.

    Raises MissingFileError where the file or its external data do not exist; ModelError for anything that is
    not a whole, valid ONNX model of at most 2 GB, or whose external data lie outside its folder.
    """
    file = Path(path)
    model = _parse(_read(file), file)
    _require_content(model, file)
    _load_external_data(model, file)
    _check(model, file, accepts)
    return model


def _read(file: Path) -> bytes:
    if file.is_dir():
        raise ModelError(f"{file} is a folder, wanted an ONNX file: name the .onnx file inside it")
    if not file.exists():
        raise MissingFileError(f"{file} does not exist{_neighbours(file)}")
    if not file.is_file():
        raise ModelError(f"{file} is not a regular file, wanted an ONNX file")
    size = file.stat().st_size
    if size == 0:
        raise ModelError(f"{file} is empty; export or download the model again")
    if size > LARGEST_FILE:
        raise ModelError(_too_large(file, size))
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}; check its permissions") from error


def _neighbours(file: Path) -> str:
    """The nearest names in the file's folder, as the end of a message."""
    if not file.parent.is_dir():
        return f": there is no folder {file.parent}"
    hint = nearest(file.name, (other.name for other in file.parent.iterdir()))
    return f"; {hint}" if hint else ""


def _too_large(file: Path, size: int) -> str:
    return (
        f"{file} has {size / 1e9:.2f} GB with its external data, but models are held in memory as one message of "
        "at most 2 GB; compile a smaller model, or its parts"
    )


def _parse(content: bytes, file: Path) -> onnx.ModelProto:
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer, not the model itself; run `git lfs pull`")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        if (mended := readable(content)) is not content:
            model.ParseFromString(mended)
    except DecodeError as error:
        raise ModelError(
            f"{file} is not an ONNX file, or is cut short ({len(content):,} bytes); export or download it again"
        ) from error
    return model


def _require_content(model: onnx.ModelProto, file: Path) -> None:
    """Bytes that are no model may still parse, as one with nothing in it."""
    lacking = [
        what
        for what, present in (
            ("a graph", model.HasField("graph")),
            ("nodes", bool(model.graph.node)),
            ("an opset of the ONNX domain", any(o.domain in DEFAULT_DOMAIN for o in model.opset_import)),
        )
        if not present
    ]
    if lacking:
        raise ModelError(
            f"{file} is not an ONNX model, or is cut short: it lacks {', '.join(lacking)}; export it again"
        )


def _check(model: onnx.ModelProto, file: Path, accepts: Callable[[onnx.ModelProto], bool]) -> None:
    # The checker prints, to the native stdout, what it thinks of experimental operators.
    known = all(onnx.defs.has(n.op_type) for n in nodes(model) if n.domain in DEFAULT_DOMAIN)
    try:
        if known:
            onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).partition("==> Context:")[0].split())
        if not any(harmless in reason for harmless in _HARMLESS) and not accepts(model):
            raise ModelError(f"{file} is not valid ONNX, export it again: {reason[:300]}") from error
    _check_tensors(model, file)


def _check_tensors(model: onnx.ModelProto, file: Path) -> None:
    """Raise ModelError for a tensor that its bytes do not fill, whoever accepts it."""
    for tensor in tensors(model):
        try:
            onnx.checker.check_tensor(tensor)
        except onnx.checker.ValidationError as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{file} is not valid ONNX, export it again: {reason[:300]}") from error
    for tensor in tensors(model):  # the checker of onnx before 1.23 does not count
        if tensor.HasField("raw_data") and len(tensor.raw_data) != raw_bytes(tensor):
            raise ModelError(
                f"{file}: tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, its type and shape want "
                f"{raw_bytes(tensor)}; export it again"
            )


def _load_external_data(model: onnx.ModelProto, file: Path) -> None:
    """Move external data into the tensors; nothing is read before every location and size is known to be good."""
    external = [t for t in tensors(model) if t.data_location == TensorProto.EXTERNAL]
    spans = [_external_span(tensor, file) for tensor in external]
    total = model.ByteSize() + sum(length for _, _, length in spans)
    if total > LARGEST_FILE:
        raise ModelError(_too_large(file, total))
    for tensor, (data, offset, length) in zip(external, spans, strict=True):
        with data.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _external_span(tensor: TensorProto, file: Path) -> tuple[Path, int, int]:
    """File, offset and length in bytes of a tensor's external data, all of it present."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data = _external_file(entries.get("location", ""), tensor.name, file)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", raw_bytes(tensor)))
    except ValueError as error:
        raise ModelError(f"{file}: external data of {tensor.name!r} have no usable span: {error}") from error
    size = data.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{data} is cut short: {tensor.name!r} needs bytes {offset:,} to {offset + length:,}, the file has "
            f"{size:,}; copy it again beside {file.name}"
        )
    return data, offset, length


def _external_file(location: str, tensor_name: str, file: Path) -> Path:
    # Resolved first: that covers absolute paths, `..` and symbolic links alike.
    folder = file.parent.resolve()
    data = (folder / location).resolve()
    if not data.is_relative_to(folder):
        raise ModelError(
            f"{file}: external data of {tensor_name!r} lie outside the model's folder ({location}), which is "
            "refused; put the data file itself beside the model"
        )
    if not data.is_file():
        raise MissingFileError(
            f"{file} needs its external data {location!r}, which is missing{_neighbours(data)}"
        )
    return data


@contextmanager
def written_model(
    model: onnx.ModelProto, path: str | os.PathLike[str], *, protect: Sequence[Path] = ()
) -> Iterator[Path]:
    """Write a model in one piece: under another name in the same folder, renamed once the body is through with it.

    Raises OutputError where `path` cannot be written or is one of the files `protect` (under whatever name). That, what
    the body raises, and an interrupt leave the folder as it was.
    """
    file = Path(path)
    require_writable(file, protect)
    try:
        content = model.SerializeToString()
    except ValueError as error:  # protobuf's, for more than 2 GB
        raise ModelError(f"the model for {file} is larger than 2 GB, the most that ONNX can hold") from error
    with written(content, file, protect=protect) as part:
        yield part
