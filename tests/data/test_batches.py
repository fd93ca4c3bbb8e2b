"""Random parameters are applied image by image, as slow loops and other libraries do it; generators decide batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as torchvision

from facespec.data.batches import (
    Augmentation,
    ImageBatch,
    Preset,
    apply_preset,
    draw_augmentation,
    iterate_batches,
    make_preset,
    make_small_preset,
    make_vgg16_preset,
)
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.study.errors import StudyError

SHIFTED = Preset("toy", 17, 1, resize=None, shift=3, flip=True, grey_probability=0.0, mean=0.25, std=0.5)


def make_generator(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def make_images(*shape: int) -> np.ndarray:
    return make_generator(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def apply_slowly(image: np.ndarray, preset: Preset, *, top: int, left: int, flip: bool) -> np.ndarray:
    """Crop and shift, repeat edge pixels, flip, normalise: pixel by pixel, (H, W, C) -> (C, size, size)."""
    height, width, channels = image.shape
    pixels = np.empty((channels, preset.size, preset.size))
    for i in range(preset.size):
        for j in range(preset.size):
            row = min(max(top + i, 0), height - 1)
            column = min(max(left + (preset.size - 1 - j if flip else j), 0), width - 1)
            pixels[:, i, j] = (image[row, column] / 255 - preset.mean) / preset.std
    return pixels


def assert_close(actual: torch.Tensor, expected: np.ndarray, atol: float = 1e-6) -> None:
    """Closeness in normalised units; 1e-6 is float32's rounding of three operations on numbers up to 2."""
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("down", "top"), [(0.0, -3), (0.1428, -3), (0.143, -2), (0.5, 0), (0.99999, 3)])
@pytest.mark.parametrize(("right", "left"), [(0.0, -3), (0.6, 1), (0.99999, 3)])
def test_shift_and_flip(flip: bool, down: float, top: int, right: float, left: int) -> None:
    """Seven places of equal probability in each direction, and the edge repeated where nothing is."""
    image = make_images(1, 17, 17)
    draws = Augmentation(np.array([down]), np.array([right]), np.array([flip]), np.array([False]))
    expected = apply_slowly(image[0, ..., None], SHIFTED, top=top, left=left, flip=flip)
    assert_close(apply_preset(image, SHIFTED, draws)[0], expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(1, 5), data=st.data())
def test_an_image_does_not_depend_on_the_rest_of_its_batch(seed: int, n: int, data: st.DataObject) -> None:
    """Any part of a batch, with its part of the augmentation, in any order: the same bits as in the whole batch."""
    preset = dataclasses.replace(make_vgg16_preset(0, 3), size=15, resize=17, shift=2, flip=True, grey_probability=0.5)
    images, draws = make_images(n, 19, 23, 3), draw_augmentation(preset, n, make_generator(seed))
    batch = apply_preset(images, preset, draws)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)))
    assert torch.equal(apply_preset(images[rows], preset, draws[rows]), batch[rows])
    assert torch.equal(apply_preset(images[rows], preset, None), apply_preset(images, preset, None)[rows])


@pytest.mark.parametrize("shape", [(3, 17, 17), (3, 17, 17, 3), (3, 19, 23, 3), (3, 19, 23)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_input_is_not_changed(shape: tuple[int, ...], channels: int) -> None:
    images = make_images(*shape)
    preset = dataclasses.replace(SHIFTED, channels=channels, grey_probability=0.5, resize=17 if shape[1] > 17 else None)
    for draws in (None, draw_augmentation(preset, 3, make_generator())):
        batches = apply_preset(images, preset, draws)
        np.testing.assert_array_equal(images, make_images(*shape))
        assert batches.shape == (3, channels, 17, 17)
        assert batches.is_contiguous(memory_format=torch.channels_last)
        batches.zero_()
        np.testing.assert_array_equal(images, make_images(*shape))


def test_read_only_images_are_allowed(recwarn: pytest.WarningsRecorder) -> None:
    images = make_images(2, 17, 17)
    images.setflags(write=False)
    assert_close(apply_preset(images, SHIFTED, None)[:, 0], (images / 255 - 0.25) / 0.5)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(17, 17, 0, 0), (20, 17, 2, 0), (22, 25, 2, 4), (18, 24, 0, 4)]
)
def test_at_test_time_the_centre_is_cropped(height: int, width: int, top: int, left: int) -> None:
    """Halves round to even, as torchvision's centre crop has it; no shift, no flip, no grey."""
    preset = dataclasses.replace(SHIFTED, channels=3, resize=min(height, width), grey_probability=1.0)
    images = make_images(2, height, width, 3)
    batches = apply_preset(images, preset, None)
    for image, got in zip(images, batches, strict=True):
        assert_close(got, apply_slowly(image, preset, top=top, left=left, flip=False))
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(batches, (torchvision.center_crop(planes, [17, 17]).float() / 255).sub(0.25).div(0.5))


def test_colours_and_grey() -> None:
    """Grey images are repeated; of colours, a grey network gets the luma of ITU-R BT.601."""
    grey, colours = make_images(2, 17, 17), make_images(2, 17, 17, 3)
    coloured = dataclasses.replace(SHIFTED, channels=3)
    assert_close(apply_preset(grey, coloured, None), ((grey / 255 - 0.25) / 0.5)[:, None].repeat(3, 1))
    luma = 0.299 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2]
    assert_close(apply_preset(colours, SHIFTED, None), ((luma / 255 - 0.25) / 0.5)[:, None])
    draws = Augmentation(np.full(2, 0.5), np.full(2, 0.5), np.zeros(2, bool), np.array([False, True]))
    batches = apply_preset(colours, coloured, draws)
    assert_close(batches[0], ((colours[0] / 255 - 0.25) / 0.5).transpose(2, 0, 1))
    assert_close(batches[1], ((luma[1] / 255 - 0.25) / 0.5)[None].repeat(3, 0))


def make_picture(height: int, width: int) -> np.ndarray:
    """A picture with slopes and edges, RGB."""
    down, right = np.mgrid[:height, :width]
    planes = [down * 200 // height, right * 250 // width, ((down // 20 + right // 20) % 2) * 255]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(301, 257), (140, 170), (256, 256), (600, 333)])
@pytest.mark.parametrize("u", [(0.0, 0.0), (0.37, 0.91)])
@pytest.mark.parametrize("grey", [False, True])
def test_the_vgg16_preset_is_that_of_torchvision(height: int, width: int, u: tuple[float, float], grey: bool) -> None:
    """Resize(256), RandomCrop(224), RandomGrayscale, mean = std = 0.5, on Pillow images, given equal draws.

    One grey level (2/255 in normalised units) for the resize, whose weights Pillow rounds otherwise, and another half
    for grey, which Pillow rounds to whole levels.
    """
    image = make_picture(height, width)
    picture = torchvision.resize(Image.fromarray(image), [256])
    top, left = (int(share * (side - 224 + 1)) for share, side in zip(u, (picture.height, picture.width), strict=True))
    picture = torchvision.crop(picture, top, left, 224, 224)
    if grey:
        picture = torchvision.to_grayscale(picture, num_output_channels=3)
    expected = torchvision.normalize(torchvision.to_tensor(picture), [0.5] * 3, [0.5] * 3)
    draws = Augmentation(*(np.array([share]) for share in u), np.array([False]), np.array([grey]))
    batches = apply_preset(image[None], make_vgg16_preset(0, 3), draws)[0]
    assert_close(batches, expected.numpy(), atol=(1.51 if grey else 1.01) * 2 / 255)
    if not grey:
        assert (abs(batches - expected) > 1e-6).float().mean() < 0.01  # nearly everywhere the same level


@pytest.mark.parametrize(("height", "width"), [(301, 257), (140, 170)])
def test_the_vgg16_preset_at_test_time(height: int, width: int) -> None:
    image = make_picture(height, width)
    picture = torchvision.center_crop(torchvision.resize(Image.fromarray(image), [256]), [224, 224])
    expected = torchvision.normalize(torchvision.to_tensor(picture), [0.5] * 3, [0.5] * 3)
    assert_close(apply_preset(image[None], make_vgg16_preset(0, 3), None)[0], expected.numpy(), atol=1.01 * 2 / 255)


def test_presets() -> None:
    assert make_preset("vgg16", 48, 3) == Preset("vgg16", 224, 3, 256, 0, False, 0.2, 0.5, 0.5)
    small = Preset("small", 48, 1, None, 4, True, 0.0, 0.5, 0.5)
    assert make_preset("small", 48, 1) == make_small_preset(48, 1) == small
    with pytest.raises(StudyError, match=r"^unknown preset 'smal': did you mean 'small'\?"):
        make_preset("smal", 48, 1)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(StudyError, match=r"^images of 17x11 px; the network takes 17x17 px\. Use the faces it was"):
        apply_preset(make_images(1, 17, 11), SHIFTED, None)


def test_draws_follow_the_preset() -> None:
    """Shares within 4 sd of 10,000 draws."""
    draws = draw_augmentation(dataclasses.replace(SHIFTED, grey_probability=0.2), 10_000, make_generator())
    assert abs(draws.flip.mean() - 0.5) < 4 * 0.005
    assert abs(draws.grey.mean() - 0.2) < 4 * 0.004
    assert abs(draws.down.mean() - 0.5) < 4 * 0.0029 and abs(draws.right.mean() - 0.5) < 4 * 0.0029
    assert abs(np.corrcoef([draws.down, draws.right, draws.flip, draws.grey])[np.triu_indices(4, 1)]).max() < 4 * 0.01
    never = draw_augmentation(dataclasses.replace(SHIFTED, flip=False), 1000, make_generator())
    assert not never.flip.any() and not never.grey.any()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """23 grey faces of 17x17 px in shards of 5; every pixel of face i is i."""
    return write(tmp_path_factory.mktemp("batches"), np.tile(np.arange(23, dtype=np.uint8)[:, None, None], (1, 17, 17)))


def write(directory: Path, images: np.ndarray) -> FaceSet:
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(len(images))]})
    labels = labels.assign(split="train", identity="", expression="", view="", session="")
    chunk, description = FaceChunk(images, labels), FaceSetDescription("identity", 5, None, {"source": "toy"})
    return write_faceset(directory / "faces", [chunk], description)


def read_levels(batch_images: torch.Tensor) -> list[int]:
    """The numbers of the faces in a batch."""
    return (batch_images[:, 0, 8, 8] * 0.5 + 0.25).mul(255).round().int().tolist()


def collect(faces: FaceSet, indices: np.ndarray, size: int, generator: np.random.Generator | None) -> list[ImageBatch]:
    return list(iterate_batches(faces, indices, batch_size=size, preset=SHIFTED, generator=generator))


def test_test_batches_come_in_order_and_are_complete(faces: FaceSet) -> None:
    batches = collect(faces, np.array([9, 2, 2, 22, 0, 7, 1]), 3, None)
    assert [batch.positions.tolist() for batch in batches] == [[9, 2, 2], [22, 0, 7], [1]]
    assert [read_levels(batch.images) for batch in batches] == [[9, 2, 2], [22, 0, 7], [1]]
    assert all(batch.positions.dtype == np.int64 for batch in batches)
    assert collect(faces, np.array([]), 3, None) == []


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [(7, 3, [3, 3]), (8, 3, [3, 3, 2]), (9, 3, [3, 3, 3]), (1, 3, [1]), (2, 1, [1, 1]), (4, 5, [4])],
)
def test_a_last_batch_of_one_image_is_dropped_in_training_only(
    faces: FaceSet, n: int, size: int, lengths: list[int]
) -> None:
    batches = collect(faces, np.arange(n), size, make_generator())
    assert [len(batch.positions) for batch in batches] == lengths
    positions = [position for batch in batches for position in batch.positions.tolist()]
    assert len(set(positions)) == len(positions) and set(positions) <= set(range(n))
    assert [level for batch in batches for level in read_levels(batch.images)] == positions
    assert sum(len(batch.positions) for batch in collect(faces, np.arange(n), size, None)) == n


def test_the_generator_decides_everything(faces: FaceSet) -> None:
    def run_epoch(generator: np.random.Generator) -> tuple[list[int], torch.Tensor]:
        batches = collect(faces, np.arange(20), 6, generator)
        order = [position for batch in batches for position in batch.positions.tolist()]
        return order, torch.cat([batch.images for batch in batches])

    generator = make_generator(3)
    (order, images), (other_order, other_images) = run_epoch(generator), run_epoch(make_generator(3))
    assert order == other_order and torch.equal(images, other_images)
    assert run_epoch(make_generator(4))[0] != order
    assert run_epoch(generator)[0] != order, "the second epoch of a generator must differ"


def test_training_batches_are_augmented(tmp_path: Path) -> None:
    """The documented order of draws: first the order of the images, then batch by batch their parameters."""
    images = make_generator().integers(0, 256, (5, 17, 17), dtype=np.uint8)
    batches = collect(write(tmp_path, images), np.arange(5), 3, make_generator(6))
    generator = make_generator(6)
    order = generator.permutation(5)
    for batch, rows in zip(batches, (order[:3], order[3:]), strict=True):
        draws = draw_augmentation(SHIFTED, len(rows), generator)
        assert torch.equal(batch.images, apply_preset(images[rows], SHIFTED, draws))
    assert not torch.equal(batches[0].images, apply_preset(images[order[:3]], SHIFTED, None))


@pytest.mark.parametrize("indices", [np.array([True] * 23), np.array([1.5, 2.0])])
def test_masks_and_floats_are_no_indices(faces: FaceSet, indices: np.ndarray) -> None:
    for generator in (make_generator(), None):
        with pytest.raises(TypeError, match=f"^indices must be integers, got {indices.dtype}$"):
            collect(faces, indices, 3, generator)
