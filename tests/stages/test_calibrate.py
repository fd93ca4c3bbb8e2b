from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from facespec import cli
from facespec.data.batches import apply_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.cues import PERSON_CUES
from facespec.data.embedded.production import render
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.splits import hold_out
from facespec.models.checkpoints import load_checkpoint
from facespec.stages import calibrate as stage
from facespec.stages import redrawing
from facespec.stages.answers import ProbeImages
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables import GROUNDTRUTH_OVERLAP
from facespec.study.tables_calibration import BASELINES, CONFUSIONS, CUE_SWAPS, TARGETS
from facespec.study.vocabulary import Role, Task
from toys import change_params, make_table

TABLES = {"cues": CUE_SWAPS, "baselines": BASELINES, "confusions": CONFUSIONS, "targets": TARGETS}
ROWS = np.array([3, 40, 90, 151])


def read(paths: Paths, name: str) -> pd.DataFrame:
    return TABLES[name].read(paths.table(f"calibration_{name}"))


def select(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    return table[(table[list(values)] == list(values.values())).all(axis=1)]


def test_every_network_cue_and_measure_has_its_rows(analysed: Paths) -> None:
    table = read(analysed, "cues")
    cues = len(stage.CUES)
    # owner for every picture, no donor for those as they are and of the other session; mean and two seeds
    identity, expression = (1 + cues) + (cues - 1), 1 + cues
    assert len(table) == 3 * 3 * (identity + expression)
    assert set(table["kind"][table["cue"] == "light"]) == {"scene"} and set(table["source"]) == {"embedded faces"}
    assert table["number"].between(0, 1).all() and set(table["n"]) == {3} and set(table["people"]) == {3}
    means, seeds = table[table["seed"].isna()], table[table["seed"].notna()]
    keys = ["trained_on", "tested_on", "cue", "measure"]
    np.testing.assert_allclose(seeds.groupby(keys)["number"].mean(), means.set_index(keys)["number"].sort_index())
    changed = means.drop_duplicates("cue").set_index("cue")["changed"]
    assert changed["none"] == 0 and changed["everything"] > changed["inner"] > changed["nose"] > 0


def test_owners_and_donors_are_named_as_a_slow_way_finds(analysed: Paths, params: Params) -> None:
    """By another road: parameters are copied one by one, and one picture at a time is seen by one network."""
    faces = FaceSet.open(analysed.faces("probe"))
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    with redrawing.swap_cues(
        faces, ROWS, ["hair", "light"], block=params.data, stream=generator(1), workers=1
    ) as swapped:
        assert swapped.faces is not None and len(swapped.faces) == 8 and swapped.reason == ""
        donors = swapped.donors
        labels, pictures = faces.labels, swapped.faces.images(np.arange(8))
        assert swapped.faces.labels["identity"].tolist() == labels["identity"].iloc[ROWS].tolist() * 2
    other = {"A": "B", "B": "A"}
    for i, (row, donor) in enumerate(zip(ROWS, donors, strict=True)):
        label = labels.iloc[row]
        assert donor != label["identity"]
        for cue, session in (("hair", label["session"]), ("light", other[label["session"]])):
            like = (labels["session"] == session) & (labels["view"] == label["view"])
            like &= (labels["expression"] == label["expression"]) & (labels["identity"] == donor)
            (source,) = np.flatnonzero(like)
            one, two = stimuli.take([row]), stimuli.take([source])
            if cue == "hair":
                for name in PERSON_CUES["hair"]:
                    one.people[:, anatomy.COLUMN[name]] = two.people[:, anatomy.COLUMN[name]]
            else:
                for name in ("light_x", "light_y", "ambient", "diffuse", "gain", "lift", "tint", "skin_level"):
                    one.scene[:, scenes.COLUMNS.index(name)] = two.scene[:, scenes.COLUMNS.index(name)]
            expected, _ = render(one, [0], size=32, channels=1)
            np.testing.assert_array_equal(pictures[i + 4 * (cue == "light")], expected[0])
    assert not swapped.faces.directory.exists(), "the pictures were left on the disk"


def test_the_other_session_is_the_owners_own(params: Params) -> None:
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    donors = np.array(["F02"] * 4)
    swapped = redrawing.make_swapped_stimuli(stimuli, ROWS, donors, ["session"])
    labels = stimuli.labels
    for i, row in enumerate(ROWS):
        label = labels.iloc[row]
        like = (labels[["identity", "view", "expression"]] == label[["identity", "view", "expression"]]).all(axis=1)
        (source,) = np.flatnonzero(like & (labels["session"] != label["session"]))
        rest = [index for index, name in enumerate(scenes.COLUMNS) if not name.startswith("uneven")]
        np.testing.assert_array_equal(swapped.scene[i, rest], stimuli.scene[source, rest])
        np.testing.assert_array_equal(swapped.keys[i], stimuli.keys[row])


def test_shares_without_a_swap_are_those_of_the_network(analysed: Paths, params: Params) -> None:
    faces = FaceSet.open(analysed.faces("probe"))
    checkpoint = load_checkpoint(analysed.checkpoint("finetune", "identity", 6))
    fit, test = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    rows = stage._choose_swapped_rows(ProbeImages(faces, fit, test), params.calibrate)
    assert sorted(faces.labels["identity"].iloc[rows]) == ["F01", "F02", "M01"] and set(rows) <= set(test)
    right = []
    for row in rows:
        image = apply_preset(faces.images([row]), checkpoint.preset, None)
        with torch.inference_mode():
            code = int(checkpoint.network(image)["identity"].argmax())
        right.append(checkpoint.classes["identity"][code] == faces.labels["identity"].iloc[row])
    table = select(read(analysed, "cues"), trained_on="identity", cue="none", measure="owner", seed=6)
    assert table["number"].tolist() == [np.mean(right)]


def test_baselines_are_of_both_tasks_and_splits(analysed: Paths) -> None:
    table = read(analysed, "baselines")
    assert len(table) == 2 * 2 * (1 + 1 + 3)
    across, study = (table[table["split"] == split] for split in ("sessions", "study"))
    assert set(across["n"]) == {105} and set(study["n"]) == {21}  # half of 210; 3 people x 7 expressions
    assert set(table["seeds"][table["trained_on"] != "untrained"]) == {0}
    nearest = select(across, trained_on="pixels_nearest", tested_on="identity")["number"].item()
    faces = FaceSet.open(analysed.faces("probe"))
    pixels = faces.images(np.arange(len(faces))).reshape(len(faces), -1).astype(float)
    a, b = (np.flatnonzero(faces.labels["session"] == session) for session in "AB")
    distances = np.linalg.norm(pixels[b][:, None] - pixels[a], axis=2)
    people = faces.labels["identity"].to_numpy()
    right = pd.Series(people[a][distances.argmin(axis=1)] == people[b]).groupby(people[b]).mean()
    assert nearest == pytest.approx(right.mean(), rel=1e-12)


def test_confusions_are_of_both_roles_and_rows_sum_to_one(analysed: Paths) -> None:
    table = read(analysed, "confusions")
    networks = {("expression", "expression"), ("joint", "expression"), ("expression", "probe"), ("joint", "probe")}
    networks |= {("untrained", "probe")}
    assert set(zip(table["trained_on"], table["role"], strict=True)) == networks
    assert len(table) == 49 * 3 * len(networks)
    for seed in (5, 6):
        sums = table[table["seed"] == seed].groupby(["trained_on", "role", "true"])["number"].sum()
        np.testing.assert_allclose(sums, 1)
    assert table[table["seed"].isna() & (table["role"] == "probe")]["n"].unique().tolist() == [3]


def test_targets_are_the_numbers_of_the_tables(analysed: Paths) -> None:
    targets = read(analysed, "targets").set_index("target")
    cues, baselines = (table[table["seed"].isna()] for table in (read(analysed, "cues"), read(analysed, "baselines")))
    for name, cue in (("inner_features", "inner"), ("hair", "hair")):
        row = select(cues, trained_on="identity", measure="owner", cue=cue).iloc[0]
        assert targets.loc[name, ["number", "low", "high"]].tolist() == row[["number", "low", "high"]].tolist()
    for name, trained_on in (("pixels", "pixels_nearest"), ("untrained", "untrained")):
        row = select(baselines, trained_on=trained_on, tested_on="identity", split="sessions").iloc[0]
        assert targets["number"][name] == row["number"]
    confusions = read(analysed, "confusions")
    recalls = select(confusions, trained_on="expression", role="expression").query("true == predicted and seed.isna()")
    assert targets["number"]["lowest_recall"] == recalls["number"].min()
    assert set(targets["met"][targets["number"].notna()]) <= {"yes", "no"}
    overlap = GROUNDTRUTH_OVERLAP.read(analysed.table("groundtruth_overlap"))
    for rule in ("changes", "discriminability"):
        row = select(overlap, first_rule=rule, second_rule=rule, first_truth="expression", second_truth="identity")
        assert targets["number"][f"overlap_{rule}"] == row["number"].iloc[0]
    lines = stage.describe_targets(analysed)
    assert len(lines) == len(targets) and lines[-1].startswith("not met: ") and "at least 0.15" in lines[-1]


def test_the_overlap_of_the_tasks_truths_is_read_from_the_ground_truth(study_copy: Paths) -> None:
    rules = ("changes", "discriminability")
    pairs = [(first, second) for first in rules for second in rules]
    rows = [
        {"first_rule": a, "first_truth": "expression", "second_rule": b, "second_truth": task, "number": 0.1 * index}
        for index, (a, b, task) in enumerate((a, b, task) for a, b in pairs for task in ("expression", "identity"))
    ]
    study_copy.results.mkdir(exist_ok=True)
    write_table(study_copy.table("groundtruth_overlap"), make_table(GROUNDTRUTH_OVERLAP, rows))
    overlaps = stage._read_overlaps(study_copy, "embedded faces")
    assert [round(overlaps[f"overlap_{rule}"].number, 6) for rule in rules] == [0.1, 0.7]


def test_photographs_of_one_session_have_reasons_instead_of_numbers(analysed_copy: Paths, params: Params) -> None:
    probe = analysed_copy.faces("probe")
    faces = FaceSet.open(probe)
    images, labels = faces.images(np.arange(len(faces))), faces.labels.assign(session="")
    shutil.rmtree(probe)
    write_faceset(probe, [FaceChunk(images, labels)], FaceSetDescription("probe", 500, None, {"source": "KDEF"}))
    stage.run(analysed_copy, params, device="cpu", workers=1)
    cues, baselines = read(analysed_copy, "cues"), read(analysed_copy, "baselines")
    reason = "only embedded faces can be drawn again with one thing changed; these are KDEF"
    swapped = cues["cue"] != "none"
    assert cues["number"][~swapped].notna().all() and cues["number"][swapped].isna().all()
    assert set(cues["reason"][swapped]) == {reason} and set(cues["source"]) == {"KDEF"}
    across = baselines["split"] == "sessions"
    assert baselines["number"][across].isna().all() and baselines["number"][~across].notna().all()
    assert set(baselines["reason"][across]) == {"0 images of session A and 0 of session B"}
    targets = read(analysed_copy, "targets").set_index("target")
    assert targets["met"].loc[["inner_features", "hair", "pixels", "untrained"]].tolist() == [""] * 4
    assert targets["reason"]["hair"] == reason and targets["met"]["expression_probe"] in ("yes", "no")


def test_where_people_are_held_out_nobody_can_be_named(analysed: Paths, params: Params) -> None:
    faces = FaceSet.open(analysed.faces("probe"))
    is_tested = (faces.labels["identity"] == "M01").to_numpy()
    probe = ProbeImages(faces, np.flatnonzero(~is_tested), np.flatnonzero(is_tested))
    assert probe.split("study", Task.IDENTITY).reason == (
        "no identity of the tested images is one of two or more that are fitted"
    )
    assert probe.split("study", Task.EXPRESSION).reason == probe.split("sessions", Task.IDENTITY).reason == ""


def test_held_out_people_have_reasons_instead_of_names(analysed_copy: Paths, params: Params) -> None:
    stage.run(analysed_copy, change_params(params, "split", hold_out="people"), device="cpu", workers=1)
    baselines, cues = read(analysed_copy, "baselines"), read(analysed_copy, "cues")
    identity = baselines["tested_on"] == "identity"
    lacking = identity & (baselines["split"] == "study")
    assert set(baselines["reason"][lacking]) == {
        "no identity of the tested images is one of two or more that are fitted"
    }
    assert baselines["number"][lacking].isna().all() and baselines["number"][~lacking].notna().all()
    unknown = select(cues, trained_on="untrained", tested_on="identity", measure="owner")
    assert unknown["number"].isna().all()
    assert set(unknown["reason"]) == {"the network has no class for any of these people"}
    assert select(cues, trained_on="untrained", measure="correct")["number"].notna().all()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"size": 33}])
def test_faces_made_from_other_parameters_are_not_drawn_again(
    analysed: Paths, params: Params, changes: dict[str, int]
) -> None:
    faces, block = FaceSet.open(analysed.faces("probe")), change_params(params, "data", **changes).data
    with redrawing.swap_cues(faces, ROWS, ["hair"], block=block, stream=generator(1), workers=1) as swapped:
        assert swapped.faces is None and swapped.reason.startswith("the probe faces were made from other parameters")


def test_the_command_of_the_faces_prints_the_targets(
    analysed: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(analysed.root)
    monkeypatch.setattr(stage, "run", lambda *_, **__: None)  # its tables are there
    cli.data_calibrate(workers=1, device="cpu")
    assert capsys.readouterr().out.splitlines() == stage.describe_targets(analysed)
