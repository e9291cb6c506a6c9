from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnxmpq.data.preprocess import Preprocess
from onnxmpq.errors import DataError, OptionError

sides = st.integers(1, 4096)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = finite.filter(lambda x: x > 0)


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    order = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    channels = st.sampled_from([1] if order == "gray" else [1, 3])
    return Preprocess(
        resize=draw(st.none() | sides | st.tuples(sides, sides)),
        crop=draw(st.none() | st.tuples(sides, sides)),
        scale=draw(positive | st.integers(1, 1000).map(lambda n: 1 / n)),
        mean=tuple(draw(finite) for _ in range(draw(channels))),
        std=tuple(draw(positive) for _ in range(draw(channels))),
        layout=draw(st.sampled_from(["nchw", "nhwc"])),
        order=order,
    )


def picture(height: int = 6, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@given(preprocesses())
def test_prints_what_it_parses(preprocess: Preprocess) -> None:
    assert Preprocess.parse(str(preprocess)) == preprocess


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("scale=1/255", "scale=1/255,mean=0,std=1,layout=nchw,order=rgb"),
        ("tf,crop=8", "crop=8,scale=1/127.5,mean=1,std=1,layout=nchw,order=rgb"),
        ("resize=8x9,crop=4x3,order=gray", "resize=8x9,crop=4x3,scale=1,mean=0,std=1,layout=nchw,order=gray"),
        (
            "imagenet,layout=nhwc",
            "scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=nhwc,order=rgb",
        ),
    ],
)
def test_short_form(text: str, printed: str) -> None:
    assert str(Preprocess.parse(text)) == printed


def test_a_file_holds_the_same_items(tmp_path: Path) -> None:
    file = tmp_path / "prep.txt"
    file.write_text("# as trained\nimagenet\n\nresize = 256   # shorter side\ncrop=224\n")
    assert Preprocess.parse(str(file)) == Preprocess.parse("imagenet,resize=256,crop=224")


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing.txt", "imagenets", "size=3", "scale", "scale=", "scale=x", "scale=0", "scale=1/0", "scale=nan",
        "mean=1:2", "mean=inf", "std=0", "std=1:2:0", "std=-1", "resize=0", "resize=8x", "resize=8x8x8", "crop=-1",
        "crop=8x8", "layout=chw", "order=cmyk", "order=gray,mean=1:2:3", "scale=1,scale=1", "imagenet,mean=1",
        "tf,imagenet", "scale=1,,mean=0",
    ],
)  # fmt: skip
def test_what_does_not_parse_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        Preprocess.parse(text)


def test_a_refusal_shows_what_parses() -> None:
    with pytest.raises(OptionError, match="imagenet,resize=256,crop=224"):
        Preprocess.parse("resze=256")


def test_a_folder_is_no_preprocessing_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="neither items nor a file"):
        Preprocess.parse(str(tmp_path))


def test_values_are_scaled_then_normalised_per_channel() -> None:
    pixels = np.asarray(picture()).astype(np.float64)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = Preprocess.parse("imagenet").apply(picture())
    assert found.dtype == np.float32
    assert found.shape == (3, 6, 8)
    np.testing.assert_allclose(found, ((pixels / 255 - mean) / std).transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "imagenet",
        "tf,layout=nhwc",
        "scale=1/255,mean=0.4,std=0.3,order=gray",
        "mean=1:2:3,std=2:3:4,order=bgr",
    ],
)
def test_levels_that_are_looked_up_are_the_sums_pixel_by_pixel(text: str) -> None:
    preprocess = Preprocess.parse(text)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, preprocess.channels), np.uint8)
    values = pixels.astype(np.float32) * np.float32(preprocess.scale)
    each = (values - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
    axis = -1 if preprocess.layout == "nhwc" else 0
    np.testing.assert_array_equal(preprocess.normalised(pixels), np.moveaxis(each, -1, axis))


def test_tf_spans_minus_one_to_one() -> None:
    image = Image.fromarray(np.array([[[0, 255, 51]]], np.uint8))
    np.testing.assert_allclose(Preprocess.parse("tf").apply(image).ravel(), [-1, 1, -0.6], atol=1e-6)


def test_raw_pixels_stay_uint8() -> None:
    found = Preprocess.parse("layout=nhwc,order=bgr").apply(picture())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(picture())[..., ::-1])


def test_mean_follows_the_fed_order() -> None:
    found = Preprocess.parse("order=bgr,mean=104:117:123").apply(picture())
    blue = np.asarray(picture())[..., 2].astype(np.float32)
    np.testing.assert_array_equal(found[0], blue - 104)


def test_gray_has_one_channel() -> None:
    assert Preprocess.parse("order=gray").apply(picture()).shape == (1, 6, 8)
    assert Preprocess.parse("order=gray,layout=nhwc").apply(picture()).shape == (6, 8, 1)


@pytest.mark.parametrize(
    ("size", "text", "wanted"),
    [
        ((60, 80), "resize=30", (30, 40)),
        ((80, 60), "resize=30", (40, 30)),
        ((50, 33), "resize=20", (30, 20)),  # 30.3 is cut off, as torchvision does
        ((60, 80), "resize=20x30", (20, 30)),
        ((60, 80), "resize=30,crop=24", (24, 24)),
        ((60, 80), "crop=20x40", (20, 40)),
    ],
)
def test_sizes(size: tuple[int, int], text: str, wanted: tuple[int, int]) -> None:
    assert Preprocess.parse(text).apply(picture(*size)).shape == (3, *wanted)


def test_the_crop_is_centred() -> None:
    found = Preprocess.parse("crop=4,layout=nhwc").apply(picture(6, 8))
    np.testing.assert_array_equal(found, np.asarray(picture(6, 8))[1:5, 2:6])


def test_resize_is_bilinear() -> None:
    wanted = picture(40, 60).resize((30, 20), Image.Resampling.BILINEAR)
    found = Preprocess.parse("resize=20x30,layout=nhwc").apply(picture(40, 60))
    np.testing.assert_array_equal(found, np.asarray(wanted))


def test_an_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(DataError, match="6x8, smaller than crop=7; add resize="):
        Preprocess.parse("crop=7").apply(picture(6, 8))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_deep_pixels_are_refused_not_clipped(mode: str) -> None:
    with pytest.raises(DataError, match="8 bits a channel"):
        Preprocess().apply(Image.new(mode, (4, 4)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert Preprocess().apply(Image.new(mode, (4, 5))).shape == (3, 5, 4)


def test_a_palette_with_transparency_gives_no_warning() -> None:
    image = Image.new("P", (4, 4))
    image.info["transparency"] = b"\x00\xff"
    assert Preprocess().apply(image).shape == (3, 4, 4)


def test_a_byte_order_mark_is_no_part_of_a_file_of_items(tmp_path: Path) -> None:
    (tmp_path / "steps.txt").write_text("resize=8x8\nscale=1/255\n", encoding="utf-8-sig")
    assert Preprocess.parse(str(tmp_path / "steps.txt")) == Preprocess.parse("resize=8x8,scale=1/255")
