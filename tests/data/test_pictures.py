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
from facespec.data.pictures import Box, crop_image, decode, fit_image, is_picture


def encode(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def make_noise(height: int, width: int, *colours: int) -> Image.Image:
    generator = np.random.Generator(np.random.PCG64(5))
    return Image.fromarray(generator.integers(0, 256, (height, width, *colours), dtype=np.uint8))


def find_reason(content: bytes) -> str:
    with pytest.raises(UnusableFile) as caught:
        decode(content)
    assert not caught.value.in_every_copy
    return str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_lossless_pictures_are_unchanged(form: str, colours: tuple[int, ...]) -> None:
    image = make_noise(5, 11, *colours)  # a GIF has 256 colours
    decoded = decode(encode(image, form)).convert(image.mode)
    assert np.array_equal(decoded, image)


def test_jpeg_and_webp() -> None:
    for form in ("JPEG", "WEBP"):
        image = decode(encode(Image.new("L", (11, 17), 200), form))
        assert (image.size, image.convert("L").getextrema()) == ((11, 17), (200, 200))


def test_every_reason() -> None:
    jpeg = encode(make_noise(48, 48), "JPEG")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    assert find_reason(b"") == "an empty file"
    assert find_reason(b"<html>not found</html>") == "not a JPEG, PNG, BMP, TIFF, PGM, GIF or WebP picture"
    assert find_reason(encode(make_noise(48, 48), "ICO")).startswith("not a JPEG")
    assert find_reason(pointer) == "a pointer of Git LFS in place of the picture: `git lfs pull` fetches it"
    assert find_reason(jpeg[: len(jpeg) // 2]) == "truncated or damaged"
    assert find_reason(encode(make_noise(48, 48))[:-200]) == "truncated or damaged"
    assert find_reason(encode(Image.new("F", (3, 3), 0.5), "TIFF")) == "pixels that are fractions, of unknown range"
    assert find_reason(encode(Image.new("I", (3, 3), 70_000), "TIFF")) == "more than 16 bits per pixel"


def test_sixteen_bits_become_eight_by_hand() -> None:
    """0, 257, 128 * 257 and 65535 are 0, 1, 128 and 255 of 255; half a step more rounds up."""
    deep = Image.fromarray(np.array([[0, 257, 128 * 257, 65535, 129, 128]], dtype=np.uint16))
    for form in ("PNG", "TIFF", "PPM"):
        assert np.asarray(decode(encode(deep, form))).tolist() == [[0, 1, 128, 255, 1, 0]], form


def test_other_modes_become_grey_or_rgb() -> None:
    colour = (200, 100, 50)
    solid = Image.new("RGB", (3, 2), colour)
    assert decode(encode(Image.new("RGBA", (3, 2), (*colour, 255)))).getpixel((0, 0)) == colour
    assert decode(encode(Image.new("RGBA", (3, 2), (*colour, 0)))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encode(solid.quantize(4))).getpixel((0, 0)) == colour
    assert decode(encode(Image.new("LA", (3, 2), (70, 255)))).getpixel((0, 0)) == 70
    bits = decode(encode(Image.new("1", (3, 2), 1)))
    assert (bits.mode, bits.getpixel((0, 0))) == ("L", 255)
    cmyk = decode(encode(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))
    assert (cmyk.mode, cmyk.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_a_camera_held_upright_gives_an_upright_picture() -> None:
    """Orientation 6: the picture is to be turned by 90 degrees clockwise."""
    image = make_noise(4, 6)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(decode(buffer.getvalue()), np.rot90(np.asarray(image), -1))


def test_the_first_of_several_frames() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("L", (5, 5), grey) for grey in (10, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue()).convert("L").getpixel((2, 2)) == 10


def test_a_box_by_hand() -> None:
    image = make_noise(9, 7)
    assert np.array_equal(crop_image(image, Box(1, 2, 5, 9)), np.asarray(image)[2:9, 1:5])
    for box in (Box(0, 0, 8, 9), Box(-1, 0, 5, 5), Box(3, 3, 3, 5)):
        with pytest.raises(UnusableFile, match=r"does not lie in the picture of 7x9 px"):
            crop_image(image, box)


@pytest.mark.parametrize("limit", [47 * 48, 20 * 48])  # above the limit Pillow warns, above twice the limit it raises
def test_more_pixels_than_any_face(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert find_reason(encode(make_noise(48, 48))) == "more pixels than any face"


def test_warning_filters_are_restored() -> None:
    before = list(warnings.filters)
    decode(encode(make_noise(5, 5)))
    assert find_reason(b"") and warnings.filters == before


def test_endings_in_any_case() -> None:
    assert [
        is_picture(name)
        for name in ("a.JPG", "a.jpeg", "b/a.Png", "a.tiff", "a.PGM", "a.gif", "jpg", "a.jpg.txt", "a.eps")
    ] == ([True] * 6 + [False] * 3)


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
