from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facespec.data.intake import ImportOptions
from facespec.data.voxceleb import Frame, format_name, parse_name
from facespec.study.errors import StudyError

HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
TWO = {"Ann_A": [4, 3, 5], "Bob_B": [2, 2]}

words = st.text(st.characters(categories=["L", "N"], include_characters="_-."), min_size=1, max_size=12)
names = words.filter(lambda word: not word.endswith("."))


@given(names, words, names, st.sampled_from(["", "unzippedFaces/", "a/b/"]), st.sampled_from([".jpg", ".JPG", ".png"]))
def test_reading_a_path_inverts_writing_it(person: str, video: str, frame: str, above: str, ending: str) -> None:
    found = Frame(person, video, frame)
    path = format_name(found)
    assert path.endswith(".jpg") and parse_name(above + path.removesuffix(".jpg") + ending) == found


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        ("unzippedFaces/A.J._Buckley/1.6/1zcIwhmdeo4/0000375.jpg", Frame("A.J._Buckley", "1zcIwhmdeo4", "0000375")),
        ("Robert_Downey_Jr./1.6/-x/1.JPG", Frame("Robert_Downey_Jr", "-x", "1")),
        *dict.fromkeys(["1.6/v/1.jpg", "A/1.7/v/1.jpg", "A/1.6/v/x/1.jpg", "A/1.6/1.jpg", "A/1.6/v/1.wav"]).items(),
    ],
)
def test_paths_by_hand(path: str, frame: Frame | None) -> None:
    assert parse_name(path) == frame


def test_labels_counts_and_pixels(voxceleb: Any, tmp_path: Path) -> None:
    files = voxceleb.videos(TWO)
    faceset = voxceleb.imported(voxceleb.packed(tmp_path, "", files), tmp_path / "set", test=2)
    labels = faceset.labels
    assert list(labels["stimulus"]) == sorted(labels["stimulus"])
    assert (labels[["expression", "view", "session"]] == "").all(axis=None)
    for index, stimulus in enumerate(labels["stimulus"]):
        person, video, frame = stimulus.split("/")
        assert labels["identity"][index] == person
        grey = Image.open(io.BytesIO(files[f"unzippedFaces/{person}/1.6/{video}/{frame}.png"])).getpixel((0, 0))
        assert (faceset.images(np.array([index])) == grey[0]).all()  # type: ignore[index]
    counts = faceset.provenance["counts"]
    unused = counts.pop("unused frames of test videos")
    assert counts == {"images": 16 - unused, "people": 2, "videos": 5, "test": 4, "train": 12 - unused}
    assert (faceset.role, faceset.source, faceset.provenance["excluded"]) == ("identity", "VoxCeleb1", [])


def test_directory_zip_and_tar_give_the_same_faces(voxceleb: Any, tmp_path: Path) -> None:
    files = voxceleb.videos(TWO) | {
        "vox1_meta.csv": (HEADER + "id1\tAnn_A\t\t\t\nid2\tBob_B.\t\t\t\n").encode(),
        "read.me": b"1",
    }
    paths = [
        voxceleb.packed(tmp_path, kind, dict(list(files.items())[::order]))
        for kind, order in (("", 1), (".zip", -1), (".tar.xz", -1))
    ]
    one, two, three = (voxceleb.in_bytes(voxceleb.imported(path, tmp_path / f"set{n}")) for n, path in enumerate(paths))
    assert one == two == three


def test_crops_of_any_size_are_cut_to_their_central_square(voxceleb: Any, tmp_path: Path) -> None:
    stripes = np.zeros((100, 180, 3), dtype=np.uint8)
    stripes[:, 40:140] = 200
    files = dict.fromkeys(voxceleb.videos(TWO), voxceleb.encoded(stripes))
    faceset = voxceleb.imported(
        voxceleb.packed(tmp_path, "", files), tmp_path / "set", wanted=ImportOptions(48, 3, 0.0)
    )
    images = faceset.images(np.arange(faceset.n))
    assert images.shape[1:] == (48, 48, 3) and (images == 200).all()


def test_a_person_with_one_video_is_left_out_and_tolerated(voxceleb: Any, tmp_path: Path) -> None:
    faceset = voxceleb.imported(voxceleb.packed(tmp_path, "", voxceleb.videos(TWO | {"Cat_C": [2]})), tmp_path / "set")
    reason = "Cat_C has one video only, and a split by video needs two"
    assert faceset.provenance["excluded"] == [
        {"file": f"unzippedFaces/Cat_C/1.6/v0/000000{i}.png", "reason": reason} for i in range(2)
    ]
    assert faceset.provenance["counts"]["videos"] == 5 and set(faceset.labels["identity"]) == {"Ann_A", "Bob_B"}


@pytest.mark.parametrize("inside", [True, False])
def test_the_table_is_a_cross_check(voxceleb: Any, inside: bool, tmp_path: Path) -> None:
    """It knows Ann with a full stop that her folder lacks, and not Bob."""
    files = voxceleb.videos(TWO | {"Cat_C": [2, 2]})
    table = ("\ufeff" + HEADER + "id1\tAnn_A.\tf\tUK\tdev\nid3\tCat_C\tf\tUK\tdev\n").encode()
    if not inside:
        (tmp_path / "vox1_meta.csv").write_bytes(table)
    path = voxceleb.packed(tmp_path, ".zip", files | ({"vox1_meta.csv": table} if inside else {}))
    faceset = voxceleb.imported(path, tmp_path / "set", wanted=ImportOptions(48, 1, 0.5))
    assert set(faceset.labels["identity"]) == {"Ann_A", "Cat_C"}
    assert [row["reason"] for row in faceset.provenance["excluded"]] == ["Bob_B is not in vox1_meta.csv"] * 4
    with pytest.raises(
        StudyError, match=r"First: unzippedFaces/Bob_B/1\.6/v0/0000000\.png: Bob_B is not in vox1_meta\.csv; "
    ):
        voxceleb.imported(path, tmp_path / "set")


@pytest.mark.parametrize(
    ("table", "has"), [(b"", "none"), (b"VoxCeleb1 ID,VGGFace1 ID\n", "'VoxCeleb1 ID,VGGFace1 ID'")]
)
def test_another_table(voxceleb: Any, table: bytes, has: str, tmp_path: Path) -> None:
    assert voxceleb.refused(tmp_path, voxceleb.videos(TWO) | {"vox1_meta.csv": table}) == (
        f"PATH: vox1_meta.csv lacks the column 'VGGFace1 ID'; it has {has}. Its columns are separated by tabs. "
        "Fetch it again, or move it away: it is only a cross-check."
    )


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            HEADER.encode() + b"id1\t" + b"x" * 200_000,
            "line 2: field larger than field limit (131072). Write one row to a line, with short cells.",
        ),
        (
            HEADER.encode() + b"id1\tAnn_A\tf\tUK\tdev\nid2\n",
            "line 3: cells: 1, in the header: 5. Give every row as many cells as the header has.",
        ),
        (HEADER.encode("utf-16"), "no text in UTF-8 (byte 0 is 0xff). Save it as CSV in UTF-8."),
        (HEADER.encode() + b"id1\tAnn\0\tf\tUK\tdev\n", "no text in UTF-8 (byte 55 is 0x00). Save it as CSV in UTF-8."),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_table_that_cannot_be_read(voxceleb: Any, inside: bool, table: bytes, reason: str, tmp_path: Path) -> None:
    if not inside:
        (tmp_path / "vox1_meta.csv").write_bytes(table)
    files = voxceleb.videos(TWO) | ({"vox1_meta.csv": table} if inside else {})
    place = "PATH: vox1_meta.csv" if inside else str(tmp_path / "vox1_meta.csv")
    assert voxceleb.refused(tmp_path, files, kind=".zip") == (
        f"{place}: {reason} Fetch it again, or move it away: it is only a cross-check."
    )


def test_a_table_that_may_not_be_read(voxceleb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "vox1_meta.csv"
    table.write_text(HEADER)
    really = Path.open

    def forbidding(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == table:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", forbidding)
    assert voxceleb.refused(tmp_path, voxceleb.videos(TWO)) == f"{table}: may not be read. Change its permissions."


def test_damaged_table(voxceleb: Any, tmp_path: Path) -> None:
    files = voxceleb.videos(TWO) | {"a/vox1_meta.csv": HEADER.encode()}
    content = bytearray(voxceleb.packed(tmp_path, ".zip", files, method=zipfile.ZIP_STORED).read_bytes())
    content[content.index(HEADER.encode())] ^= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(StudyError) as caught:
        voxceleb.imported(tmp_path / "b.zip", tmp_path / "set")
    assert str(caught.value) == (
        f"{tmp_path / 'b.zip'}: a/vox1_meta.csv: damaged in the archive. Fetch it again, or move it away: it is only a "
        "cross-check."
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda picture: b"", "an empty file"),
        (lambda picture: b"<html>", "not a JPEG, PNG or BMP picture"),
        (lambda picture: picture(99)[:-60], "truncated or damaged"),
        (lambda picture: picture(99, channels=4), "mode RGBA instead of RGB or L"),
    ],
)
@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_bad_picture(voxceleb: Any, kind: str, content: Callable[..., bytes], reason: str, tmp_path: Path) -> None:
    files = dict.fromkeys(voxceleb.videos({"Ann_A": [1, 1], "Bob_B": [1, 1]}), voxceleb.picture(99))
    files["unzippedFaces/Ann_A/1.6/v1/0000000.png"] = content(voxceleb.picture)
    assert voxceleb.refused(tmp_path, files, kind=kind) == (
        "PATH: 1 of 4 images (25.00%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: unzippedFaces/Ann_A/1.6/v1/0000000.png: {reason}. "
        "Fetch the data set again, or raise data.tolerated in params.yaml."
    )


def test_pictures_elsewhere_count_as_lost_faces(voxceleb: Any, tmp_path: Path) -> None:
    assert "First: unzippedFaces/Ann_A/v0/1.png: not <name>/1.6/<video>/<frame>.jpg. Fetch" in voxceleb.refused(
        tmp_path, voxceleb.videos(TWO) | {"unzippedFaces/Ann_A/v0/1.png": voxceleb.picture(99), "a.txt": b""}
    )


def test_a_repeated_face_is_named_with_its_folders(voxceleb: Any, tmp_path: Path) -> None:
    files = voxceleb.videos(TWO) | {"again/Ann_A/1.6/v1/0000000.png": voxceleb.picture(99)}
    faceset = voxceleb.imported(
        voxceleb.packed(tmp_path, ".zip", files), tmp_path / "set", ImportOptions(48, 1, 0.5), test=1
    )
    repeated = {row["file"]: row["reason"] for row in faceset.provenance["excluded"]}
    assert repeated == {
        "unzippedFaces/Ann_A/1.6/v1/0000000.png": "the same face as again/Ann_A/1.6/v1/0000000.png, by its name"
    }


def test_missing_path(voxceleb: Any, tmp_path: Path) -> None:
    assert voxceleb.missing(tmp_path) == (
        "AT/none: no such file or directory. Give the path of the data set; see docs/data.md."
    )


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_no_voxceleb(voxceleb: Any, kind: str, tmp_path: Path) -> None:
    assert voxceleb.refused(tmp_path, {"id10001/v/1.wav": b"1"}, kind=kind) == (
        "PATH: no VoxCeleb1: it holds id10001/v/1.wav. VoxCeleb1 is face crops like "
        "unzippedFaces/<name>/1.6/<video>/<frame>.jpg, plain or in a .zip or .tar.xz."
    )


@pytest.mark.parametrize(("people", "n"), [({"Ann_A": [2]}, 0), ({"Ann_A": [2, 2], "Bob_B": [3]}, 1)])
def test_too_few_people(voxceleb: Any, people: dict[str, list[int]], n: int, tmp_path: Path) -> None:
    assert voxceleb.refused(tmp_path, voxceleb.videos(people)) == (
        f"PATH: people with two videos or more: {n}; telling people apart needs two of them. Is the copy complete?"
    )
