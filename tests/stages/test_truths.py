"""True pixels of embedded faces: against renderings one by one, with other code, in any batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.data.chunks import FaceChunk
from facespec.data.embedded import production
from facespec.data.embedded.anatomy import PARAMETERS, change_faces
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli, replace_expressions, replace_people
from facespec.data.faceset import FaceSet
from facespec.stages import truths as stage
from facespec.study.params import GroundTruth, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, Role
from toys import FACE

ROWS = np.array([182, 2, 87, 117])  # frontal images of all three people, in both sessions


@pytest.fixture(scope="module")
def block(params: Params) -> GroundTruth:
    return params.groundtruth


@pytest.fixture(scope="module")
def images(tiny_study: Path, params: Params) -> stage.ExplainedImages:
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    return stage.ExplainedImages(FaceSet.open(Paths(tiny_study).faces("probe")), ROWS, stimuli)


@pytest.fixture(scope="module")
def masks(images: stage.ExplainedImages, params: Params) -> np.ndarray:
    """(images, rules, tasks, H, W)."""
    return find_masks(images, params)


def find_masks(images: stage.ExplainedImages, params: Params, *, workers: int = 1, **changes: object) -> np.ndarray:
    block = params.groundtruth.model_copy(update=changes)
    return stage.find_truths(images, block, data=params.data, workers=workers).read(slice(None))


def render(stimuli: Stimuli) -> np.ndarray:
    return production.render(stimuli, range(len(stimuli)), size=32, channels=1)[0].astype(float)


def list_people(images: stage.ExplainedImages) -> dict[str, np.ndarray]:
    return dict(zip(images.stimuli.labels["identity"], images.stimuli.people, strict=True))


def test_the_chosen_images_show_everybody(images: stage.ExplainedImages) -> None:
    labels = images.faces.labels.iloc[ROWS]
    assert set(labels["view"]) == {"straight"} and set(labels["identity"]) == {"F01", "F02", "M01"}
    assert labels["expression"].nunique() == 4 and labels["session"].nunique() == 2


def test_the_truth_of_expression_is_where_six_other_expressions_differ(
    images: stage.ExplainedImages, params: Params, masks: np.ndarray
) -> None:
    assert params.groundtruth.share == 0.1
    few = find_masks(images, params, share=0.02)
    for i, row in enumerate(ROWS):
        face = images.stimuli.take([row])
        pictures = [render(replace_expressions(face, [name]))[0] for name in EXPRESSIONS]
        total = np.abs(pictures - render(face)).sum(axis=0)  # its own expression differs by nothing
        for mask, n in ((few[i, 0, 0], 20), (masks[i, 0, 0], 102)):  # of 32 x 32 pixels
            np.testing.assert_array_equal(mask, total >= np.sort(total, axis=None)[-n])
            assert n <= mask.sum() < n + 5


def test_the_truth_of_identity_is_where_other_people_differ(images: stage.ExplainedImages, params: Params) -> None:
    """All other people, if there are fewer than the parameters name: here two."""
    for mask, row in zip(find_masks(images, params, others=4)[:, 0, 1], ROWS, strict=True):
        face = images.stimuli.take([row])
        people = [person for name, person in list_people(images).items() if name != face.labels["identity"].iloc[0]]
        pictures = [render(replace_people(face, change_faces(face.people, person[None])))[0] for person in people]
        total = np.abs(pictures - render(face)).sum(axis=0)
        np.testing.assert_array_equal(mask, total >= np.sort(total, axis=None)[-102])


def test_other_people_are_drawn_for_every_image(images: stage.ExplainedImages, block: GroundTruth) -> None:
    every = stage.ExplainedImages(images.faces, np.arange(len(images.faces)), images.stimuli)
    variants = stage.vary_people(every, block.model_copy(update={"others": 1}))
    names = {tuple(person[FACE]): name for name, person in list_people(images).items()}
    others = np.array([names[tuple(person)] for person in variants.people[:, FACE]])
    day = np.setdiff1d(np.arange(len(PARAMETERS)), FACE)
    np.testing.assert_array_equal(variants.people[:, day], images.stimuli.people[:, day])
    pairs = pd.crosstab(images.stimuli.labels["identity"].to_numpy(), others)
    assert (np.diag(pairs) == 0).all()
    assert (pairs.to_numpy()[~np.eye(3, dtype=bool)] > 20).all()  # of 70 images each, two others equally likely
    np.testing.assert_array_equal(variants.codes, images.stimuli.codes)
    both = stage.vary_people(every, block.model_copy(update={"others": 2}))
    assert all(tuple(a) != tuple(b) for a, b in both.people.reshape(len(every.rows), 2, -1))


# --- discriminability ---


def test_nuisances_are_all_that_is_drawn_again(images: stage.ExplainedImages, params: Params) -> None:
    stimuli = images.stimuli
    first, second = (stage.redraw_nuisances(stimuli, params.data, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(first.codes, stimuli.codes)
    np.testing.assert_array_equal(first.people[:, FACE], stimuli.people[:, FACE])
    pd.testing.assert_frame_equal(first.labels, stimuli.labels)
    for name in ("people", "intensity", "form", "style", "scene", "keys"):
        drawn, again, before = (getattr(part, name) for part in (first, second, stimuli))
        assert (drawn != again).any() and (drawn != before).any()
    assert (first.idle != second.idle).any()
    same = stage.redraw_nuisances(stimuli, params.data, np.random.default_rng(1))
    assert same.digest() == first.digest()


def render_redraws(images: stage.ExplainedImages, params: Params, *, view: str) -> tuple[np.ndarray, pd.DataFrame]:
    """All pictures of a view in both redraws, and their labels."""
    block, stimuli, pictures = params.groundtruth, images.stimuli, []
    rows = np.flatnonzero(stimuli.labels["view"] == view)
    for redraw in range(block.redraws):
        stream = generator(block.seed, "groundtruth", "redraw", redraw)
        pictures.append(render(stage.redraw_nuisances(stimuli, params.data, stream).take(rows)))
    return np.concatenate(pictures), pd.concat([stimuli.labels.iloc[rows]] * block.redraws)


def test_discriminable_pixels_are_those_of_all_redrawn_pictures(
    images: stage.ExplainedImages, params: Params, masks: np.ndarray
) -> None:
    """By pandas, from all pictures at once."""
    assert params.groundtruth.redraws == 2
    pictures, labels = render_redraws(images, params, view="straight")
    assert len(pictures) == 2 * 3 * 7 * 2
    pixels = pd.DataFrame(pictures.reshape(len(pictures), -1))
    for task, column in enumerate(("expression", "identity")):
        groups = pixels.groupby(labels[column].to_numpy())
        means, n_classes = groups.mean(), groups.ngroups
        within = (groups.var(ddof=0) * groups.count()).sum() / (len(pixels) - n_classes) + 1 / 12
        for image, name in enumerate(images.faces.labels[column].iloc[ROWS]):
            squares = ((means - means.loc[name]) ** 2).drop(name).mean() / within
            expected = squares >= squares.nlargest(102).min()
            np.testing.assert_array_equal(masks[image, 1, task].ravel(), expected)


def test_images_of_a_class_and_view_share_their_discriminable_pixels(
    images: stage.ExplainedImages, params: Params
) -> None:
    labels = images.faces.labels
    rows = np.flatnonzero(labels["view"].isin(["straight", "half_left"]) & (labels["session"] == "A"))[::-1]
    both = stage.ExplainedImages(images.faces, rows, images.stimuli)
    masks = find_masks(both, params)[:, 1]
    shown = labels.iloc[rows]
    for task, column in enumerate(("expression", "identity")):
        unique = {
            key: {masks[i, task].tobytes() for i in np.flatnonzero((shown[[column, "view"]] == list(key)).all(axis=1))}
            for key in shown[[column, "view"]].itertuples(index=False, name=None)
        }
        assert all(len(of_class) == 1 for of_class in unique.values())
        assert len(set.union(*unique.values())) == len(unique) == 2 * shown[column].nunique()


def test_truths_are_kept_bit_by_bit() -> None:
    truths, random = stage.Truths(5, (3, 7)), np.random.default_rng(1)  # 21 pixels, 3 bytes
    masks = random.random((5, 2, 2, 3, 7)) < 0.5
    for rule, task in np.ndindex(2, 2):
        for rows in (np.array([3, 0]), np.array([1, 2, 4])):
            truths.write(rows, masks[rows, rule, task], rule=rule, task=task)
    np.testing.assert_array_equal(truths.read(slice(None)), masks)
    np.testing.assert_array_equal(truths.read(np.array([4, 1])), masks[[4, 1]])
    truths.write(np.array([0, 4]), masks[1:2, 0, 0], rule=1, task=0)
    np.testing.assert_array_equal(truths.read(slice(None))[[0, 4], 1, 0], masks[[1, 1], 0, 0])
    assert truths.bits.nbytes == 5 * 4 * 3


def test_batches_do_not_change_truths_and_workers_are_passed_on(
    images: stage.ExplainedImages, params: Params, masks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PIXELS", 13 * 32 * 32)  # two images and their six others, or six and their two
    options_used = []

    def iterate(stimuli: Stimuli, **options: int) -> Iterator[FaceChunk]:
        options_used.append((options.pop("workers"), options["chunk"]))
        return original(stimuli, workers=1, **options)

    original = production.iterate_chunks
    monkeypatch.setattr(production, "iterate_chunks", iterate)
    np.testing.assert_array_equal(find_masks(images, params, workers=3), masks)
    assert options_used == [(3, 12), (3, 12), (3, 13), (3, 13)]
