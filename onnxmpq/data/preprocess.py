"""From a decoded image to what a model takes: resize, crop, scale, mean, std, layout, colour order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxmpq.data.text import decoded
from onnxmpq.errors import DataError, OptionError

Size = tuple[int, int]  # height, width

_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
_LAYOUTS = ("nchw", "nhwc")
_PRESETS = {
    "imagenet": "scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225",
    "tf": "scale=1/127.5,mean=1",
}
_EXAMPLES = (
    "write items such as resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,"
    "layout=nchw,order=rgb, a preset with items such as imagenet,resize=256,crop=224 or tf,resize=224x224, "
    "or the path of a file that holds them one per line"
)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """value = (pixel * scale - mean) / std, with pixels 0 to 255, after `resize` and then a centred `crop`.

    `resize` is the shorter side (the aspect ratio is kept) or an exact (height, width), bilinear as Pillow does
    it (antialiased when it shrinks); `crop` is (height, width). `mean` and `std` hold one number for all
    channels or one per channel, in the order in which `order` feeds them. Prints as the short form it parses.

    Raises OptionError on construction for a value that cannot be used.
    """

    resize: int | Size | None = None
    crop: Size | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"
    order: str = "rgb"

    def __post_init__(self) -> None:
        for key, known in (("layout", _LAYOUTS), ("order", tuple(_CHANNELS))):
            if getattr(self, key) not in known:
                raise OptionError(f"{key}={getattr(self, key)}: choose {' or '.join(known)}")
        if min(_sides(self.resize) + _sides(self.crop), default=1) < 1:
            raise OptionError("resize and crop are in pixels, 1 or more")
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in {1, self.channels}:
                raise OptionError(
                    f"{key} has {len(getattr(self, key))} numbers; wanted 1, or {self.channels} for order={self.order}"
                )
        if not all(math.isfinite(number) for number in (self.scale, *self.mean, *self.std)):
            raise OptionError("scale, mean and std must be finite")
        if self.scale == 0 or min(self.std) <= 0:
            raise OptionError("scale must not be 0, and std must be more than 0")

    @property
    def channels(self) -> int:
        return _CHANNELS[self.order]

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """The short form, the path of a file that holds its items one per line (# for comments), or presets.

        A preset (`imagenet`, `tf`) stands for its scale, mean and std. Raises OptionError.
        """
        return cls(**_parse_items(_items(text)))

    def __str__(self) -> str:
        given = ((key, getattr(self, key), text) for key, (_, text) in _FORMS.items())
        return ",".join(f"{key}={text(value)}" for key, value, text in given if value is not None)

    def apply(self, image: Image.Image) -> NDArray[Any]:
        """One sample [C, H, W] or [H, W, C]: float32, or uint8 where scale, mean and std leave pixels as they are.

        Raises DataError for an image that the crop does not fit in, or of more than 8 bits a channel.
        """
        return self.normalised(self.pixels(image))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """The image in its size and order of channels, [H, W, C]. Raises DataError as `apply` does."""
        if image.mode in {"I", "F"} or image.mode.startswith("I;"):
            raise DataError(f"it has pixels of mode {image.mode}; convert it to 8 bits a channel")
        if "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns of palettes otherwise
        image = image.convert("L" if self.order == "gray" else "RGB")
        pixels = np.asarray(_crop(_resize(image, self.resize), self.crop))
        pixels = pixels.reshape(*pixels.shape[:2], self.channels)
        return pixels[..., ::-1] if self.order == "bgr" else pixels

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Such pixels as the sample that `apply` gives."""
        axis = -1 if self.layout == "nhwc" else 0
        if self.scale == 1 and not any(self.mean) and set(self.std) == {1.0}:
            return np.moveaxis(pixels, -1, axis)
        with np.errstate(over="ignore", invalid="ignore"):  # of levels that no pixel may have
            scaled = np.arange(256, dtype=np.float32)[:, None] * np.float32(self.scale)
            each = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        levels = np.broadcast_to(each, (256, self.channels))
        # Looked up: a third of the time that the sums take pixel by pixel.
        planes = [levels[:, c].take(pixels[..., c]) for c in range(self.channels)]
        return np.stack(planes, axis=axis)


def _resize(image: Image.Image, size: int | Size | None) -> Image.Image:
    if size is None:
        return image
    if isinstance(size, int):
        short = min(image.size)
        size = (size * image.height // short, size * image.width // short)
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None:
        return image
    height, width = size
    if height > image.height or width > image.width:
        raise DataError(
            f"it is {image.height}x{image.width}, smaller than crop={_crop_text(size)}; add resize="
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _sides(size: int | Size | None) -> Size | tuple[()]:
    """Height and width, the same where only one number is given; () for no size."""
    if size is None:
        return ()
    return (size, size) if isinstance(size, int) else size


def _items(text: str) -> list[str]:
    """The items of the short form, or of the file that `text` names."""
    items = [item.strip() for item in text.split(",")]
    if "=" in text or set(items) <= set(_PRESETS):
        return items
    try:
        lines = _read(Path(text)).splitlines()
    except (OSError, ValueError) as error:
        raise OptionError(
            f"preprocessing {text!r} is neither items nor a file that can be read; {_EXAMPLES}"
        ) from error
    items = [line.partition("#")[0].strip() for line in lines]
    return [item for item in items if item]


def _read(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(file)
    return decoded(file.read_bytes())


def _parse_items(items: Iterable[str]) -> dict[str, Any]:
    """Values by field; a field that is given twice, by a preset or not, is an error."""
    values: dict[str, Any] = {}
    for item in items:
        for part in _PRESETS.get(item, item).split(","):
            key, _, text = (field.strip() for field in part.partition("="))
            if key not in _FORMS:
                raise OptionError(f"preprocessing item {item!r} is not known; {_EXAMPLES}")
            if key in values:
                raise OptionError(f"preprocessing item {item!r} gives {key} a second time; give it once")
            try:
                values[key] = _FORMS[key][0](text)
            except (ValueError, ZeroDivisionError) as error:
                raise OptionError(
                    f"preprocessing item {item!r} does not parse ({error}); {_EXAMPLES}"
                ) from error
    return values


def _number(text: str) -> float:
    """A decimal number, or a fraction a/b."""
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(":")))


def _size(text: str) -> int | Size:
    height, times, width = text.partition("x")
    return (int(height), int(width)) if times else int(height)


def _crop_size(text: str) -> Size:
    """`224` for a square, `192x256` for any other: each size has one spelling."""
    size = _size(text)
    if isinstance(size, int):
        return size, size
    if size[0] == size[1]:
        raise ValueError(f"a square crop is written crop={size[0]}")
    return size


def _size_text(size: int | Size) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def _crop_text(size: Size) -> str:
    return _size_text(size[0] if size[0] == size[1] else size)


def _number_text(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _scale_text(scale: float) -> str:
    """`1/255` where that is exactly the scale, else a decimal number."""
    below = round(1 / scale, 3)
    return f"1/{_number_text(below)}" if below > 1 and 1 / below == scale else _number_text(scale)


def _numbers_text(numbers: Iterable[float]) -> str:
    return ":".join(map(_number_text, numbers))


# How each field is read, and how it is written.
_FORMS: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    "resize": (_size, _size_text), "crop": (_crop_size, _crop_text), "scale": (_number, _scale_text),
    "mean": (_numbers, _numbers_text), "std": (_numbers, _numbers_text), "layout": (str, str), "order": (str, str),
}  # fmt: skip
