from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli, replace_expressions, replace_people
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages import groundtruth as stage
from facespec.study.maps import MapSet
from facespec.study.params import GroundTruth, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import GROUNDTRUTH
from facespec.study.vocabulary import EXPRESSIONS, PAIRS, Role
from toys import change_params, write_maps

ROWS = np.array([182, 2, 87, 117])  # frontal images of all three people, in both sessions


@pytest.fixture(scope="module")
def block(params: Params) -> GroundTruth:
    return params.groundtruth


@pytest.fixture(scope="module")
def images(tiny_study: Path, params: Params) -> stage.ExplainedImages:
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    return stage.ExplainedImages(FaceSet.open(Paths(tiny_study).faces("probe")), ROWS, stimuli)


@pytest.fixture(scope="module")
def truths(images: stage.ExplainedImages, block: GroundTruth) -> np.ndarray:
    return stage.render_truths(images, block, workers=1)


def render(stimuli: Stimuli) -> np.ndarray:
    return production.render(stimuli, range(len(stimuli)), size=32, channels=1)[0].astype(float)


def list_people(images: stage.ExplainedImages) -> dict[str, np.ndarray]:
    return dict(zip(images.stimuli.labels["identity"], images.stimuli.people, strict=True))


def test_the_chosen_images_show_everybody(images: stage.ExplainedImages) -> None:
    labels = images.faces.labels.iloc[ROWS]
    assert set(labels["view"]) == {"straight"} and set(labels["identity"]) == {"F01", "F02", "M01"}
    assert labels["expression"].nunique() == 4 and labels["session"].nunique() == 2


def test_the_truth_of_expression_is_where_six_other_expressions_differ(
    images: stage.ExplainedImages, block: GroundTruth, truths: np.ndarray
) -> None:
    assert block.share == 0.1
    few = stage.render_truths(images, block.model_copy(update={"share": 0.02}), workers=1)
    for i, row in enumerate(ROWS):
        face = images.stimuli.take([row])
        pictures = [render(replace_expressions(face, [name]))[0] for name in EXPRESSIONS]
        total = np.abs(pictures - render(face)).sum(axis=0)  # its own expression differs by nothing
        for mask, n in ((few[i, 0], 20), (truths[i, 0], 102)):  # of 32 x 32 pixels
            np.testing.assert_array_equal(mask, total >= np.sort(total, axis=None)[-n])
            assert n <= mask.sum() < n + 5


def test_the_truth_of_identity_is_where_other_people_differ(images: stage.ExplainedImages, block: GroundTruth) -> None:
    """All other people, if there are fewer than the parameters name: here two."""
    masks = stage.render_truths(images, block.model_copy(update={"others": 4}), workers=1)[:, 1]
    for mask, row in zip(masks, ROWS, strict=True):
        face = images.stimuli.take([row])
        people = [person for name, person in list_people(images).items() if name != face.labels["identity"].iloc[0]]
        pictures = [render(replace_people(face, person[None]))[0] for person in people]
        total = np.abs(pictures - render(face)).sum(axis=0)
        np.testing.assert_array_equal(mask, total >= np.sort(total, axis=None)[-102])


def test_other_people_are_drawn_for_every_image(images: stage.ExplainedImages, block: GroundTruth) -> None:
    every = stage.ExplainedImages(images.faces, np.arange(len(images.faces)), images.stimuli)
    variants = stage.vary_people(every, block.model_copy(update={"others": 1}))
    names = {tuple(person): name for name, person in list_people(images).items()}
    others = np.array([names[tuple(person)] for person in variants.people])
    pairs = pd.crosstab(images.stimuli.labels["identity"].to_numpy(), others)
    assert (np.diag(pairs) == 0).all()
    assert (pairs.to_numpy()[~np.eye(3, dtype=bool)] > 20).all()  # of 70 images each, two others equally likely
    np.testing.assert_array_equal(variants.codes, images.stimuli.codes)
    both = stage.vary_people(every, block.model_copy(update={"others": 2}))
    assert all(tuple(a) != tuple(b) for a, b in both.people.reshape(len(every.rows), 2, -1))


def test_batches_do_not_change_truths_and_workers_are_passed_on(
    images: stage.ExplainedImages, block: GroundTruth, truths: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PIXELS", 13 * 32 * 32)  # two images and their six others, or six and their two
    options_used = []

    def iterate(stimuli: Stimuli, **options: int) -> Iterator[FaceChunk]:
        options_used.append((options.pop("workers"), options["chunk"]))
        return original(stimuli, workers=1, **options)

    original = production.iterate_chunks
    monkeypatch.setattr(production, "iterate_chunks", iterate)
    np.testing.assert_array_equal(stage.render_truths(images, block, workers=3), truths)
    assert options_used == [(3, 12), (3, 12)]


# --- the stage ---


@pytest.fixture
def study(study_copy: Paths, truths: np.ndarray) -> Paths:
    """Maps that are the truth of their task; the identity network's are the opposite, the first of seed 6 blank."""
    maps = {
        (network, task, seed): truths[:, int(task == "identity")] * 2.5 for network, task in PAIRS for seed in (5, 6)
    }
    opposite = 1.0 - truths[:, 1]
    maps["identity", "identity", 5] = opposite
    maps["identity", "identity", 6] = opposite * (np.arange(len(ROWS)) > 0)[:, None, None]
    write_maps(study_copy, ROWS, maps)
    return study_copy


def test_maps_are_scored_against_both_truths_and_beside_baselines(
    study: Paths, params: Params, truths: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(study, params, workers=1)
    table = GROUNDTRUTH.read(study.table("groundtruth"))
    keys = ["looks", "tested_on", "truth", "measure"]
    numbers = table[table["against"] == ""].set_index(keys)["number"]
    less = table.query("looks == 'joint' and tested_on == truth == 'identity'").set_index(["measure", "against"])
    for measure in ("pointing", "mass", "auc"):
        for network, task in PAIRS:
            assert numbers.loc[(network, task, task, measure)] == (0.0 if network == "identity" else 1.0)
        assert 0 < numbers.loc[("joint", "expression", "identity", measure)] < 1
        for baseline in ("random", "centre"):
            expected = 1 - numbers.loc[(baseline, "", "identity", measure)]
            assert less["number"].loc[(measure, baseline)] == pytest.approx(expected, abs=1e-12)
    # people F01, F02 and M01 have one, two and one of the four images
    people = FaceSet.open(study.faces("probe")).labels["identity"].iloc[ROWS].to_numpy()
    areas = pd.DataFrame(truths.mean(axis=(2, 3)), columns=["expression", "identity"]).groupby(people).mean().mean()
    for truth, area in areas.items():
        assert set(table["area"][table["truth"] == truth].round(9)) == {round(area, 9)}
    assert set(table["n"]) == {4} and set(table["people"]) == {3} and set(table["seeds"]) == {2}
    assert (table["blank"] == (table["looks"] == "identity")).all()
    assert set(table["source"]) == {"embedded faces"} and (table["reason"] == "").all()
    # running again, in other batches
    before = study.table("groundtruth").read_bytes()
    monkeypatch.setattr(stage, "PIXELS", 3 * 32 * 32)
    stage.run(study, params, workers=1)
    assert study.table("groundtruth").read_bytes() == before


def test_random_maps_differ_between_seeds_and_the_centre_does_not(
    study: Paths, block: GroundTruth, truths: np.ndarray
) -> None:
    maps = MapSet.open(study.heatmaps)
    scores = stage.score_maps(maps, truths, block)
    assert (scores[:, 0, 4] != scores[:, 1, 4]).any()
    np.testing.assert_array_equal(scores[:, 0, 5], scores[:, 1, 5])
    wide = stage.score_maps(maps, truths, block.model_copy(update={"spread": 9.0}))
    assert (wide[..., 5, :, 1] != scores[..., 5, :, 1]).all()
    np.testing.assert_array_equal(wide[:, :, :5], scores[:, :, :5])


def read_reason(paths: Paths, params: Params) -> str:
    """Run the stage and read why its table has no numbers."""
    stage.run(paths, params, workers=1)
    table = GROUNDTRUTH.read(paths.table("groundtruth"))
    assert len(table) == 84 and table[["number", "low", "high", "area"]].isna().all(axis=None)
    (reason,) = set(table["reason"])
    return reason


@pytest.mark.parametrize("changes", [{"seed": 1}, {"channels": 3}, {"size": 33}, {"people": 4}])
def test_faces_made_from_other_parameters_have_no_truth(study: Paths, params: Params, changes: dict[str, int]) -> None:
    if "people" in changes:
        changes = {"probe": params.data.probe.model_copy(update=changes)}
    assert read_reason(study, change_params(params, "data", **changes)) == (
        "the probe faces were made from other parameters than data in params.yaml, or by another renderer"
    )


def test_photographs_have_no_truth(study_copy: Paths, params: Params) -> None:
    probe = study_copy.faces("probe")
    labels = FaceSet.open(probe).labels.iloc[ROWS].reset_index(drop=True)
    shutil.rmtree(probe)
    images = np.random.default_rng(3).integers(0, 256, (len(ROWS), 37, 37), dtype=np.uint8)
    write_faceset(probe, [FaceChunk(images, labels)], FaceSetDescription("probe", 5, None, {"source": "KDEF"}))
    write_maps(study_copy, np.arange(len(ROWS)), {})
    reason = read_reason(study_copy, params)
    assert reason == "only embedded faces can be drawn again with one thing changed; these are KDEF"
