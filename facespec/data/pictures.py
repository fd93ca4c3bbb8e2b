"""How is one picture decoded with Pillow, and cropped, converted and resized for a FaceSet?"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from facespec.data.archives import UnusableFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".gif", ".webp")
# for some of the others Pillow starts a program
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP")
KNOWN = "JPEG, PNG, BMP, TIFF, PGM, GIF or WebP"
POINTER = b"version https://git-lfs.github.com/spec/"
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's names for grey of 16 bits, and for more that may be 16
PAPER = "white"  # behind transparent pixels [O], as viewers show them


class Box(NamedTuple):
    """A part of a picture, in pixels from its upper left corner; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int


def is_picture(name: str) -> bool:
    """Whether the file name ends as that of a picture."""
    return name.lower().endswith(SUFFIXES)


def decode(content: bytes) -> Image.Image:
    """The whole picture in `content`, upright, in Pillow's mode ``L`` (grey) or ``RGB``.

    Of several frames it is the first. A camera's note of orientation is applied, transparent pixels lie on white, 16
    bits become 8 by dividing by 257. Raises `UnusableFile` otherwise, with reasons that do not depend on the version of
    Pillow.
    """
    if not content:
        raise UnusableFile("an empty file")
    if content.startswith(POINTER):
        raise UnusableFile("a pointer of Git LFS in place of the picture: `git lfs pull` fetches it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            image.load()
            return _simplify_mode(ImageOps.exif_transpose(image))
    except UnusableFile:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnusableFile(f"not a {KNOWN} picture") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableFile("more pixels than any face") from error
    except Exception as error:  # a damaged picture can raise nearly anything
        raise UnusableFile("truncated or damaged") from error


def _simplify_mode(image: Image.Image) -> Image.Image:
    """`image` in mode ``L`` or ``RGB``; `UnusableFile` for numbers whose range no one states."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in DEEP:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnusableFile("more than 16 bits per pixel")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise UnusableFile("pixels that are fractions, of unknown range")
    if image.mode in ("1", "CMYK", "YCbCr", "HSV"):
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        paper = Image.new("RGBA", layers.size, PAPER)
        image = Image.alpha_composite(paper, layers).convert("L" if image.mode in ("LA", "La") else "RGB")
    try:
        return image if image.mode == "L" else image.convert("RGB")
    except ValueError:
        raise UnusableFile(f"colours that are not converted (mode {image.mode})") from None


def crop_image(image: Image.Image, box: Box) -> Image.Image:
    """The part of `image` in `box`; `UnusableFile` for a box that is empty or reaches outside."""
    if not (0 <= box.left < box.right <= image.width and 0 <= box.top < box.bottom <= image.height):
        raise UnusableFile(
            f"the box left {box.left}, top {box.top}, right {box.right}, bottom {box.bottom} is empty, or does not lie "
            f"in the picture of {image.width}x{image.height} px"
        )
    return image.crop(box)


def fit_image(image: Image.Image, *, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """The central square as uint8 (size, size), or (size, size, 3) with 3 `channels`.

    The square is as wide as the shorter side; of an odd number of pixels to cut off, one more is cut at the right or
    below. Colours become grey by ITU-R BT.601 luma; grey is repeated for RGB. Resizing is bilinear and antialiased, as
    in `data.batches`; pixels of a picture that has the size already are not changed.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).convert("RGB" if channels == 3 else "L")
    if side != size:
        square = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.uint8)
