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
from facespec.study.artefacts import digest_files, write_document
from facespec.study.maps import HEADER_FILE, name_map_file
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import GROUNDTRUTH
from facespec.study.vocabulary import EXPRESSIONS, PAIRS, Role

SEEDS = (5, 6)
ROWS = np.array([182, 2, 87, 117])  # frontal images of all three people, in both sessions


def params_of(paths: Paths, **changes: float) -> Params:
    params = read_params(paths.params)
    return params.model_copy(update={"groundtruth": params.groundtruth.model_copy(update={"draws": 100} | changes)})


def images_of(paths: Paths) -> stage.Explained:
    params = read_params(paths.params)
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    return stage.Explained(FaceSet.open(paths.faces("probe")), ROWS, stimuli)


def truths_of(paths: Paths, **changes: float) -> np.ndarray:
    return stage.render_truths(images_of(paths), params_of(paths, **changes).groundtruth, workers=1)


def pictures(stimuli: Stimuli) -> np.ndarray:
    return production.render(stimuli, range(len(stimuli)), size=32, channels=1)[0].astype(float)


def people_of(images: stage.Explained) -> dict[str, np.ndarray]:
    return dict(zip(images.stimuli.labels["identity"], images.stimuli.people, strict=True))


def differences(images: stage.Explained, row: int) -> dict[str, np.ndarray]:
    """By a slow road: absolute differences of one picture to those of each of the two other people."""
    own = images.stimuli.take([row])
    others = {who: one for who, one in people_of(images).items() if who != own.labels["identity"].iloc[0]}
    return {who: np.abs(pictures(replace_people(own, one[None]))[0] - pictures(own)[0]) for who, one in others.items()}


def test_the_chosen_images_show_everybody(tiny_study: Path) -> None:
    labels = FaceSet.open(Paths(tiny_study).faces("probe")).labels.iloc[ROWS]
    assert set(labels["view"]) == {"straight"} and set(labels["identity"]) == {"F01", "F02", "M01"}
    assert labels["expression"].nunique() == 4 and labels["session"].nunique() == 2


def test_the_truth_of_expression_is_where_six_other_expressions_differ(tiny_study: Path) -> None:
    images = images_of(Paths(tiny_study))
    few, many = (truths_of(Paths(tiny_study), share=share)[:, 0] for share in (0.02, 0.1))
    for place, row in enumerate(ROWS):
        own = images.stimuli.take([row])
        unlike = [np.abs(pictures(replace_expressions(own, [name]))[0] - pictures(own)[0]) for name in EXPRESSIONS]
        total = np.sum(unlike, axis=0)  # its own differs by nothing
        for found, n in ((few[place], 20), (many[place], 102)):  # of 32 x 32 pixels
            np.testing.assert_array_equal(found, total >= np.sort(total, axis=None)[-n])
            assert n <= found.sum() < n + 5


def test_the_truth_of_identity_is_where_other_people_differ(tiny_study: Path) -> None:
    """As many as there are, if fewer than asked for: here two."""
    images = images_of(Paths(tiny_study))
    found = truths_of(Paths(tiny_study), others=4)[:, 1]
    for place, row in enumerate(ROWS):
        total = np.sum(list(differences(images, row).values()), axis=0)
        np.testing.assert_array_equal(found[place], total >= np.sort(total, axis=None)[-102])


def test_other_people_are_drawn_for_every_image(tiny_study: Path) -> None:
    images, block = images_of(Paths(tiny_study)), params_of(Paths(tiny_study), others=1).groundtruth
    every = stage.Explained(images.faces, np.arange(len(images.faces)), images.stimuli)
    drawn = stage._other_people(every, block)
    names = {tuple(one): who for who, one in people_of(images).items()}
    pairs = pd.crosstab(images.stimuli.labels["identity"].to_numpy(), np.array([names[tuple(p)] for p in drawn.people]))
    assert (np.diag(pairs) == 0).all()
    assert (pairs.to_numpy()[~np.eye(3, dtype=bool)] > 20).all()  # of 70 images each, two others equally likely
    np.testing.assert_array_equal(drawn.codes, images.stimuli.codes)
    both = stage._other_people(every, block.model_copy(update={"others": 2}))
    assert all(tuple(a) != tuple(b) for a, b in both.people.reshape(len(every.rows), 2, -1))


def test_batches_do_not_show_and_workers_are_passed_on(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = truths_of(Paths(tiny_study))
    monkeypatch.setattr(stage, "PIXELS", 13 * 32 * 32)  # two images and their six others, or six and their two
    asked = []

    def chunks(stimuli: Stimuli, **options: int) -> Iterator[FaceChunk]:
        asked.append((options.pop("workers"), options["chunk"]))
        return real(stimuli, workers=1, **options)

    real = production.iterate_chunks
    monkeypatch.setattr(production, "iterate_chunks", chunks)
    found = stage.render_truths(images_of(Paths(tiny_study)), params_of(Paths(tiny_study)).groundtruth, workers=3)
    np.testing.assert_array_equal(found, before)
    assert asked == [(3, 12), (3, 12)]


# --- the stage ---


def write_maps(paths: Paths, rows: np.ndarray, maps: dict[tuple[str, str, int], np.ndarray]) -> None:
    """Heatmaps of the probe images at `rows`."""
    faces = FaceSet.open(paths.faces("probe"))
    paths.heatmaps.mkdir(parents=True)
    faces.labels.iloc[rows].to_csv(paths.heatmaps / "labels.csv", index=False)
    for key, value in maps.items():
        np.save(paths.heatmaps / name_map_file(*key), value.astype(np.float32))
    write_document(
        paths.heatmaps / HEADER_FILE,
        {
            "version": 2,
            "source": faces.source,
            "height": faces.height,
            "width": faces.width,
            "n": len(rows),
            "seeds": list(SEEDS),
            "layers": {},
            "target": "labelled",
            "digests": digest_files(paths.heatmaps),
        },
    )


@pytest.fixture
def explained(study_copy: Paths) -> Paths:
    """Maps that are the truth of their task; the identity network's are the opposite, the first of seed 6 blank."""
    truths = truths_of(study_copy)
    maps = {
        (network, task, seed): truths[:, int(task == "identity")] * 2.5 for network, task in PAIRS for seed in SEEDS
    }
    for seed in SEEDS:
        maps["identity", "identity", seed] = 1 - truths[:, 1]
    maps["identity", "identity", 6] = maps["identity", "identity", 6] * (np.arange(len(ROWS)) > 0)[:, None, None]
    write_maps(study_copy, ROWS, maps)
    return study_copy


def test_maps_are_scored_against_both_truths_and_beside_baselines(explained: Paths) -> None:
    stage.run(explained, params_of(explained), workers=1)
    table = GROUNDTRUTH.read(explained.table("groundtruth"))
    own = table[table["against"] == ""].set_index(["looks", "tested_on", "truth", "measure"])
    truths = truths_of(explained)
    for measure in ("pointing", "mass", "auc"):
        for network, task in PAIRS:
            expected = 0.0 if network == "identity" else 1.0
            assert own["number"].loc[(network, task, task, measure)] == expected
        crossed = own["number"].loc[("joint", "expression", "identity", measure)]
        assert 0 < crossed < 1
        for baseline in ("random", "centre"):
            less = table.query(f"looks == 'joint' and tested_on == truth == 'identity' and measure == '{measure}'")
            difference = less.set_index("against")["number"].loc[baseline]
            assert difference == pytest.approx(1 - own["number"].loc[(baseline, "", "identity", measure)], abs=1e-12)
    # people F01, F02 and M01 have one, two and one of the four images
    areas = truths.mean(axis=(2, 3))
    people = FaceSet.open(explained.faces("probe")).labels["identity"].iloc[ROWS].to_numpy()
    expected = np.mean([areas[people == who].mean(axis=0) for who in ("F01", "F02", "M01")], axis=0)
    for truth, area in zip(("expression", "identity"), expected, strict=True):
        assert set(table["area"][table["truth"] == truth].round(9)) == {round(area, 9)}
    assert set(table["n"]) == {4} and set(table["people"]) == {3} and set(table["seeds"]) == {2}
    assert set(table["blank"][table["looks"] == "identity"]) == {1}
    assert set(table["blank"][table["looks"] != "identity"]) == {0}
    assert set(table["source"]) == {"embedded faces"} and (table["reason"] == "").all()


def test_random_maps_differ_between_seeds_and_the_centre_does_not(explained: Paths) -> None:
    params, truths = params_of(explained), truths_of(explained)
    maps = stage.MapSet.open(explained.heatmaps)
    scores = stage._scores(maps, truths, params.groundtruth)
    assert (scores[:, 0, 4] != scores[:, 1, 4]).any()
    np.testing.assert_array_equal(scores[:, 0, 5], scores[:, 1, 5])
    wide = stage._scores(maps, truths, params_of(explained, spread=9.0).groundtruth)
    assert (wide[..., 5, :, 1] != scores[..., 5, :, 1]).all()
    np.testing.assert_array_equal(wide[:, :, :5], scores[:, :, :5])


def test_running_again_in_other_batches_gives_the_same_bytes(explained: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(explained, params_of(explained), workers=1)
    before = explained.table("groundtruth").read_bytes()
    monkeypatch.setattr(stage, "PIXELS", 3 * 32 * 32)
    stage.run(explained, params_of(explained), workers=1)
    assert explained.table("groundtruth").read_bytes() == before


def unscored(paths: Paths, params: Params) -> str:
    """The reason in a table that has no numbers."""
    stage.run(paths, params, workers=1)
    table = GROUNDTRUTH.read(paths.table("groundtruth"))
    assert len(table) == 84 and table[["number", "low", "high", "area"]].isna().all(axis=None)
    (reason,) = set(table["reason"])
    return reason


@pytest.mark.parametrize("changes", [{"seed": 1}, {"channels": 3}, {"size": 33}, {"people": 4}])
def test_faces_made_from_other_parameters_have_no_truth(explained: Paths, changes: dict[str, int]) -> None:
    params = params_of(explained)
    people = changes.get("people", params.data.probe.people)
    data = {name: value for name, value in changes.items() if name != "people"}
    data["probe"] = params.data.probe.model_copy(update={"people": people})
    assert unscored(explained, params.model_copy(update={"data": params.data.model_copy(update=data)})) == (
        "the probe faces were made from other parameters than data in params.yaml, or by another renderer"
    )


def test_photographs_have_no_truth(study_copy: Paths) -> None:
    labels = FaceSet.open(study_copy.faces("probe")).labels.iloc[ROWS]
    shutil.rmtree(study_copy.faces("probe"))
    images = np.random.default_rng(3).integers(0, 256, (len(ROWS), 37, 37), dtype=np.uint8)
    chunk = FaceChunk(images, labels.reset_index(drop=True))
    write_faceset(study_copy.faces("probe"), [chunk], FaceSetDescription("probe", 5, None, {"source": "KDEF"}))
    write_maps(study_copy, np.arange(len(ROWS)), {})
    reason = unscored(study_copy, params_of(study_copy))
    assert reason == "only embedded faces can be drawn again with one thing changed; these are KDEF"
