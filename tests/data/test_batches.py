"""Batches: what is drawn is applied purely, image by image, as slow loops and other libraries would do it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as torchvision

from facespec.data.batches import (
    Augmentation,
    Preset,
    apply_preset,
    draw_augmentation,
    make_preset,
    make_small_preset,
    make_vgg16_preset,
)
from facespec.study.errors import StudyError

SHIFTED = Preset("toy", 17, 1, resize=None, shift=3, flip=True, grey_probability=0.0, mean=0.25, std=0.5)


def stream(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def pictures(*shape: int) -> np.ndarray:
    return stream(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def slow(image: np.ndarray, preset: Preset, *, top: int, left: int, flip: bool) -> np.ndarray:
    """Crop and shift, repeat edge pixels, flip, normalise: pixel by pixel, (H, W, C) -> (C, size, size)."""
    height, width, channels = image.shape
    made = np.empty((channels, preset.size, preset.size))
    for i in range(preset.size):
        for j in range(preset.size):
            row = min(max(top + i, 0), height - 1)
            column = min(max(left + (preset.size - 1 - j if flip else j), 0), width - 1)
            made[:, i, j] = (image[row, column] / 255 - preset.mean) / preset.std
    return made


def close(made: torch.Tensor, wanted: np.ndarray, atol: float = 1e-6) -> None:
    """Closeness in normalised units; 1e-6 is float32's rounding of three operations on numbers up to 2."""
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("down", "top"), [(0.0, -3), (0.1428, -3), (0.143, -2), (0.5, 0), (0.99999, 3)])
@pytest.mark.parametrize(("right", "left"), [(0.0, -3), (0.6, 1), (0.99999, 3)])
def test_shift_and_flip(flip: bool, down: float, top: int, right: float, left: int) -> None:
    """Seven places of equal probability in each direction, and the edge repeated where nothing is."""
    image = pictures(1, 17, 17)
    draws = Augmentation(np.array([down]), np.array([right]), np.array([flip]), np.array([False]))
    close(apply_preset(image, SHIFTED, draws)[0], slow(image[0, ..., None], SHIFTED, top=top, left=left, flip=flip))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), n=st.integers(1, 5), data=st.data())
def test_an_image_does_not_know_its_neighbours(seed: int, n: int, data: st.DataObject) -> None:
    """Any part of a batch, with its part of the draws, in any order: the same bits as in the whole batch."""
    preset = dataclasses.replace(make_vgg16_preset(0, 3), size=15, resize=17, shift=2, flip=True, grey_probability=0.5)
    images, draws = pictures(n, 19, 23, 3), draw_augmentation(preset, n, stream(seed))
    whole = apply_preset(images, preset, draws)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)))
    assert torch.equal(apply_preset(images[rows], preset, draws[rows]), whole[rows])
    assert torch.equal(apply_preset(images[rows], preset, None), apply_preset(images, preset, None)[rows])


@pytest.mark.parametrize("shape", [(3, 17, 17), (3, 17, 17, 3), (3, 19, 23, 3), (3, 19, 23)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_stay_as_they_are(shape: tuple[int, ...], channels: int) -> None:
    images = pictures(*shape)
    preset = dataclasses.replace(SHIFTED, channels=channels, grey_probability=0.5, resize=17 if shape[1] > 17 else None)
    for draws in (None, draw_augmentation(preset, 3, stream())):
        made = apply_preset(images, preset, draws)
        np.testing.assert_array_equal(images, pictures(*shape))
        assert made.shape == (3, channels, 17, 17)
        assert made.is_contiguous(memory_format=torch.channels_last)
        made.zero_()
        np.testing.assert_array_equal(images, pictures(*shape))


def test_read_only_images_are_welcome(recwarn: pytest.WarningsRecorder) -> None:
    images = pictures(2, 17, 17)
    images.setflags(write=False)
    close(apply_preset(images, SHIFTED, None)[:, 0], (images / 255 - 0.25) / 0.5)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(17, 17, 0, 0), (20, 17, 2, 0), (22, 25, 2, 4), (18, 24, 0, 4)]
)
def test_at_test_time_the_centre_is_cropped(height: int, width: int, top: int, left: int) -> None:
    """Halves round to even, as torchvision's centre crop has it; no shift, no flip, no grey."""
    preset = dataclasses.replace(SHIFTED, channels=3, resize=min(height, width), grey_probability=1.0)
    images = pictures(2, height, width, 3)
    made = apply_preset(images, preset, None)
    for image, got in zip(images, made, strict=True):
        close(got, slow(image, preset, top=top, left=left, flip=False))
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(made, (torchvision.center_crop(planes, [17, 17]).float() / 255).sub(0.25).div(0.5))


def test_colours_and_grey() -> None:
    """Grey images are repeated; of colours, a grey network sees the luma of ITU-R BT.601."""
    grey, colours = pictures(2, 17, 17), pictures(2, 17, 17, 3)
    coloured = dataclasses.replace(SHIFTED, channels=3)
    close(apply_preset(grey, coloured, None), ((grey / 255 - 0.25) / 0.5)[:, None].repeat(3, 1))
    luma = 0.299 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2]
    close(apply_preset(colours, SHIFTED, None), ((luma / 255 - 0.25) / 0.5)[:, None])
    draws = Augmentation(np.full(2, 0.5), np.full(2, 0.5), np.zeros(2, bool), np.array([False, True]))
    made = apply_preset(colours, coloured, draws)
    close(made[0], ((colours[0] / 255 - 0.25) / 0.5).transpose(2, 0, 1))
    close(made[1], ((luma[1] / 255 - 0.25) / 0.5)[None].repeat(3, 0))


def smooth(height: int, width: int) -> np.ndarray:
    """A picture with slopes and edges, RGB."""
    down, right = np.mgrid[:height, :width]
    planes = [down * 200 // height, right * 250 // width, ((down // 20 + right // 20) % 2) * 255]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(301, 257), (140, 170), (256, 256), (600, 333)])
@pytest.mark.parametrize("u", [(0.0, 0.0), (0.37, 0.91)])
@pytest.mark.parametrize("grey", [False, True])
def test_the_lineages_preset_is_torchvisions(height: int, width: int, u: tuple[float, float], grey: bool) -> None:
    """Resize(256), RandomCrop(224), RandomGrayscale, mean = std = 0.5, on Pillow images, given equal draws.

    One grey level (2/255 in normalised units) for the resize, whose weights Pillow rounds otherwise, and another half
    for grey, which Pillow rounds to whole levels.
    """
    image = smooth(height, width)
    picture = torchvision.resize(Image.fromarray(image), [256])
    top, left = (int(share * (side - 224 + 1)) for share, side in zip(u, (picture.height, picture.width), strict=True))
    picture = torchvision.crop(picture, top, left, 224, 224)
    if grey:
        picture = torchvision.to_grayscale(picture, num_output_channels=3)
    wanted = torchvision.normalize(torchvision.to_tensor(picture), [0.5] * 3, [0.5] * 3)
    draws = Augmentation(*(np.array([share]) for share in u), np.array([False]), np.array([grey]))
    made = apply_preset(image[None], make_vgg16_preset(0, 3), draws)[0]
    close(made, wanted.numpy(), atol=(1.51 if grey else 1.01) * 2 / 255)
    if not grey:
        assert (abs(made - wanted) > 1e-6).float().mean() < 0.01  # nearly everywhere the same level


@pytest.mark.parametrize(("height", "width"), [(301, 257), (140, 170)])
def test_the_lineages_preset_at_test_time(height: int, width: int) -> None:
    image = smooth(height, width)
    picture = torchvision.center_crop(torchvision.resize(Image.fromarray(image), [256]), [224, 224])
    wanted = torchvision.normalize(torchvision.to_tensor(picture), [0.5] * 3, [0.5] * 3)
    close(apply_preset(image[None], make_vgg16_preset(0, 3), None)[0], wanted.numpy(), atol=1.01 * 2 / 255)


def test_presets_are_those_of_the_lineage_and_ours() -> None:
    assert make_preset("vgg16", 48, 3) == Preset("vgg16", 224, 3, 256, 0, False, 0.2, 0.5, 0.5)
    assert (
        make_preset("small", 48, 1) == make_small_preset(48, 1) == Preset("small", 48, 1, None, 4, True, 0.0, 0.5, 0.5)
    )
    with pytest.raises(StudyError) as caught:
        make_preset("smal", 48, 1)
    assert str(caught.value) == "unknown preset 'smal': did you mean 'small'? Allowed: 'small', 'vgg16'."


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(StudyError) as caught:
        apply_preset(pictures(1, 17, 11), SHIFTED, None)
    assert str(caught.value) == (
        "images of 17x11 px; the network takes 17x17 px. Use the faces it was trained on, or make them again with that "
        "data.size."
    )


def test_draws_follow_the_preset() -> None:
    """Shares within 4 sd of 10,000 draws."""
    draws = draw_augmentation(dataclasses.replace(SHIFTED, grey_probability=0.2), 10_000, stream())
    assert abs(draws.flip.mean() - 0.5) < 4 * 0.005
    assert abs(draws.grey.mean() - 0.2) < 4 * 0.004
    assert abs(draws.down.mean() - 0.5) < 4 * 0.0029 and abs(draws.right.mean() - 0.5) < 4 * 0.0029
    assert abs(np.corrcoef([draws.down, draws.right, draws.flip, draws.grey])[np.triu_indices(4, 1)]).max() < 4 * 0.01
    never = draw_augmentation(dataclasses.replace(SHIFTED, flip=False), 1000, stream())
    assert not never.flip.any() and not never.grey.any()
