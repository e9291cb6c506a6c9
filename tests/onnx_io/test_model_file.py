import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, numpy_helper
from onnx.parser import parse_model

from onnxmpq.errors import MissingFileError, ModelError, OutputError
from onnxmpq.onnx_io.graph import export_model, import_graph
from onnxmpq.onnx_io.model_file import load_model, written_model
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import run

X = np.arange(8, dtype=np.float32)
SCALE = """<ir_version: 8, opset_import: ["": 13]>
    g (float[8] x) => (float[8] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = Mul (x, w) }"""


def saved(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


# Reading


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    model = parse_model(SCALE)
    assert load_model(saved(tmp_path, model)) == model
    assert load_model(str(tmp_path / "m.onnx")) == model


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    saved(tmp_path, parse_model(SCALE), "resnet20.onnx")
    with pytest.raises(MissingFileError, match=r"resnet2\.onnx does not exist; nearest: resnet20\.onnx"):
        load_model(tmp_path / "resnet2.onnx")
    with pytest.raises(MissingFileError, match="there is no folder"):
        load_model(tmp_path / "nowhere" / "m.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, world\n" * 50, "not an ONNX"),
        (b"\x00" * 64, "not an ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "lacks a graph, nodes, an opset"),
    ],
)
def test_bytes_that_are_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        load_model(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = parse_model(SCALE).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError):
            load_model(path)


@pytest.mark.parametrize(
    "text",
    [
        '<ir_version: 8, opset_import: ["": 13]> g (float[8] x) => (float[8] y) { y = Relu <slope = 1.0> (x) }',
        '<ir_version: 8, opset_import: ["": 13]> g (float[8] x) => (float[8] y) { y = Relu (x) y = Neg (x) }',
        '<ir_version: 8, opset_import: ["": 13]> g (float[8] x) => (float[8] y) { y = Add (x) }',
    ],
)
def test_what_the_checker_refuses_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="is not valid ONNX"):
        load_model(saved(tmp_path, parse_model(text)))


def test_a_tensor_shorter_than_its_shape_is_refused(tmp_path: Path) -> None:
    model = parse_model(SCALE)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(X, "w"))
    model.graph.initializer[0].raw_data = b"\0" * 12
    with pytest.raises(ModelError):
        load_model(saved(tmp_path, model))


HARMLESS = {
    "nodes out of order": '<ir_version: 8, opset_import: ["": 13]> g (float[8] x) => (float[8] y) { y = Neg (z) z = Relu (x) }',
    "initializers not listed in IR 3": '<ir_version: 3, opset_import: ["": 8]> g (float[8] x) => (float[8] y) <float[1] w = {-1}> { y = Mul (x, w) }',
    "a long name for the default domain": '<ir_version: 8, opset_import: ["ai.onnx": 13]> g (float[8] x) => (float[8] y) { y = ai.onnx.Neg (x) }',
    "an operator unknown to onnx": '<ir_version: 4, opset_import: ["": 7]> g (float[8] x) => (float[8] y) { y = Affine <alpha = -1.0, beta = 0.0> (x) }',
    "a name that became standard later": '<ir_version: 4, opset_import: ["": 7]> g (float[8] x) => (float[8] y) { h = ThresholdedRelu <alpha = 0.0> (x) y = Neg (h) }',
}  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS)
def test_what_onnx_runtime_accepts_is_accepted(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(saved(tmp_path, parse_model(HARMLESS[case])))
    assert_array_equal(run(export_model(import_graph(model), model), {"x": X})["y"], -X)
    assert capfd.readouterr() == ("", "")


def without_a_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def without_a_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type, model.graph.node[0].domain = "BiasGelu", "com.microsoft"


def with_one_key_twice(model: onnx.ModelProto) -> None:
    for value in "ab":
        model.metadata_props.add(key="made_by", value=value)


@pytest.mark.parametrize("edit", [without_a_shape, without_a_domain, with_one_key_twice])
def test_what_the_checker_refuses_and_the_runtime_accepts(
    tmp_path: Path, edit: Callable[[onnx.ModelProto], None]
) -> None:
    model = parse_model(SCALE)
    edit(model)
    path = saved(tmp_path, model)
    with pytest.raises(ModelError, match="is not valid ONNX"):
        load_model(path)
    model = load_model(path, Runtime().accepts)
    again = export_model(import_graph(model), model)
    assert_array_equal(run(again, {"x": X})["y"], run(model, {"x": X})["y"])


def test_a_tensor_shorter_than_its_shape_is_refused_whoever_accepts_it(tmp_path: Path) -> None:
    model = parse_model(SCALE)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(X, "w"))
    model.graph.initializer[0].raw_data = b"\0" * 12
    with pytest.raises(ModelError):
        load_model(saved(tmp_path, model), lambda _: True)


def test_a_graph_without_a_name_and_an_output_without_a_type(tmp_path: Path) -> None:
    model = parse_model(SCALE)
    model.graph.ClearField("name")
    model.graph.output[0].ClearField("type")
    model = load_model(saved(tmp_path, model))
    again = export_model(import_graph(model), model)
    onnx.checker.check_model(again, full_check=True)
    assert_array_equal(run(again, {"x": X})["y"], X * (X + 1))


# External data


def with_external_data(folder: Path, location: str, **span: int) -> Path:
    """A model in `folder`/model whose weight w = 1, 2 ... 8 is said to be at `location`."""
    (folder / "model").mkdir()
    model = parse_model(SCALE)
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **span}.items():
        weight.external_data.add(key=key, value=str(value))
    return saved(folder / "model", model)


WEIGHT = (X + 1).tobytes()


@pytest.mark.parametrize("span", [{}, {"offset": 16}, {"offset": 16, "length": 32}, {"length": 32}])
def test_external_data_end_up_in_the_model(tmp_path: Path, span: dict[str, int]) -> None:
    path = with_external_data(tmp_path, "w.bin", **span)
    (path.parent / "w.bin").write_bytes(b"\7" * span.get("offset", 0) + WEIGHT + b"\7" * 5)
    model = load_model(path)
    assert not model.graph.initializer[0].external_data
    assert_array_equal(run(model, {"x": X})["y"], X * (X + 1))


def test_external_data_that_are_missing(tmp_path: Path) -> None:
    path = with_external_data(tmp_path, "w.bin")
    (path.parent / "w.dat").write_bytes(WEIGHT)
    with pytest.raises(
        MissingFileError, match=r"needs its external data 'w.bin', which is missing; nearest: w\.dat"
    ):
        load_model(path)


@pytest.mark.parametrize(
    "span", [{"offset": 1}, {"length": 33}, {"offset": -4}, {"length": -1}, {"offset": 64}]
)
def test_external_data_that_are_too_short(tmp_path: Path, span: dict[str, int]) -> None:
    path = with_external_data(tmp_path, "w.bin", **span)
    (path.parent / "w.bin").write_bytes(WEIGHT)
    with pytest.raises(ModelError, match="is cut short"):
        load_model(path)


def test_external_data_of_the_wrong_size_for_the_tensor(tmp_path: Path) -> None:
    path = with_external_data(tmp_path, "w.bin", length=28)
    (path.parent / "w.bin").write_bytes(WEIGHT)
    with pytest.raises(ModelError):
        load_model(path)


@pytest.mark.parametrize("escape", ["dots", "absolute", "link", "linked folder"])
def test_external_data_outside_the_folder_are_never_read(tmp_path: Path, escape: str) -> None:
    outside = tmp_path / "secret.bin"
    outside.write_bytes(WEIGHT)
    locations = {
        "dots": "../secret.bin",
        "absolute": str(outside),
        "link": "w.bin",
        "linked folder": "up/secret.bin",
    }
    path = with_external_data(tmp_path, locations[escape])
    if escape == "link":
        (path.parent / "w.bin").symlink_to(outside)
    if escape == "linked folder":
        (path.parent / "up").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(path)


def test_models_beyond_2_gb_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = with_external_data(tmp_path, "w.bin", length=2**31)
    with (path.parent / "w.bin").open("wb") as stream:
        stream.truncate(2**31)  # a hole: takes no space
    with pytest.raises(ModelError, match=r"2\.15 GB"):
        load_model(path)
    with path.open("r+b") as stream:
        stream.truncate(2**31)
    with pytest.raises(ModelError, match=r"2\.15 GB"):
        load_model(path)


# Writing


def write(model: onnx.ModelProto, path: Path, *protect: Path) -> None:
    with written_model(model, path, protect=protect):
        pass


def test_a_model_is_written_whole(tmp_path: Path) -> None:
    model, path = parse_model(SCALE), tmp_path / "out.onnx"
    path.write_bytes(b"older")
    write(model, path)
    assert path.stat().st_size == model.ByteSize()
    assert load_model(path) == model
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write(parse_model(SCALE), tmp_path / "out.onnx")
    (tmp_path / "other").touch()
    assert (tmp_path / "out.onnx").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("spelling", ["plain", "dotted", "link", "hard link"])
def test_the_input_is_never_overwritten(tmp_path: Path, spelling: str) -> None:
    source = saved(tmp_path, parse_model(SCALE))
    content = source.read_bytes()
    (tmp_path / "sub").mkdir()
    alias = {"plain": source, "dotted": tmp_path / "sub" / ".." / "m.onnx"}.get(
        spelling, tmp_path / "alias.onnx"
    )
    if spelling == "link":
        alias.symlink_to(source)
    if spelling == "hard link":
        alias.hardlink_to(source)
    with pytest.raises(OutputError, match="an input of the compile, which is never overwritten"):
        write(parse_model(SCALE), alias, source)
    assert source.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere/out.onnx", "there is no folder"), (".", "it is a folder")]
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        write(parse_model(SCALE), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        write(parse_model(SCALE), tmp_path / "out.onnx")


def disk_full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("failure", "error"), [(disk_full, OutputError), (interrupt, KeyboardInterrupt)])
def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[[int], None],
    error: type[BaseException],
) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", failure)
    with pytest.raises(error):
        write(parse_model(SCALE), path)
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
