"""How do images of a FaceSet become batches of network input?

Random parameters are drawn first, then applied without side effects: the same generator state gives the same batches,
and the result for an image does not depend on the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from facespec.data.faceset import FaceSet
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.presets import Preset

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision


def make_small_preset(size: int, channels: int) -> Preset:
    """Faces in their size, shifted by up to a twelfth of their size, and flipped [O]."""
    return Preset("small", size, channels, resize=None, shift=size // 12, flip=True, grey_probability=0.0)


def make_vgg16_preset(size: int, channels: int) -> Preset:
    """Resize to 256, random crop of 224, grey with probability 0.2, whatever the faces' `size` [L]."""
    del size
    return Preset("vgg16", 224, channels, resize=256, shift=0, flip=False, grey_probability=0.2)


PRESETS: Mapping[str, Callable[[int, int], Preset]] = {"small": make_small_preset, "vgg16": make_vgg16_preset}


def make_preset(name: str, size: int, channels: int) -> Preset:
    """The preset `name` for faces of `size` px and `channels`; `StudyError` for an unknown name."""
    if name not in PRESETS:
        raise StudyError(f"unknown preset {name!r}: {suggest_spelling(name, PRESETS)}")
    return PRESETS[name](size, channels)


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Random parameters of n images: `down`, `right` in [0, 1) place the crop; `flip`, `grey` are booleans."""

    down: np.ndarray
    right: np.ndarray
    flip: np.ndarray
    grey: np.ndarray

    def __getitem__(self, rows: np.ndarray | slice) -> Augmentation:
        """The parameters of some of the images."""
        return Augmentation(self.down[rows], self.right[rows], self.flip[rows], self.grey[rows])


def draw_augmentation(preset: Preset, n: int, generator: np.random.Generator) -> Augmentation:
    """Random parameters for `n` images."""
    down, right, flip, grey = generator.random((4, n))
    return Augmentation(down, right, (flip < 0.5) & preset.flip, grey < preset.grey_probability)


def apply_preset(images: np.ndarray, preset: Preset, augmentation: Augmentation | None) -> torch.Tensor:
    """Network input from `images`, uint8 (n, H, W) or (n, H, W, 3), with `augmentation`, None at test time.

    Returns float32 (n, channels, size, size), channels last in memory. Grey images are repeated and colours averaged
    (luma) as the preset's channels require. Raises `StudyError` for images of another size than the preset's.
    """
    faces = np.require(images[..., None] if images.ndim == 3 else images, requirements=["C", "W"])
    if preset.resize is not None:
        faces = _resize(faces, preset.resize)
    elif faces.shape[1:3] != (preset.size, preset.size):
        raise StudyError(
            f"images of {faces.shape[1]}x{faces.shape[2]} px; the network takes {preset.size}x{preset.size} px. "
            "Use the faces it was trained on, or make them again with that data.size."
        )
    pixels = torch.from_numpy(_crop(faces, preset, augmentation)).to(torch.float32)
    pixels = _convert_channels(pixels, preset, augmentation)
    # in place: a new tensor per step would double the time for small images
    pixels.div_(255).sub_(preset.mean).div_(preset.std)
    return pixels.permute(0, 3, 1, 2)


def _resize(faces: np.ndarray, shorter: int) -> np.ndarray:
    """(n, H, W, C) -> (n, h, w, C) with min(h, w) == shorter; bilinear, antialiased, in uint8 as Pillow does it."""
    height, width = faces.shape[1:3]
    target = [int(shorter * side / min(height, width)) for side in (height, width)]
    planes = torch.from_numpy(faces).permute(0, 3, 1, 2)  # channels last in memory: ten times faster than floats
    return functional.interpolate(planes, size=target, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _crop(faces: np.ndarray, preset: Preset, augmentation: Augmentation | None) -> np.ndarray:
    """Crop, shift and flip in one gather: (n, H, W, C) -> (n, size, size, C), edge pixels repeated outside."""
    n, height, width, channels = faces.shape
    margin = np.array([height, width]) - preset.size
    if augmentation is None:
        top, left = np.tile(np.round(margin / 2).astype(int), (n, 1)).T
        flip = np.zeros(n, dtype=bool)
        if not margin.any():
            return faces
    else:
        top, left = (
            np.floor(share * (pixels + 2 * preset.shift + 1)).astype(int) - preset.shift
            for share, pixels in zip((augmentation.down, augmentation.right), margin, strict=True)
        )
        flip = augmentation.flip
    steps = np.arange(preset.size)
    rows = np.clip(top[:, None] + steps, 0, height - 1)
    columns = np.clip(left[:, None] + np.where(flip[:, None], steps[::-1], steps), 0, width - 1)
    indices = (np.arange(n)[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    flat = faces.reshape(n * height * width, channels)
    # one channel: indexing scalars is several times faster than indexing rows of length one
    return flat[:, 0].take(indices)[..., None] if channels == 1 else flat.take(indices, axis=0)


def _convert_channels(faces: torch.Tensor, preset: Preset, augmentation: Augmentation | None) -> torch.Tensor:
    """Convert to the preset's number of channels, and the images whose augmentation is grey to grey."""
    if faces.shape[3] == 1:
        return faces.expand(-1, -1, -1, preset.channels).contiguous() if preset.channels > 1 else faces
    luma = torch.tensor(LUMA)
    if preset.channels == 1:
        return (faces * luma).sum(dim=3, keepdim=True)
    if augmentation is not None and augmentation.grey.any():
        grey = torch.from_numpy(augmentation.grey)
        faces[grey] = (faces[grey] * luma).sum(dim=3, keepdim=True).expand(-1, -1, -1, 3)
    return faces


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """`images` float32 (n, channels, size, size); `positions` int64 (n,), their indices in the FaceSet."""

    images: torch.Tensor
    positions: np.ndarray


def iterate_batches(
    faces: FaceSet, indices: np.ndarray, *, batch_size: int, preset: Preset, generator: np.random.Generator | None
) -> Iterator[ImageBatch]:
    """The images at `indices`, `batch_size` at a time; the last batch may be short.

    With a generator (training): in random order, augmented by `preset`; a last batch of one image is dropped, as
    batch norm needs two. Without (test): in the order given, all of them, not augmented.
    """
    order = np.asarray(indices)
    if order.size and not np.issubdtype(order.dtype, np.integer):  # a mask would become images 0 and 1
        raise TypeError(f"indices must be integers, got {order.dtype}")
    order = order.astype(np.int64)
    if generator is not None:
        order = generator.permutation(order)
        if len(order) % batch_size == 1 and len(order) > 1:
            order = order[:-1]
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        augmentation = draw_augmentation(preset, len(positions), generator) if generator is not None else None
        yield ImageBatch(apply_preset(faces.images(positions), preset, augmentation), positions)
