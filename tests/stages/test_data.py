from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from facespec.data.faceset import FaceSet
from facespec.stages import data
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
            folder = tmp_path / "fer" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = draw.integers(0, 256, (48, 48), dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"{split}_{name}_{number}.png")
    return tmp_path / "fer"


def times(paths: Paths) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in paths.data.glob("*/faceset.json")}


def test_all_roles_are_filled(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    assert [(f.role, f.n, f.source) for f in data.opened(paths)] == [
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
    archive = Path(shutil.make_archive(str(fer2013.parent / "fer"), "zip", fer2013))
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
    assert data.differences(paths) == []
    ours = yaml.safe_load((paths.root / "data.dvc").read_text())["outs"][0]
    (paths.root / "data.dvc").rename(paths.root / "ours")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data"], cwd=paths.root, check=True)
    theirs = yaml.safe_load((paths.root / "data.dvc").read_text())["outs"][0]
    assert {key: ours[key] for key in ("md5", "size", "nfiles", "path")} == {
        key: theirs[key] for key in ("md5", "size", "nfiles", "path")
    }


def test_every_difference_is_said(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    data.pin(paths)
    shard = paths.faces("probe") / "images-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (paths.faces("identity") / "notes.txt").touch()
    (paths.faces("expression") / "labels.csv").unlink()
    assert data.differences(paths) == [
        "expression/labels.csv: absent", "identity/notes.txt: not pinned", "probe/images-00000.npy: other bytes",
    ]  # fmt: skip


def test_a_forged_pin_is_noticed(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    data.pin(paths)
    pinned = paths.root / "data.dvc"
    content = yaml.safe_load(pinned.read_text())
    content["outs"][0]["md5"] = "0" * 32 + ".dir"
    pinned.write_text(yaml.safe_dump(content))
    assert data.differences(paths) == [
        "data.dvc contradicts itself: its directory digest is not that of its files; run `facespec data pin`."
    ]


def test_nothing_to_check(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    with pytest.raises(StudyError) as caught:
        data.differences(paths)
    assert str(caught.value) == f"{paths.root / 'data.dvc'}: no such file. `facespec data pin` writes it from data/."
    data.pin(paths)
    shutil.rmtree(paths.data)
    with pytest.raises(StudyError) as caught:
        data.differences(paths)
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
