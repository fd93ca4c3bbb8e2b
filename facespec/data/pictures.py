"""How is one picture decoded with Pillow, and cropped, converted and resized for a FaceSet?"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespec.data.archives import UnusableFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
FORMATS = ("JPEG", "PNG", "BMP")


def is_picture(name: str) -> bool:
    """Whether the file name ends as that of a picture."""
    return name.lower().endswith(SUFFIXES)


def decode(content: bytes, *, modes: tuple[str, ...] | None = None) -> Image.Image:
    """The whole picture in `content`, in one of Pillow's `modes` (``L`` grey, ``RGB``; default: any).

    Raises `UnusableFile` otherwise, with reasons that do not depend on the version of Pillow. Other formats are not
    tried: for some of them Pillow starts a program.
    """
    if not content:
        raise UnusableFile("an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            image.load()
    except Image.UnidentifiedImageError as error:
        raise UnusableFile("not a JPEG, PNG or BMP picture") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableFile("more pixels than any face") from error
    except Exception as error:  # a damaged picture can raise nearly anything
        raise UnusableFile("truncated or damaged") from error
    if modes is not None and image.mode not in modes:
        raise UnusableFile(f"mode {image.mode} instead of {' or '.join(modes)}")
    return image


def require_size(image: Image.Image, width: int, height: int) -> None:
    """Raise `UnusableFile` for a picture that is not `width` x `height` px."""
    if image.size != (width, height):
        raise UnusableFile(f"{image.width}x{image.height} px instead of {width}x{height}")


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
