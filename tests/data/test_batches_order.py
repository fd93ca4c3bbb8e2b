"""Batches: which images come when, and that the generator alone decides it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.data.batches import Preset, apply_preset, draw_augmentation, iterate_batches
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset

SHIFTED = Preset("toy", 17, 1, resize=None, shift=3, flip=True, grey_probability=0.0, mean=0.25, std=0.5)


def stream(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """23 grey faces of 17x17 px in shards of 5; every pixel of face i is i."""
    return stored(
        tmp_path_factory.mktemp("batches"), np.tile(np.arange(23, dtype=np.uint8)[:, None, None], (1, 17, 17))
    )


def stored(directory: Path, images: np.ndarray) -> FaceSet:
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(len(images))]})
    labels = labels.assign(split="train", identity="", expression="", view="", session="")
    chunk, description = FaceChunk(images, labels), FaceSetDescription("identity", 5, None, {"source": "toy"})
    return write_faceset(directory / "faces", [chunk], description)


def levels(batch_images: torch.Tensor) -> list[int]:
    """Which faces a batch shows."""
    return (batch_images[:, 0, 8, 8] * 0.5 + 0.25).mul(255).round().int().tolist()


def test_test_batches_come_in_order_all_of_them(faces: FaceSet) -> None:
    indices = np.array([9, 2, 2, 22, 0, 7, 1])
    made = list(iterate_batches(faces, indices, batch_size=3, preset=SHIFTED, generator=None))
    assert [batch.positions.tolist() for batch in made] == [[9, 2, 2], [22, 0, 7], [1]]
    assert [levels(batch.images) for batch in made] == [[9, 2, 2], [22, 0, 7], [1]]
    assert all(batch.positions.dtype == np.int64 for batch in made)
    assert not list(iterate_batches(faces, np.array([]), batch_size=3, preset=SHIFTED, generator=None))


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [(7, 3, [3, 3]), (8, 3, [3, 3, 2]), (9, 3, [3, 3, 3]), (1, 3, [1]), (2, 1, [1, 1]), (4, 5, [4])],
)
def test_a_last_batch_of_one_image_is_dropped_in_training_only(
    faces: FaceSet, n: int, size: int, lengths: list[int]
) -> None:
    made = list(iterate_batches(faces, np.arange(n), batch_size=size, preset=SHIFTED, generator=stream()))
    assert [len(batch.positions) for batch in made] == lengths
    seen = [position for batch in made for position in batch.positions.tolist()]
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(n))
    assert [level for batch in made for level in levels(batch.images)] == seen
    tested = iterate_batches(faces, np.arange(n), batch_size=size, preset=SHIFTED, generator=None)
    assert sum(len(batch.positions) for batch in tested) == n


def test_the_generator_decides_everything(faces: FaceSet) -> None:
    def epoch(seed: int) -> tuple[list[int], torch.Tensor]:
        made = list(iterate_batches(faces, np.arange(20), batch_size=6, preset=SHIFTED, generator=stream(seed)))
        return [p for batch in made for p in batch.positions.tolist()], torch.cat([batch.images for batch in made])

    (order, images), (again, same) = epoch(3), epoch(3)
    assert order == again and torch.equal(images, same)
    assert epoch(4)[0] != order
    generator = stream(3)
    once, twice = (
        list(iterate_batches(faces, np.arange(20), batch_size=6, preset=SHIFTED, generator=generator)) for _ in range(2)
    )
    assert once[0].positions.tolist() != twice[0].positions.tolist()


def test_training_batches_are_augmented_by_what_was_drawn(tmp_path: Path) -> None:
    """The documented order of draws: first the order of the images, then batch by batch their parameters."""
    images = stream().integers(0, 256, (5, 17, 17), dtype=np.uint8)
    made = list(
        iterate_batches(stored(tmp_path, images), np.arange(5), batch_size=3, preset=SHIFTED, generator=stream(6))
    )
    twin = stream(6)
    order = twin.permutation(5)
    for batch, rows in zip(made, (order[:3], order[3:]), strict=True):
        assert torch.equal(
            batch.images, apply_preset(images[rows], SHIFTED, draw_augmentation(SHIFTED, len(rows), twin))
        )
    assert not torch.equal(made[0].images, apply_preset(images[order[:3]], SHIFTED, None))


@pytest.mark.parametrize("wrong", [np.array([True] * 23), np.array([1.5, 2.0])])
def test_masks_and_floats_are_no_indices(faces: FaceSet, wrong: np.ndarray) -> None:
    generators: list[Callable[[], np.random.Generator | None]] = [stream, lambda: None]
    for generator in generators:
        with pytest.raises(TypeError) as caught:
            list(iterate_batches(faces, wrong, batch_size=3, preset=SHIFTED, generator=generator()))
        assert str(caught.value) == f"indices must be integers, got {wrong.dtype}"
