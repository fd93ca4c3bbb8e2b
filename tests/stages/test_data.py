from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages import data
from facespec.stages.dvc_files import digest_output
from facespec.stages.faces_record import read_record
from facespec.study.errors import StudyError
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


@pytest.fixture
def study(study_copy: Paths) -> tuple[Paths, Params]:
    return study_copy, read_params(study_copy.params)


@pytest.fixture
def fer2013(tmp_path: Path) -> Path:
    """A FER2013 in folders: three training and two test pictures per class, of noise."""
    draw = generator(7)
    for split, count in (("train", 3), ("test", 2)):
        for name in CLASSES:
            folder = tmp_path / "fer2013" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = draw.integers(0, 256, (48, 48), dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"{split}_{name}_{number}.png")
    return tmp_path / "fer2013"


def times(paths: Paths) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in paths.data.glob("*/faceset.json")}


def test_all_roles_are_filled(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    assert [(f.role, f.n, f.source) for f in data.open_faces(paths)] == [
        ("expression", 70 + 42, "embedded faces"),
        ("identity", 4 * (9 + 5), "embedded faces"),
        ("probe", 3 * 7 * 5 * 2, "embedded faces"),
    ]


def test_real_faces_fill_one_role_and_are_remembered(study: tuple[Paths, Params], fer2013: Path) -> None:
    paths, params = study
    before = {role: (paths.faces(role) / "labels.csv").read_bytes() for role in ("identity", "probe")}
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    faces = FaceSet.open(paths.faces("expression"))
    assert faces.source == "FER2013" and faces.n == 7 * 5 and (faces.height, faces.channels) == (32, 1)
    assert {role: (paths.faces(role) / "labels.csv").read_bytes() for role in before} == before
    built = times(paths)
    data.build_missing(paths, params.data, workers=1)  # does not fall back to what params.yaml says
    assert times(paths) == built


def test_only_what_is_missing_or_made_otherwise_is_built_again(study: tuple[Paths, Params]) -> None:
    paths, params = study
    before = times(paths)
    data.build_missing(paths, params.data, workers=1)
    assert times(paths) == before
    more = params.data.model_copy(update={"identity": params.data.identity.model_copy(update={"test": 6})})
    data.build_missing(paths, more, workers=1)
    assert {role for role, then in times(paths).items() if then != before[role]} == {"identity"}
    shutil.rmtree(paths.faces("probe"))
    data.build_missing(paths, more, workers=1)
    assert FaceSet.open(paths.faces("probe")).n == 210


def test_a_changed_real_source_is_read_again(study: tuple[Paths, Params], fer2013: Path) -> None:
    paths, params = study
    archive = Path(shutil.make_archive(str(fer2013.parent / "fer2013"), "zip", fer2013))
    data.build(paths, params.data, sources={"expression": str(archive)}, workers=1)
    before = times(paths)
    (fer2013 / "train" / "happy" / "train_happy_0.png").unlink()
    shutil.make_archive(str(archive.with_suffix("")), "zip", fer2013)
    data.build_missing(paths, params.data, workers=1)
    assert {role for role, then in times(paths).items() if then != before[role]} == {"expression"}
    assert FaceSet.open(paths.faces("expression")).n == 34


def test_a_wrong_path_loses_nothing(study: tuple[Paths, Params], tmp_path: Path) -> None:
    paths, params = study
    before = (paths.faces("expression") / "labels.csv").read_bytes()
    with pytest.raises(StudyError, match=r"nowhere: no such file or directory"):
        data.build(paths, params.data, sources={"expression": str(tmp_path / "nowhere")}, workers=1)
    assert (paths.faces("expression") / "labels.csv").read_bytes() == before
    assert not list(paths.data.glob(".*"))


def test_pinned_bytes_are_those_that_dvc_pins(study: tuple[Paths, Params]) -> None:
    """By another road: DVC's own digest of the directory."""
    paths, _ = study
    data.pin(paths)
    assert data.list_differences(paths) == []
    ours = yaml.safe_load((paths.root / "data.dvc").read_text())["meta"]
    for name in ("data.dvc", "dvc.yaml"):  # whose stages would own data/
        (paths.root / name).unlink()
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data"], cwd=paths.root, check=True)
    (theirs,) = yaml.safe_load((paths.root / "data.dvc").read_text())["outs"]
    assert (ours["md5"], len(ours["files"])) == (theirs["md5"], theirs["nfiles"])


def test_every_difference_is_said(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    data.pin(paths)
    shard = paths.faces("probe") / "images-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (paths.faces("identity") / "notes.txt").touch()
    (paths.faces("expression") / "labels.csv").unlink()
    assert data.list_differences(paths) == [
        "expression/labels.csv: absent",
        "identity/notes.txt: not pinned",
        "probe/images-00000.npy: other bytes",
    ]


def test_a_forged_pin_is_noticed(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    data.pin(paths)
    pinned = paths.root / "data.dvc"
    content = yaml.safe_load(pinned.read_text())
    content["meta"]["md5"] = "0" * 32 + ".dir"
    pinned.write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match="its digest is not that of its files"):
        data.list_differences(paths)


def test_nothing_to_check(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    with pytest.raises(StudyError) as caught:
        data.list_differences(paths)
    assert str(caught.value) == f"{paths.root / 'data.dvc'}: no such file. `facespec data pin` writes it from data/."
    data.pin(paths)
    shutil.rmtree(paths.data)
    with pytest.raises(StudyError) as caught:
        data.list_differences(paths)
    assert str(caught.value) == f"{paths.data}: no such directory. `facespec data build` makes it."


def test_provenance_is_shown(study: tuple[Paths, Params], fer2013: Path) -> None:
    paths, params = study
    (fer2013 / "test" / "sad" / "broken.png").write_bytes(b"not a picture")
    lenient = params.data.model_copy(update={"tolerated": 0.1})
    data.build(paths, lenient, sources={"expression": str(fer2013)}, workers=1)
    console = Console(width=200)
    with console.capture() as captured:
        for part in data.info(paths):
            console.print(part)
    said = captured.get()
    stored = json.loads((paths.faces("expression") / "faceset.json").read_text())["provenance"]
    assert "FER2013" in said and "embedded faces" in said and "broken.png" in said
    assert stored["content"][:12] in said
    assert [entry["file"].split("/")[-1] for entry in stored["excluded"]] == ["broken.png"]


def test_a_relative_source_of_the_command_line_is_recorded_as_it_was_meant(
    study: tuple[Paths, Params], fer2013: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From elsewhere, the same words may name another folder."""
    paths, params = study
    other = tmp_path / "elsewhere"
    shutil.copytree(fer2013, other / "fer2013")
    (other / "fer2013" / "train" / "happy" / "train_happy_0.png").unlink()
    monkeypatch.chdir(tmp_path)
    data.build(paths, params.data, sources={"expression": "fer2013"}, workers=1)
    monkeypatch.chdir(other)
    shutil.rmtree(paths.faces("expression"))
    data.build_missing(paths, params.data, workers=1)
    assert read_record(paths)["expression"].source == str(fer2013)
    assert FaceSet.open(paths.faces("expression")).n == 35


def test_a_relative_source_of_params_starts_at_their_file(
    study: tuple[Paths, Params], fer2013: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, params = study
    assert paths.root == tmp_path / "study"
    real = params.data.model_copy(
        update={"expression": params.data.expression.model_copy(update={"source": "../fer2013"})}
    )
    monkeypatch.chdir("/")
    data.build_missing(paths, real, workers=1)
    assert FaceSet.open(paths.faces("expression")).source == "FER2013"


@pytest.mark.parametrize("change", ["removed", "added", "edited"])
def test_a_source_folder_that_changed_is_read_again(study: tuple[Paths, Params], fer2013: Path, change: str) -> None:
    paths, params = study
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    before = times(paths)
    data.build_missing(paths, params.data, workers=1)
    assert times(paths) == before
    picture = fer2013 / "train" / "happy" / "train_happy_0.png"
    if change == "removed":
        picture.unlink()
    elif change == "added":
        Image.fromarray(np.full((48, 48), 9, dtype=np.uint8)).save(picture.with_name("train_happy_9.png"))
    else:
        Image.fromarray(np.full((48, 48), 9, dtype=np.uint8)).save(picture)
    said: list[str] = []
    data.build_missing(paths, params.data, workers=1, report=said.append)
    assert said == [f"{fer2013}: changed since its faces were read. The expression faces are made again."]
    assert {role for role, then in times(paths).items() if then != before[role]} == {"expression"}


def test_faces_stay_where_their_source_is_not_at_hand(study: tuple[Paths, Params], fer2013: Path) -> None:
    paths, params = study
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    before = times(paths)
    fer2013.rename(fer2013.with_name("moved"))
    data.build_missing(paths, params.data, workers=1)
    assert times(paths) == before


def test_a_second_build_keeps_the_sources_that_an_earlier_one_named(study: tuple[Paths, Params], fer2013: Path) -> None:
    paths, params = study
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    data.build(paths, params.data, sources={}, workers=1)
    assert FaceSet.open(paths.faces("expression")).source == "FER2013"
    data.build(paths, params.data, sources={"expression": "embedded"}, workers=1)
    assert FaceSet.open(paths.faces("expression")).source == "embedded faces"


def lose(record: Path) -> None:
    record.unlink()


def damage(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b'"given": true', b'"given": null'))


@pytest.mark.parametrize("change", [lose, damage, lambda record: record.write_text("[1]"), lambda r: r.write_text("")])
def test_real_faces_without_record_are_not_replaced(
    study: tuple[Paths, Params], fer2013: Path, change: Callable[[Path], object]
) -> None:
    paths, params = study
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    shutil.rmtree(paths.root / ".dvc" / "tmp", ignore_errors=True)  # people clean that
    data.build_missing(paths, params.data, workers=1)
    change(paths.faces_record)
    before = times(paths)
    for build in (data.build_missing, partial(data.build, sources={"probe": "embedded"})):
        with pytest.raises(
            StudyError,
            match=r"expression: nothing records where these faces \(FER2013\) came from.*"
            r"`facespec data build --expression PATH` reads them again",
        ):
            build(paths, params.data, workers=1)
    assert times(paths) == before
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    assert FaceSet.open(paths.faces("expression")).source == "FER2013"


def test_embedded_faces_without_record_are_made_again(study: tuple[Paths, Params]) -> None:
    paths, params = study
    before = {path: path.read_bytes() for path in paths.data.rglob("*.*")}
    lose(paths.faces_record)
    said: list[str] = []
    data.build_missing(paths, params.data, workers=1, report=said.append)
    assert said[0] == f"{paths.faces('expression')}: not recorded here. The expression faces are made again."
    assert {path: path.read_bytes() for path in paths.data.rglob("*.*")} == before


def flip(path: Path) -> None:
    """Change one bit; time stamp and size stay."""
    then, content = path.stat(), bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))


def exchange(path: Path) -> None:
    """Put the faces of another study in this place: whole in themselves, but not what was made here."""
    faces = FaceSet.open(path.parent)
    rows = np.arange(faces.n)
    labels = faces.labels.assign(stimulus="x" + faces.labels["stimulus"])
    chunk = FaceChunk(faces.images(rows), labels, faces.regions(rows) if faces.region_codes else None)
    description = FaceSetDescription(faces.role, 2048, faces.region_codes or None, faces.provenance)
    write_faceset(path.parent, [chunk], description)


DAMAGES = {
    "labels": ("labels.csv", flip, "labels.csv: not the bytes"),
    "pixels": ("images-00000.npy", flip, r"images-00000.npy: row \d+ is not what was written there"),
    "a shard is gone": ("images-00000.npy", Path.unlink, "images-00000.npy: no such file"),
    "the head": ("faceset.json", flip, "faceset.json"),
    "the head is gone": ("faceset.json", Path.unlink, "no faceset.json in it"),
    "other faces": ("faceset.json", exchange, "other faces than those that were made here"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_embedded_faces_are_made_again(study: tuple[Paths, Params], case: str) -> None:
    paths, params = study
    name, harm, why = DAMAGES[case]
    before = {path: path.read_bytes() for path in paths.data.rglob("*.*")}
    harm(paths.faces("expression") / name)
    said: list[str] = []
    data.build_missing(paths, params.data, workers=1, report=said.append)
    assert len(said) == 1 and re.search(why, said[0]) and said[0].endswith("The expression faces are made again.")
    assert {path: path.read_bytes() for path in paths.data.rglob("*.*")} == before


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_real_faces_are_refused(study: tuple[Paths, Params], fer2013: Path, case: str) -> None:
    paths, params = study
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    name, harm, why = DAMAGES[case]
    directory = paths.faces("expression")
    harm(directory / name)
    with pytest.raises(StudyError, match=f"{why}.*remove {directory}, and the same command reads them again from"):
        data.build_missing(paths, params.data, workers=1)
    shutil.rmtree(directory)
    data.build_missing(paths, params.data, workers=1)
    assert FaceSet.open(directory).source == "FER2013"


def test_pulled_real_faces_are_kept(study: tuple[Paths, Params], fer2013: Path) -> None:
    """`dvc pull` brings the faces that dvc.lock records, but no record of where they lay."""
    paths, params = study
    data.build(paths, params.data, sources={"expression": str(fer2013)}, workers=1)
    out = {"path": "data/expression", "md5": digest_output(paths.faces("expression"))}
    (paths.root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"data@expression": {"outs": [out]}}}))
    lose(paths.faces_record)
    before = times(paths)
    said: list[str] = []
    data.build_missing(paths, params.data, workers=1, report=said.append)
    assert f"{paths.faces('expression')}: not recorded here, and kept, as dvc.lock records these faces." in said
    assert times(paths)["expression"] == before["expression"]
    flip(paths.faces("expression") / "images-00000.npy")
    with pytest.raises(StudyError, match="expression: nothing records where these faces"):
        data.build_missing(paths, params.data, workers=1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "- 1\n",
        "meta: 3\n",
        "meta:\n  files:\n    a: b\n    5: 6\n  md5: x\n",
        "meta:\n  files: {}\n",
        "<<<<<<< HEAD\nmeta:\n",
    ],
)
def test_what_is_no_pin_is_refused(study: tuple[Paths, Params], content: str) -> None:
    paths, _ = study
    (paths.root / "data.dvc").write_text(content)
    with pytest.raises(StudyError, match=r"data\.dvc"):
        data.list_differences(paths)


def test_an_empty_source_is_refused(study: tuple[Paths, Params]) -> None:
    """As of a shell variable that is not set."""
    paths, params = study
    before = times(paths)
    with pytest.raises(StudyError, match="an empty source of faces: expected embedded, or the path to real faces"):
        data.build(paths, params.data, sources={"expression": ""}, workers=1)
    assert times(paths) == before


@pytest.mark.parametrize("source", ["nowhere", "~nobody-of-this-name/faces", "loop/x"])
def test_a_source_that_is_not_there_costs_no_work(study: tuple[Paths, Params], tmp_path: Path, source: str) -> None:
    paths, params = study
    (tmp_path / "loop").symlink_to("loop")
    before = times(paths)
    with pytest.raises(StudyError, match="no such file or directory"):
        data.build(paths, params.data, sources={"probe": source}, workers=1)
    assert times(paths) == before
