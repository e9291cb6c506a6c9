from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxmpq.data import Dataset, InputSpec, holds_images, images, open_data
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.errors import DataError, OptionError
from onnxmpq.values.arrays import Array

SPEC = InputSpec("x", np.dtype(np.float32), (None, 3, 6, 6))
PREPROCESS = Preprocess.parse("crop=6,scale=1/255")


def picture(value: int, size: tuple[int, int] = (8, 6), suffix: str = "png") -> bytes:
    """A file of one colour, whose red is `value`."""
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255)).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    return stream.getvalue()


def build(root: Path, files: dict[str, bytes], *, zipped: bool = False) -> Path:
    """The files below a folder, or in a zip."""
    if zipped:
        with zipfile.ZipFile(root / "images.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return root / "images.zip"
    for name, content in files.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(content)
    return root / "images"


def reds(data: Dataset) -> list[int]:
    values = np.concatenate([batch.feeds["x"][:, 0, 0, 0] for batch in data.batches(2)])
    return [round(float(value) * 255) for value in values]


def load(
    path: Path, spec: InputSpec = SPEC, preprocess: Preprocess | None = PREPROCESS, **options: int
) -> Dataset:
    return open_data(
        path, [spec], samples=options.get("samples"), preprocess=preprocess, seed=options.get("seed", 0)
    )


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def zipped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_images_anywhere_below_in_order_of_their_names(tmp_path: Path, zipped: bool) -> None:
    files = {
        "b/deep/2.png": picture(2),
        "a.PNG": picture(1),
        "c.jpg": picture(200, suffix="jpg"),
        "notes.md": b"",
    }
    hidden = {"__MACOSX/._a.png": b"x", ".git/a.png": b"x", "b/.b.png": b"x"}
    data = load(build(tmp_path, files | hidden, zipped=zipped))
    assert reds(data)[:2] == [1, 2]
    assert reds(data)[2] == pytest.approx(200, abs=2)  # JPEG
    assert (data.count, data.has_labels) == (3, False)
    batch = next(iter(data.batches(2)))
    assert batch.feeds["x"].shape == (2, 3, 6, 6)
    assert batch.feeds["x"].flags.c_contiguous


def test_an_empty_folder_is_none_of_images_that_want_preparing(tmp_path: Path, zipped: bool) -> None:
    files = {".hidden": b""} if zipped else {}
    (tmp_path / "set").mkdir()
    place = build(tmp_path, files, zipped=zipped) if zipped else tmp_path / "set"
    with pytest.raises(DataError, match="holds no images: it is empty"):
        open_data(place, [InputSpec("x", np.dtype(np.float32), (None, 3, 6, 6))], samples=None)


def test_folders_named_by_class_index_are_labels(tmp_path: Path, zipped: bool) -> None:
    files = {"set/7/a.png": picture(1), "set/10/b.png": picture(2), "set/007/c.png": picture(3)}
    data = load(build(tmp_path, files, zipped=zipped))
    assert data.labels is not None
    assert dict(zip(reds(data), data.labels.tolist(), strict=True)) == {1: 7, 2: 10, 3: 7}


@pytest.mark.parametrize(
    ("name", "text"),
    [("labels.txt", "a b.png 3\n\n1/c.png\t4\n"), ("labels.csv", "a b.png,3\n1/c.png, 4\nnot there.png,5\n")],
)
def test_a_list_of_labels_comes_before_folder_names(
    tmp_path: Path, zipped: bool, name: str, text: str
) -> None:
    files = {"set/a b.png": picture(1), "set/1/c.png": picture(2), f"set/{name}": text.encode()}
    data = load(build(tmp_path, files, zipped=zipped))
    assert data.labels is not None
    assert dict(zip(reds(data), data.labels.tolist(), strict=True)) == {1: 3, 2: 4}


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"a.png": picture(1), "labels.txt": b"b.png 1\n"}, "1 of 1 images.*labels.txt"),
        ({"a.png": picture(1), "labels.txt": b"a.png 1.5\n"}, "line 1 of labels.txt"),
        ({"a.png": picture(1), "labels.txt": "a.png \u00b2\n".encode()}, "line 1 of labels.txt"),
        ({"a.png": picture(1), "labels.csv": b"path,label\na.png,1\n"}, "line 1 of labels.csv"),
        ({"a.png": picture(1), "labels.txt": b"a.png\n"}, "line 1 of labels.txt"),
        ({"a.png": picture(1), "labels.txt": b"", "labels.csv": b""}, "several"),
        (
            {"notes.md": b"", "b.heic": b""},
            r"holds no images: found 2 other files \(.heic, .md\); read are .bmp,",
        ),
        ({".hidden": b""}, "holds no images: it is empty"),
        ({"a.png": b"not an image"}, "image a.png of .* cannot be used"),
        ({"a.png": picture(1, (5, 5))}, "image a.png of .* 5x5, smaller than crop=6"),
    ],
)
def test_bad_folders(tmp_path: Path, zipped: bool, files: dict[str, bytes], word: str) -> None:
    with pytest.raises(DataError, match=word):
        load(build(tmp_path, files, zipped=zipped))


def test_a_damaged_image_is_named_while_streaming(tmp_path: Path, zipped: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "jpeg")
    files = {"a.png": picture(1), "b.jpg": stream.getvalue()[:1500]}
    data = load(build(tmp_path, files, zipped=zipped))
    with pytest.raises(DataError, match=r"image b\.jpg of .*truncated"):
        reds(data)


def test_an_image_removed_meanwhile_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    data = load(folder)
    (folder / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png"):
        reds(data)


def test_images_are_decoded_once_as_far_as_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{i}.png": picture(i) for i in range(5)}
    monkeypatch.setattr(images, "REMEMBERED_BYTES", 3 * 6 * 6 * 3)
    folder = build(tmp_path, files)
    data = load(folder)
    assert reds(data) == [0, 1, 2, 3, 4]
    for name in ("0.png", "1.png", "2.png"):
        (folder / name).unlink()
    assert reds(data.take([0, 1, 2])) == [0, 1, 2]
    (folder / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png"):
        reds(data)


def test_a_bad_checksum_in_a_zip_is_named(tmp_path: Path) -> None:
    path = build(tmp_path, {"a.png": picture(1)}, zipped=True)
    content = bytearray(path.read_bytes())
    content[60] ^= 1  # in the image, which is stored first
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"image a\.png of .*CRC"):
        load(path)


def test_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"hello")
    with pytest.raises(DataError, match="not a zip"):
        load(tmp_path / "a.zip")


def test_missing_preprocess_shows_an_example(tmp_path: Path) -> None:
    path = build(tmp_path, {"a.png": picture(1)})
    with pytest.raises(DataError, match="--preprocess imagenet,resize=256,crop=224"):
        load(path, preprocess=None)


def test_several_graph_inputs_are_refused(tmp_path: Path) -> None:
    path = build(tmp_path, {"a.png": picture(1)})
    with pytest.raises(DataError, match=r"2 inputs \('x', 'y'\)"):
        open_data(path, [SPEC, InputSpec("y", SPEC.dtype, SPEC.shape)], samples=1, preprocess=PREPROCESS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crop=5", "5 instead of 6 along axis 1.*crop=5"),
        ("crop=6,layout=nhwc", "6 instead of 3 along axis 0.*layout=nhwc"),
        ("crop=6,order=gray", "1 instead of 3 along axis 0.*order=gray"),
    ],
)
def test_what_the_input_does_not_take(tmp_path: Path, text: str, words: str) -> None:
    path = build(tmp_path, {"a.png": picture(1)})
    with pytest.raises(DataError, match=f"image a.png .*{words}"):
        load(path, preprocess=Preprocess.parse(text))


def test_a_uint8_input_takes_raw_pixels_only(tmp_path: Path) -> None:
    path, spec = build(tmp_path, {"a.png": picture(9)}), InputSpec("x", np.dtype(np.uint8), (1, 3, 6, 6))
    feeds = next(iter(load(path, spec, Preprocess.parse("crop=6")).batches(4))).feeds
    assert feeds["x"].dtype == np.uint8
    assert feeds["x"][0, :, 0, 0].tolist() == [9, 0, 255]
    with pytest.raises(DataError, match=r"float32.*takes uint8.*scale=1/255"):
        load(path, spec)


def test_images_of_several_sizes_need_one_size(tmp_path: Path) -> None:
    path = build(tmp_path, {"a.png": picture(1, (8, 6)), "b.png": picture(2, (9, 6))})
    spec, raw = InputSpec("x", np.dtype(np.float32), (None, 3, None, None)), Preprocess.parse("scale=1/255")
    with pytest.raises(DataError, match="differ in shape"):
        reds(load(path, spec, raw))
    assert [batch.feeds["x"].shape[3] for batch in load(path, spec, raw).batches(1)] == [8, 9]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, encoding: str) -> None:
    files = {
        "1.png": picture(1),
        "ü.png": picture(2),
        "labels.csv": "1.png,3\r\nü.png,4\r\n".encode(encoding),
    }
    data = load(build(tmp_path, files))
    assert data.labels is not None
    assert data.labels.tolist() == [3, 4]


def test_names_of_no_encoding_are_found_in_a_list(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xbe\xed.png")
    data = load(build(tmp_path, {name: picture(1), "labels.txt": b"\xbe\xed.png 7\n"}))
    assert data.labels is not None
    assert data.labels.tolist() == [7]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    folder = build(tmp_path, {"0/a.png": picture(1), "../store/b.png": picture(2)})
    (folder / "1").symlink_to(tmp_path / "store")
    (folder / "0" / "round").symlink_to(folder)
    (folder / "0" / "up").symlink_to(tmp_path)
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store")
    data = load(folder)
    assert reds(data) == [1, 2]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]


def test_folders_that_are_no_class_indices_are_named(tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    data = load(build(tmp_path / "classes", {"cat/1.png": picture(1), "dog/2.png": picture(2)}))
    assert any("no labels are taken" in line and "(cat, dog)" in line for line in data.source.notes)
    (tmp_path / "some").mkdir()
    data = load(build(tmp_path / "some", {"0/1.png": picture(1), "2.png": picture(2)}))
    assert not data.has_labels
    assert "1 of 2 are not named by a class index (the folder itself)" in data.source.notes[0]
    assert not load(build(tmp_path, {"only/1.png": picture(1), "only/2.png": picture(2)})).source.notes


def test_what_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_LARGEST_BYTES", 50)  # private: only a test's images are so small
    with pytest.raises(DataError, match=r"1.png of .*images.zip cannot be used: it unpacks to"):
        load(build(tmp_path, {"1.png": picture(1)}, zipped=True))


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    folder = build(tmp_path, {"1.png": picture(1)})
    os.mkfifo(folder / "0.png")
    with pytest.raises(DataError, match=r"0.png is no regular file"):
        load(folder)


def test_a_subset_is_random_by_seed(tmp_path: Path) -> None:
    path = build(tmp_path, {f"{i:02}.png": picture(i) for i in range(30)}, zipped=True)
    first, again, other = (reds(load(path, samples=8, seed=seed)) for seed in (0, 0, 1))
    assert first == again == sorted(set(first))
    assert first != other
    assert len(first) == 8


def test_preprocessing_is_for_images(tmp_path: Path) -> None:
    assert holds_images(tmp_path)
    assert not holds_images("a.npz")
    assert not holds_images({"x": np.zeros(1)})
    array: Array = np.zeros((2, 3, 6, 6), np.float32)
    with pytest.raises(OptionError, match="for images"):
        open_data({"x": array}, [SPEC], samples=None, preprocess=PREPROCESS)
