from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from facespec.analyses.regions import make_region_template
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages import regions as stage
from facespec.study.artefacts import read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.maps import HEADER_FILE, MapSet
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.tables import REGIONS
from facespec.study.vocabulary import PAIRS
from toys import write_maps


def make_random_maps(n: int) -> dict[tuple[str, str, int], np.ndarray]:
    random = np.random.default_rng(4)
    return {(network, task, seed): random.random((n, 5, 4)) for network, task in PAIRS for seed in (5, 6)}


@pytest.fixture
def study(study_copy: Paths) -> Paths:
    """Random maps of the frontal images, not in the order of the faces; those of joint identity are the mouths."""
    faces = FaceSet.open(study_copy.faces("probe"))
    rows = np.flatnonzero(faces.labels["view"] == "straight")[::-1]
    maps = make_random_maps(len(rows))
    maps["joint", "identity", 6] = maps["joint", "identity", 5] = faces.regions(rows) == faces.region_codes["mouth"]
    write_maps(study_copy, rows, maps)
    return study_copy


def read_number(table: pd.DataFrame, pair: tuple[str, str], **labels: str) -> float:
    keys = {"trained_on": pair[0], "tested_on": pair[1], "against": ""} | labels
    (number,) = table["number"][(table[list(keys)] == list(keys.values())).all(axis=1)]
    return number


def test_maps_that_are_the_mouth_lie_on_the_mouth(
    study: Paths, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(study, params)
    table, faces = REGIONS.read(study.table("regions")), FaceSet.open(study.faces("probe"))
    happy = np.flatnonzero((faces.labels["view"] == "straight") & (faces.labels["expression"] == "happy"))
    areas = (faces.regions(happy) == faces.region_codes["mouth"]).mean(axis=(1, 2))
    joint = ("joint", "identity")
    for region in faces.region_codes:
        assert read_number(table, joint, expression="sad", region=region, measure="share") == (region == "mouth")
    density = read_number(table, joint, expression="happy", region="mouth", measure="density")
    assert density == pytest.approx(np.mean(1 / areas), rel=1e-9)
    assert len(table) == 8 * 8 * 12 * 2
    assert set(table["regions"]) == {"label maps"} and set(table["source"]) == {"embedded faces"}
    rows = table[(table["expression"] == "happy") & (table["region"] == "mouth")]
    assert set(rows[["n", "people", "seeds"]].itertuples(index=False, name=None)) == {(6, 3, 2)}
    # running again, in other batches
    before = study.table("regions").read_bytes()
    monkeypatch.setattr(stage, "PIXELS", 5 * 32 * 32)
    stage.run(study, params)
    assert study.table("regions").read_bytes() == before


def write_photographs(paths: Paths, *views: str) -> FaceSet:
    """Replace the probe faces by some as KDEF's are: without label maps."""
    faces = [(person, name, view) for person in ("F01", "M02") for name in ("happy", "sad") for view in views]
    labels = pd.DataFrame(faces, columns=["identity", "expression", "view"])
    labels = labels.assign(stimulus=["A" + "".join(face) for face in faces], split="probe", session="A")
    images = np.random.default_rng(3).integers(0, 256, (len(labels), 37, 37), dtype=np.uint8)
    shutil.rmtree(paths.faces("probe"))
    description = FaceSetDescription("probe", 5, None, {"source": "KDEF"})
    return write_faceset(paths.faces("probe"), [FaceChunk(images, labels)], description)


def test_frontal_photographs_are_read_by_the_template(study_copy: Paths, params: Params) -> None:
    faces = write_photographs(study_copy, "half_left", "straight")
    template, codes = make_region_template((37, 37), params.regions.face)
    maps = make_random_maps(len(faces))
    frontal = (faces.labels["view"] == "straight").to_numpy()
    for seed in (5, 6):
        maps["expression", "expression", seed] = np.where(frontal[:, None, None], template == codes["nose"], 1.0)
    write_maps(study_copy, np.arange(len(faces)), maps)
    stage.run(study_copy, params)
    table = REGIONS.read(study_copy.table("regions"))
    share = read_number(table, ("expression", "expression"), expression="all", region="nose", measure="share")
    assert share == pytest.approx(1, rel=1e-12)
    assert set(table["region"]) == set(codes) and set(table["regions"]) == {"template"}
    assert set(table["source"]) == {"KDEF"}
    assert set(table["n"][table["expression"] == "all"]) == {4} and set(table["n"][table["expression"] == "sad"]) == {2}


def test_photographs_without_a_frontal_view_are_refused(study_copy: Paths, params: Params) -> None:
    faces = write_photographs(study_copy, "full_right")
    write_maps(study_copy, np.arange(len(faces)), make_random_maps(len(faces)))
    with pytest.raises(StudyError, match=r"heatmaps: no image shows a straight view, .* Use heatmaps\.view: straight"):
        stage.run(study_copy, params)


def test_heatmaps_of_other_faces_are_refused(study: Paths, params: Params, relabel: Callable[..., None]) -> None:
    def refuse(problem: str) -> None:
        message = f"not the heatmaps of {study.faces('probe')}: {problem}. `dvc repro heatmaps` makes them."
        with pytest.raises(StudyError, match=re.escape(message)):
            stage.run(study, params)
        assert not study.table("regions").exists()

    probe = study.faces("probe")
    first = MapSet.open(study.heatmaps).labels["stimulus"].iloc[0]
    labels = FaceSet.open(probe).labels
    relabel(probe, lambda table: table.assign(identity=table["identity"].str.replace("M", "F")))
    refuse(f"stimulus '{first}' has other labels now")
    relabel(probe, lambda _: labels.replace({"stimulus": {first: f"{first}x"}}))
    refuse(f"stimulus '{first}' is not among them")
    relabel(probe, lambda _: labels)
    header = read_document(study.heatmaps / HEADER_FILE, remedy="")
    write_document(study.heatmaps / HEADER_FILE, header | {"width": 48})
    refuse("they are of images of (32, 48) px, these have (32, 32)")
    write_document(study.heatmaps / HEADER_FILE, header | {"source": "KDEF"})
    refuse("they are of KDEF, these faces are embedded faces")
