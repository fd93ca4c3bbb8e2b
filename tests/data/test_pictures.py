"""Pictures are decoded whole or refused with the reason; their central squares are resized as in `data.batches`."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from facespec.data.archives import UnusableFile
from facespec.data.pictures import decode, fit_image, is_picture, require_size


def encode(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def make_noise(height: int, width: int, *colours: int) -> Image.Image:
    generator = np.random.Generator(np.random.PCG64(5))
    return Image.fromarray(generator.integers(0, 256, (height, width, *colours), dtype=np.uint8))


def find_reason(content: bytes, modes: tuple[str, ...] = ("L",)) -> str:
    with pytest.raises(UnusableFile) as caught:
        decode(content, modes=modes)
    assert not caught.value.in_every_copy
    return str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "BMP"])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_lossless_pictures_are_unchanged(form: str, colours: tuple[int, ...]) -> None:
    image = make_noise(17, 11, *colours)
    assert np.array_equal(decode(encode(image, form), modes=("L", "RGB")), image)


def test_jpeg() -> None:
    image = decode(encode(Image.new("L", (11, 17), 200), "JPEG"), modes=("L",))
    assert (image.size, image.getextrema()) == ((11, 17), (200, 200))


def test_every_reason() -> None:
    jpeg, both = encode(make_noise(48, 48), "JPEG"), ("RGB", "L")
    assert find_reason(b"") == "an empty file"
    assert find_reason(b"<html>not found</html>") == "not a JPEG, PNG or BMP picture"
    assert find_reason(encode(make_noise(48, 48), "GIF")) == "not a JPEG, PNG or BMP picture"
    assert find_reason(jpeg[: len(jpeg) // 2]) == "truncated or damaged"
    assert find_reason(encode(make_noise(48, 48))[:-200]) == "truncated or damaged"
    assert find_reason(encode(make_noise(48, 48, 3))) == "mode RGB instead of L"
    assert find_reason(encode(make_noise(48, 48, 4)), both) == "mode RGBA instead of RGB or L"
    assert find_reason(encode(Image.new("CMYK", (5, 5)), "JPEG"), both) == "mode CMYK instead of RGB or L"
    with pytest.raises(UnusableFile, match=r"^48x49 px instead of 48x48$"):
        require_size(make_noise(49, 48), 48, 48)


@pytest.mark.parametrize("limit", [47 * 48, 20 * 48])  # above the limit Pillow warns, above twice the limit it raises
def test_more_pixels_than_any_face(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert find_reason(encode(make_noise(48, 48))) == "more pixels than any face"


def test_warning_filters_are_restored() -> None:
    before = list(warnings.filters)
    decode(encode(make_noise(5, 5)), modes=("L",))
    assert find_reason(b"") and warnings.filters == before


def test_endings_in_any_case() -> None:
    assert [is_picture(name) for name in ("a.JPG", "a.jpeg", "b/a.Png", "a.bmp", "a.gif", "jpg", "a.jpg.txt")] == (
        [True] * 4 + [False] * 3
    )


def test_the_central_square_by_hand() -> None:
    """Of 11 columns and 17 rows, rows 3 to 13 remain; of 17 columns and 12 rows, columns 2 to 13."""
    tall, wide = make_noise(17, 11), make_noise(12, 17, 3)
    assert np.array_equal(fit_image(tall, size=11, channels=1), np.asarray(tall)[3:14])
    assert np.array_equal(fit_image(wide, size=12, channels=3), np.asarray(wide)[:, 2:14])


def test_grey_is_luma_and_rgb_repeats_grey() -> None:
    colours, grey = make_noise(13, 13, 3), make_noise(13, 13)
    luma = np.asarray(colours) @ [0.299, 0.587, 0.114]
    assert np.abs(fit_image(colours, size=13, channels=1) - luma).max() <= 0.5 + 1e-3  # rounding, and 16-bit weights
    assert np.array_equal(fit_image(grey, size=13, channels=3), np.asarray(grey)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("side", [31, 48, 97, 200])
def test_resizing_is_that_of_batches(side: int) -> None:
    """By another library: torch's antialiased bilinear interpolation of the same picture."""
    image = make_noise(side, side, 3)
    planes = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].double()
    other = functional.interpolate(planes, size=[48, 48], mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert np.abs(fit_image(image, size=48, channels=3) - other.numpy()).max() <= 1  # two roundings to whole numbers


def test_thin_lines_are_not_lost() -> None:
    lines = np.zeros((192, 192), dtype=np.uint8)
    lines[:, ::4] = 255
    small = fit_image(Image.fromarray(lines), size=48, channels=1)
    assert small.shape == (48, 48) and small.dtype == np.uint8
    assert small.min() > 40 and small.max() < 90  # a quarter of 255; without antialiasing 0
