from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facespec import cli
from facespec.analyses.battery import EFFECTS, list_measures
from facespec.data.batches import apply_preset
from facespec.data.embedded.battery import CONDITIONS, SHOWN_UNITS
from facespec.data.embedded.production import render
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet
from facespec.data.splits import hold_out
from facespec.models.checkpoints import load_checkpoint
from facespec.stages import battery as stage
from facespec.stages import battery_faces
from facespec.study.arrays import read_arrays
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables_battery import BATTERY, BATTERY_EFFECTS, BATTERY_UNITS
from facespec.study.vocabulary import Role, Task


def draw(params: Params):
    stimuli = draw_role(Role.PROBE, params.data, generator(params.data.seed, "faces", "probe"))
    return battery_faces.draw_battery(stimuli, params.battery, params.data)


def test_every_observer_has_its_rows(analysed: Paths, params: Params) -> None:
    table, effects, units = (
        schema.read(analysed.table(schema.name)) for schema in (BATTERY, BATTERY_EFFECTS, BATTERY_UNITS)
    )
    rows = 1 + len(params.seeds)  # the mean, and every seed; pixels have no seed
    per_task = {"expression": 3 * rows + 1, "identity": 3 * rows + 1}
    for task in Task:
        assert (table["tested_on"] == task).sum() == per_task[task] * len(list_measures(task))
        assert (effects["tested_on"] == task).sum() == per_task[task] * sum(one.task is task for one in EFFECTS)
    assert len(units) == (3 * rows + 1) * len(SHOWN_UNITS) * 7
    sums = units.groupby(["trained_on", "unit", "seed"], dropna=False)["number"].sum()
    np.testing.assert_allclose(sums, 1)
    assert set(table["source"]) == {"embedded faces"} and set(table["reason"]) == {""}


def test_effects_are_differences_of_shares(analysed: Paths) -> None:
    table, effects = BATTERY.read(analysed.table("battery")), BATTERY_EFFECTS.read(analysed.table("battery_effects"))
    shares = table[table["seed"].isna()].set_index(["trained_on", "tested_on", "measure"])["number"]
    whole = effects[effects["seed"].isna() & (effects["easy"] != "expression caricature")]
    whole = whole[whole["hard"] != "expression anticaricature"]  # those are of other images: without neutral faces
    for row in whole.to_dict("records"):
        easy, hard = (shares[row["trained_on"], row["tested_on"], row[name]] for name in ("easy", "hard"))
        assert row["number"] == pytest.approx(easy - hard)


def test_a_network_is_asked_one_picture_at_a_time(analysed: Paths, params: Params) -> None:
    """By another road: one inverted face after the other, and the mean of right names."""
    battery = draw(params)
    checkpoint = load_checkpoint(analysed.checkpoint("finetune", "identity", 6))
    pictures, _ = render(battery.stimuli, range(len(battery.stimuli)), size=32, channels=1)
    right = []
    for picture, name in zip(pictures, battery.stimuli.labels["identity"], strict=True):
        image = apply_preset(np.rot90(picture, 2)[None].copy(), checkpoint.preset, None)
        with torch.inference_mode():
            code = int(checkpoint.network(image)["identity"].argmax())
        right.append(checkpoint.classes["identity"][code] == name)
    table = BATTERY.read(analysed.table("battery"))
    row = table[(table["trained_on"] == "identity") & (table["measure"] == "inverted") & (table["seed"] == 6)]
    assert row["number"].tolist() == [pytest.approx(np.mean(right))] and row["n"].tolist() == [len(right)]


def test_the_faces_are_new_pictures_of_the_probe_people(analysed: Paths, params: Params) -> None:
    battery = draw(params)
    faces = FaceSet.open(analysed.faces("probe"))
    assert set(battery.stimuli.labels["view"]) == {"straight"}
    assert sorted(battery.stimuli.labels["identity"]) == sorted(set(faces.labels["identity"]))
    pictures, _ = render(battery.stimuli, range(len(battery.stimuli)), size=32, channels=1)
    stored = {picture.tobytes() for picture in faces.images(np.arange(len(faces)))}
    assert not stored & {picture.tobytes() for picture in pictures}
    assert all(own != other for own, other in zip(battery.stimuli.labels["expression"], battery.others, strict=True))
    assert (battery.donors.labels["identity"].to_numpy() != battery.stimuli.labels["identity"].to_numpy()).all()


def test_nearest_pictures_are_looked_for_among_the_fitted_ones(analysed: Paths, params: Params) -> None:
    faces, battery = FaceSet.open(analysed.faces("probe")), draw(params)
    fit, _ = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
    fitted = faces.images(fit).reshape(len(fit), -1).astype(float)
    pictures, _ = render(battery.stimuli, range(len(battery.stimuli)), size=32, channels=1)
    right = []
    for picture, name in zip(pictures.reshape(len(pictures), -1), battery.stimuli.labels["identity"], strict=True):
        nearest = fit[((fitted - picture) ** 2).sum(axis=1).argmin()]
        right.append(faces.labels["identity"].iloc[nearest] == name)
    table = BATTERY.read(analysed.table("battery"))
    rows = table[(table["trained_on"] == "pixels_nearest") & (table["tested_on"] == "identity")]
    assert rows["number"][rows["measure"] == "upright"].tolist() == [pytest.approx(np.mean(right))]
    assert set(rows["seeds"]) == {0}


def test_examples_are_one_face_in_every_condition(analysed: Paths) -> None:
    description, examples = read_arrays(analysed.battery, remedy="")
    assert set(examples) == {*CONDITIONS, *(f"unit {unit}" for unit in SHOWN_UNITS)}
    np.testing.assert_array_equal(examples["inverted"], np.rot90(examples["upright"], 2))
    assert description["reason"] == ""


def test_faces_that_cannot_be_drawn_again_give_the_reason(analysed_copy: Paths, params: Params) -> None:
    other = params.model_copy(update={"data": params.data.model_copy(update={"seed": params.data.seed + 1})})
    stage.run(analysed_copy, other, device="cpu", workers=1)
    for schema in (BATTERY, BATTERY_EFFECTS, BATTERY_UNITS):
        table = schema.read(analysed_copy.table(schema.name))
        assert table["number"].isna().all() and table["reason"].str.contains("other parameters").all()


def test_a_laboratory_gets_pictures_and_what_they_show(
    study_copy: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(study_copy.root)
    monkeypatch.setattr("sys.argv", ["facespec", "data", "battery", "--to", "lab", "--workers", "1"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    lab = study_copy.root / "lab"
    table, faces = pd.read_csv(lab / "battery.csv", keep_default_na=False), FaceSet.open(lab / "faces")
    assert f"lab: {len(table)} pictures." in capsys.readouterr().out
    assert table["stimulus"].tolist() == faces.labels["stimulus"].tolist() and table["file"].is_unique
    for row in (0, 40, len(table) - 1):
        with Image.open(lab / table["file"][row]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), faces.images([row])[0])
    with Image.open(lab / "sheet.png") as sheet:
        assert sheet.size[0] > 500
    assert len(list((lab / "pictures").iterdir())) == len(table)


def test_real_faces_are_refused_with_the_remedy(
    study_copy: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = study_copy.params.read_text(encoding="utf-8")
    block, rest = text.split("  probe:\n", 1)
    study_copy.params.write_text(block + "  probe:\n" + rest.replace("source: embedded", "source: kdef", 1), "utf-8")
    monkeypatch.chdir(study_copy.root)
    monkeypatch.setattr("sys.argv", ["facespec", "data", "battery", "--to", "lab"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and "Set data.probe.source to embedded" in " ".join(capsys.readouterr().err.split())
    assert not (study_copy.root / "lab").exists()
