from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.analyses.regions import make_region_template
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages import regions as stage
from facespec.study.artefacts import digest_files, read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.maps import HEADER_FILE, MapSet, name_map_file
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.tables import REGIONS
from facespec.study.vocabulary import PAIRS

SEEDS = (5, 6)


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


def random_maps(n: int) -> dict[tuple[str, str, int], np.ndarray]:
    random = np.random.default_rng(4)
    return {(network, task, seed): random.random((n, 5, 4)) for network, task in PAIRS for seed in SEEDS}


def params_of(paths: Paths) -> Params:
    params = read_params(paths.params)
    return params.model_copy(update={"regions": params.regions.model_copy(update={"draws": 100})})


@pytest.fixture
def explained(study_copy: Paths) -> Paths:
    """Random maps of the frontal images, not in the order of the faces; those of joint identity are the mouths."""
    faces = FaceSet.open(study_copy.faces("probe"))
    rows = np.flatnonzero(faces.labels["view"] == "straight")[::-1]
    maps = random_maps(len(rows))
    maps["joint", "identity", 6] = maps["joint", "identity", 5] = faces.regions(rows) == faces.region_codes["mouth"]
    write_maps(study_copy, rows, maps)
    return study_copy


def number(table: pd.DataFrame, pair: tuple[str, str], **wanted: str) -> float:
    keys = {"trained_on": pair[0], "tested_on": pair[1], "against": ""} | wanted
    (found,) = table["number"][(table[list(keys)] == list(keys.values())).all(axis=1)]
    return found


def test_maps_that_are_the_mouth_lie_on_the_mouth(explained: Paths) -> None:
    stage.run(explained, params_of(explained))
    table = REGIONS.read(explained.table("regions"))
    faces = FaceSet.open(explained.faces("probe"))
    chosen = np.flatnonzero((faces.labels["view"] == "straight") & (faces.labels["expression"] == "happy"))
    areas = (faces.regions(chosen) == faces.region_codes["mouth"]).mean(axis=(1, 2))
    joint = ("joint", "identity")
    for region in faces.region_codes:
        assert number(table, joint, expression="sad", region=region, measure="share") == (region == "mouth")
    assert number(table, joint, expression="happy", region="mouth", measure="density") == pytest.approx(
        np.mean(1 / areas), rel=1e-9
    )
    assert len(table) == 6 * 8 * 12 * 2
    assert set(table["regions"]) == {"label maps"} and set(table["source"]) == {"embedded faces"}
    happy = table[(table["expression"] == "happy") & (table["region"] == "mouth")]
    assert (happy["n"] == 6).all() and (happy["people"] == 3).all() and (happy["seeds"] == 2).all()


def test_batches_do_not_show_and_the_same_comes_out_twice(explained: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(explained, params_of(explained))
    before = explained.table("regions").read_bytes()
    monkeypatch.setattr(stage, "PIXELS", 5 * 32 * 32)
    stage.run(explained, params_of(explained))
    assert explained.table("regions").read_bytes() == before


def photographs(paths: Paths, *, views: tuple[str, ...]) -> FaceSet:
    """Faces as KDEF leaves them: no label maps."""
    labels = pd.DataFrame(
        [
            {
                "stimulus": f"A{who}{name}{view}",
                "split": "probe",
                "identity": who,
                "expression": name,
                "view": view,
                "session": "A",
            }
            for who in ("F01", "M02")
            for name in ("happy", "sad")
            for view in views
        ]
    )
    images = np.random.default_rng(3).integers(0, 256, (len(labels), 37, 37), dtype=np.uint8)
    shutil.rmtree(paths.faces("probe"))
    description = FaceSetDescription("probe", 5, None, {"source": "KDEF"})
    return write_faceset(paths.faces("probe"), [FaceChunk(images, labels)], description)


def test_photographs_are_read_by_the_template_from_the_front(study_copy: Paths) -> None:
    faces = photographs(study_copy, views=("half_left", "straight"))
    params = params_of(study_copy)
    codes, names = make_region_template((37, 37), params.regions.face)
    maps = random_maps(len(faces))
    frontal = (faces.labels["view"] == "straight").to_numpy()
    for seed in SEEDS:
        maps["expression", "expression", seed] = np.where(frontal[:, None, None], codes == names["nose"], 1.0)
    write_maps(study_copy, np.arange(len(faces)), maps)
    stage.run(study_copy, params)
    table = REGIONS.read(study_copy.table("regions"))
    own = ("expression", "expression")
    assert number(table, own, expression="all", region="nose", measure="share") == pytest.approx(1, rel=1e-12)
    assert set(table["region"]) == set(names) and set(table["regions"]) == {"template"}
    assert set(table["source"]) == {"KDEF"}
    assert set(table["n"][table["expression"] == "all"]) == {4} and set(table["n"][table["expression"] == "sad"]) == {2}


def test_photographs_without_a_frontal_view_are_refused(study_copy: Paths) -> None:
    faces = photographs(study_copy, views=("full_right",))
    write_maps(study_copy, np.arange(len(faces)), random_maps(len(faces)))
    with pytest.raises(StudyError) as caught:
        stage.run(study_copy, params_of(study_copy))
    assert str(caught.value) == (
        f"{study_copy.heatmaps}: no image shows a straight view, and the template of facial regions fits no other. "
        "Use heatmaps.view: straight in params.yaml."
    )


def refused(paths: Paths, why: str) -> None:
    with pytest.raises(StudyError) as caught:
        stage.run(paths, params_of(paths))
    assert str(caught.value) == (
        f"{paths.heatmaps}: not the heatmaps of {paths.faces('probe')}: {why}. `dvc repro heatmaps` makes them."
    )
    assert not paths.table("regions").exists()


def test_heatmaps_of_other_faces_are_refused(explained: Paths, relabel: Callable[..., None]) -> None:
    faces = explained.faces("probe")
    first = MapSet.open(explained.heatmaps).labels["stimulus"].iloc[0]
    before = FaceSet.open(faces).labels
    relabel(faces, lambda table: table.assign(identity=table["identity"].str.replace("M", "F")))
    refused(explained, f"stimulus '{first}' has other labels now")
    relabel(faces, lambda table: before.replace({"stimulus": {first: f"{first}x"}}))
    refused(explained, f"stimulus '{first}' is not among them")
    relabel(faces, lambda table: before)
    head = read_document(explained.heatmaps / HEADER_FILE, remedy="")
    write_document(explained.heatmaps / HEADER_FILE, head | {"width": 48})
    refused(explained, "they are of images of (32, 48) px, these have (32, 32)")
    write_document(explained.heatmaps / HEADER_FILE, head | {"source": "KDEF"})
    refused(explained, "they are of KDEF, these faces are embedded faces")


def test_no_heatmaps_no_regions(study_copy: Paths) -> None:
    with pytest.raises(StudyError, match=r"heatmaps: no heatmaps here .* `dvc repro heatmaps` makes them\."):
        stage.run(study_copy, params_of(study_copy))
    assert not Path(study_copy.table("regions")).exists()
