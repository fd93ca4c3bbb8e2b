"""What do images hold before any network sees them? Their pixels, in the form of responses."""

from __future__ import annotations

import numpy as np

from facespec.data.batches import iterate_batches
from facespec.data.faceset import FaceSet
from facespec.study.presets import Preset


def record_pixels(faces: FaceSet, indices: np.ndarray, *, size: int, batch_size: int) -> np.ndarray:
    """Grey values in [-1, 1] of the images at `indices`, in their order: float32 (n, side * side).

    `side` is `size`, or the images' shorter side if that is smaller. Larger images are shrunk (antialiased) so that
    their shorter side is `side`, and cut to their central square. One batch of whole images is in memory at a time.
    """
    side = min(size, faces.height, faces.width)
    preset = Preset("pixels", side, 1, resize=side, shift=0, flip=False, grey_probability=0.0)
    rows = [np.empty((0, side * side), dtype=np.float32)]
    for batch in iterate_batches(faces, indices, batch_size=batch_size, preset=preset, generator=None):
        rows.append(batch.images.contiguous().numpy().reshape(len(batch.positions), -1))
    return np.concatenate(rows)
