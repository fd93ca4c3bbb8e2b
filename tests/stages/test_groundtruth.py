"""The stage's tables, from heatmaps that are the truth, its opposite, or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages import groundtruth as stage
from facespec.stages.truths import ExplainedImages, Truths, find_truths
from facespec.study.maps import MapSet
from facespec.study.params import GroundTruth, Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import GROUNDTRUTH, GROUNDTRUTH_MAPS, GROUNDTRUTH_OVERLAP
from facespec.study.vocabulary import Role
from toys import change_params, write_maps

ROWS = np.array([182, 2, 87, 117])  # frontal images of all three people, in both sessions
PAIRS = [("expression", "expression"), ("identity", "identity"), ("joint", "expression"), ("joint", "identity")]
BASELINES = ["random", "centre", "others", "others_pooled", "ceiling"]
TABLES = ("groundtruth", "groundtruth_overlap", "groundtruth_maps")


@pytest.fixture(scope="module")
def block(params: Params) -> GroundTruth:
    return params.groundtruth


@pytest.fixture(scope="module")
def truths(tiny_study: Path, params: Params) -> Truths:
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    images = ExplainedImages(FaceSet.open(Paths(tiny_study).faces("probe")), ROWS, stimuli)
    return find_truths(images, params.groundtruth, data=params.data, workers=1)


@pytest.fixture
def study(study_copy: Paths, truths: Truths) -> Paths:
    """Maps that are the truth of their task by what changes; the identity network's are the opposite, the first of seed
    6 blank.
    """
    masks = truths.read(slice(None))[:, 0]
    maps = {
        (network, task, seed): masks[:, int(task == "identity")] * 2.5 for network, task in PAIRS for seed in (5, 6)
    }
    opposite = 1.0 - masks[:, 1]
    maps["identity", "identity", 5] = opposite
    maps["identity", "identity", 6] = opposite * (np.arange(len(ROWS)) > 0)[:, None, None]
    write_maps(study_copy, ROWS, maps)
    return study_copy


def test_maps_are_scored_against_all_truths_and_beside_baselines(
    study: Paths, params: Params, truths: Truths, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(study, params, workers=1)
    table = GROUNDTRUTH.read(study.table("groundtruth"))
    changes = table[table["truth_rule"] == "changes"]
    keys = ["looks", "tested_on", "truth", "measure"]
    numbers = changes[changes["against"] == ""].set_index(keys)["number"]
    compared = changes.query("looks == 'joint' and tested_on == truth == 'identity'").set_index(["measure", "against"])
    for measure in ("pointing", "mass", "auc"):
        for network, task in PAIRS:
            assert numbers.loc[(network, task, task, measure)] == (0.0 if network == "identity" else 1.0)
        assert 0 < numbers.loc[("joint", "expression", "identity", measure)] < 1
        # maps as fine as the image: the ceiling is the truth itself, and pooling changes nothing
        assert numbers.loc[("ceiling", "", "identity", measure)] == 1
        assert (
            numbers.loc[("others", "", "identity", measure)] == numbers.loc[("others_pooled", "", "identity", measure)]
        )
        for baseline in BASELINES[:-1]:
            expected = 1 - numbers.loc[(baseline, "", "identity", measure)]
            assert compared["number"].loc[(measure, baseline)] == pytest.approx(expected, abs=1e-12)
        assert compared["number"].loc[(measure, "centre_to_ceiling")] == pytest.approx(1, abs=1e-12)
    # people F01, F02 and M01 have one, two and one of the four images
    people = FaceSet.open(study.faces("probe")).labels["identity"].iloc[ROWS].to_numpy()
    for rule, areas in enumerate(truths.read(slice(None)).mean(axis=(3, 4)).swapaxes(0, 1)):
        frame = pd.DataFrame(areas, columns=["expression", "identity"]).groupby(people).mean().mean()
        for truth, area in frame.items():
            of_rule = table["truth_rule"] == ("changes", "discriminability")[rule]
            assert set(table["area"][of_rule & (table["truth"] == truth)].round(9)) == {round(area, 9)}
    assert set(table["n"]) == {4} and set(table["people"]) == {3} and set(table["seeds"]) == {2}
    assert (table["blank"] == (table["looks"] == "identity")).all()
    assert set(table["source"]) == {"embedded faces"} and (table["reason"] == "").all()
    # running again, in other batches
    before = [study.table(name).read_bytes() for name in TABLES]
    monkeypatch.setattr(stage, "PIXELS", 3 * 32 * 32)
    stage.run(study, params, workers=1)
    assert [study.table(name).read_bytes() for name in TABLES] == before


def test_where_truths_are_and_how_far_they_overlap_is_written(study: Paths, params: Params, truths: Truths) -> None:
    stage.run(study, params, workers=1)
    masks = truths.read(slice(None))
    people = FaceSet.open(study.faces("probe")).labels["identity"].iloc[ROWS].to_numpy()
    maps = GROUNDTRUTH_MAPS.read(study.table("groundtruth_maps"))
    by_pixel = maps.set_index(["truth_rule", "truth", "row", "column"])["number"]
    for y, x in ((9, 16), (16, 10), (21, 17)):
        of_person = pd.Series(masks[:, 1, 0, y, x]).groupby(people).mean()
        assert by_pixel.loc[("discriminability", "expression", y, x)] == pytest.approx(of_person.mean(), abs=1e-12)
    assert len(maps) == 4 * 32 * 32 and maps["number"].max() == 1
    overlap = GROUNDTRUTH_OVERLAP.read(study.table("groundtruth_overlap")).iloc[1]
    assert (overlap["first_rule"], overlap["second_truth"]) == ("discriminability", "identity")
    one, other = masks[:, 1, 0], masks[:, 1, 1]
    ious = pd.Series((one & other).sum(axis=(1, 2)) / (one | other).sum(axis=(1, 2)))
    assert overlap["number"] == pytest.approx(ious.groupby(people).mean().mean(), rel=1e-9)


def test_every_network_that_has_maps_is_scored_and_no_other(study: Paths, params: Params) -> None:
    shutil.rmtree(study.heatmaps)
    maps = {("joint", "identity", seed): np.ones((4, 2, 3)) for seed in (5, 6)}
    write_maps(study, ROWS, maps)
    candidates = stage.list_candidates(MapSet.open(study.heatmaps))
    assert candidates == [("joint", "identity"), *((name, "") for name in BASELINES)]
    stage.run(study, params, workers=1)
    table = GROUNDTRUTH.read(study.table("groundtruth"))
    assert list(dict.fromkeys(table["looks"])) == ["joint", *BASELINES]
    flat = table[(table["looks"] == "joint") & (table["measure"] == "auc") & (table["against"] == "")]
    assert (flat["number"] == 0.5).all()
    # maps of 2 x 3 cells: what is known of the truth at that resolution is less than all
    scores = table[(table["measure"] == "mass") & (table["against"] == "")].groupby("looks")["number"].mean()
    assert scores["ceiling"] < 0.9 and scores["others_pooled"] < scores["others"]


def find_others(images: np.ndarray, labels: pd.DataFrame, masks: np.ndarray) -> np.ndarray:
    """The mean truth of the other people in the same view, person by person."""
    own = labels.iloc[images]
    others = labels[(labels["view"] == own["view"].iloc[0]) & (labels["identity"] != own["identity"].iloc[0])]
    return np.mean([masks[rows].mean(axis=0) for rows in others.groupby("identity").groups.values()], axis=0)


def test_the_truth_of_others_leaves_a_person_out_and_is_of_the_view() -> None:
    random = np.random.default_rng(7)
    labels = pd.DataFrame(
        {"view": random.choice(["straight", "half_left"], 30), "identity": random.choice(["a", "b", "c"], 30)}
    )
    truths, masks = Truths(30, (5, 6)), random.random((30, 2, 2, 5, 6)) < 0.4
    for rule, task in np.ndindex(2, 2):
        truths.write(np.arange(30), masks[:, rule, task], rule=rule, task=task)
    seen = []
    for rows, others in stage.average_others_by_image(truths, labels):
        seen += rows.tolist()
        assert len(labels.iloc[rows].drop_duplicates()) == 1
        np.testing.assert_allclose(others, find_others(rows, labels, masks), atol=1e-15)
    assert sorted(seen) == list(range(30))


def test_random_maps_differ_between_seeds_and_other_baselines_do_not(
    study: Paths, block: GroundTruth, truths: Truths
) -> None:
    maps = MapSet.open(study.heatmaps)
    scores = stage.score_maps(maps, truths, block)
    assert (scores[:, 0, 4] != scores[:, 1, 4]).any()
    np.testing.assert_array_equal(scores[:, 0, 5:], scores[:, 1, 5:])
    wide = stage.score_maps(maps, truths, block.model_copy(update={"spread": 9.0}))
    assert (wide[..., 5, :, :, 1] != scores[..., 5, :, :, 1]).all()
    np.testing.assert_array_equal(wide[:, :, :5], scores[:, :, :5])
    np.testing.assert_array_equal(wide[:, :, 6:], scores[:, :, 6:])


def read_reason(paths: Paths, params: Params) -> str:
    """Run the stage and read why its table has no numbers."""
    stage.run(paths, params, workers=1)
    table = GROUNDTRUTH.read(paths.table("groundtruth"))
    assert table[["number", "low", "high", "area"]].isna().all(axis=None)
    others = (
        GROUNDTRUTH_OVERLAP.read(paths.table("groundtruth_overlap")),
        GROUNDTRUTH_MAPS.read(paths.table("groundtruth_maps")),
    )
    assert all(other["number"].isna().all() for other in others)
    (reason,) = {reason for part in (table, *others) for reason in part["reason"]}
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
