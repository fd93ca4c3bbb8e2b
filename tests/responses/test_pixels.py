"""Pixels as responses: grey values of the images themselves, and of larger images shrunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.responses.pixels import record_pixels
from toys import write_noise_faces


def write_faces(directory: Path, images: np.ndarray) -> FaceSet:
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(len(images))]})
    labels = labels.assign(split="test", identity="", expression="", view="", session="")
    return write_faceset(
        directory, [FaceChunk(images, labels)], FaceSetDescription("probe", 5, None, {"source": "toy"})
    )


@pytest.mark.parametrize("size", [17, 48])
def test_small_images_are_taken_as_they_are(tmp_path: Path, size: int) -> None:
    faces, rows = write_noise_faces(tmp_path / "faces"), np.array([11, 0, 7])
    pixels = record_pixels(faces, rows, size=size, batch_size=2)
    assert pixels.shape == (3, 17 * 17) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, faces.images(rows).reshape(3, -1) / 127.5 - 1, atol=1e-6)
    assert record_pixels(faces, rows[:0], size=size, batch_size=2).shape == (0, 17 * 17)


def test_larger_colour_images_become_small_and_grey(tmp_path: Path) -> None:
    """Smooth, so that every way of shrinking gives nearly the same: cells of 3 x 3 px of the central square."""
    y, x = np.mgrid[:36, :60]
    ramp = 2 * y + 3 * x
    images = np.stack([ramp, ramp[::-1]])[..., None] * np.array([1.0, 0.5, 0.25])
    faces = write_faces(tmp_path / "faces", images.astype(np.uint8))
    pixels = record_pixels(faces, np.array([0, 1]), size=12, batch_size=5).reshape(2, 12, 12)
    square = images[:, :, 12:48] @ np.array([0.299, 0.587, 0.114])  # luma
    cells = square.reshape(2, 12, 3, 12, 3).mean(axis=(2, 4)) / 127.5 - 1
    np.testing.assert_allclose(pixels[:, 1:-1, 1:-1], cells[:, 1:-1, 1:-1], atol=0.015)
