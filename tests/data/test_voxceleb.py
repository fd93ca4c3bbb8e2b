"""VoxCeleb1 is split by video, never by frame; its table is a cross-check of people."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facespec.data.faceset import FaceSet
from facespec.data.importing import ImportOptions
from facespec.data.voxceleb import Frame, parse_name
from facespec.study.errors import StudyError

HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
TWO = {"Ann_A": [4, 3, 5], "Bob_B": [2, 2]}


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        ("unzippedFaces/A.J._Buckley/1.6/1zcIwhmdeo4/0000375.jpg", Frame("A.J._Buckley", "1zcIwhmdeo4", "0000375")),
        ("Robert_Downey_Jr./1.6/-x/1.JPG", Frame("Robert_Downey_Jr", "-x", "1")),
        ("a/b/Zo\u00eb/1.6/_.v/1.2.png", Frame("Zo\u00eb", "_.v", "1.2")),
        ("unzippedIntervalFaces/data/Ann/1.6/v/7/3.jpg", Frame("Ann", "v", "7/3")),  # the dense release
        ("id10001/1.6/v/3.jpg", Frame("id10001", "v", "3")),
        ("vox1/id10001/v/7/3.jpg", Frame("id10001", "v", "7/3")),
        *((path, None) for path in ("1.6/v/1.jpg", "A/1.7/v/1.jpg", "A/1.6/v/x/y/1.jpg", "A/1.6/1.jpg")),
        *((path, None) for path in ("A/1.6/v/1.wav", "id1/v/1.jpg", "id10001/1.jpg")),
    ],
)
def test_paths_by_hand(path: str, frame: Frame | None) -> None:
    assert parse_name(path) == frame


def test_labels_counts_and_pixels(voxceleb: Any, tmp_path: Path) -> None:
    files = voxceleb.make_videos(TWO)
    faceset = voxceleb.write(voxceleb.pack(tmp_path, "", files), tmp_path / "set", test=2)
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
    table = (HEADER + "id1\tAnn_A\t\t\t\nid2\tBob_B.\t\t\t\n").encode()
    voxceleb.check_forms(tmp_path, voxceleb.make_videos(TWO) | {"vox1_meta.csv": table, "read.me": b"1"})


def test_crops_of_any_size_are_cut_to_their_central_square(voxceleb: Any, tmp_path: Path) -> None:
    stripes = np.zeros((100, 180, 3), dtype=np.uint8)
    stripes[:, 40:140] = 200
    path = voxceleb.pack(tmp_path, "", dict.fromkeys(voxceleb.make_videos(TWO), voxceleb.encode(stripes)))
    faceset = voxceleb.write(path, tmp_path / "set", ImportOptions(48, 3, 0.0))
    images = faceset.images(np.arange(faceset.n))
    assert images.shape[1:] == (48, 48, 3) and (images == 200).all()


def test_a_person_with_one_video_is_excluded_and_tolerated(voxceleb: Any, tmp_path: Path) -> None:
    path = voxceleb.pack(tmp_path, "", voxceleb.make_videos(TWO | {"Cat_C": [2]}))
    faceset = voxceleb.write(path, tmp_path / "set")
    reason = "Cat_C has one video only, and a split by video needs two"
    assert voxceleb.list_excluded(faceset) == {f"unzippedFaces/Cat_C/1.6/v0/000000{i}.png": reason for i in range(2)}
    assert faceset.provenance["counts"]["videos"] == 5 and set(faceset.labels["identity"]) == {"Ann_A", "Bob_B"}


def add_table(directory: Path, files: dict[str, bytes], table: bytes, *, inside: bool) -> dict[str, bytes]:
    """`files` with the table, or the table in `directory`, beside the data set."""
    if inside:
        return files | {"vox1_meta.csv": table}
    (directory / "vox1_meta.csv").write_bytes(table)
    return files


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "table",
    [
        HEADER + "id1\tAnn_A.\tf\tUK\tdev\nid3\tCat_C\tf\tUK\tdev\n",
        "VGGFace1 ID,VoxCeleb1 ID\nAnn_A.,id1\nCat_C,id3\n",
        '"id";"Name"\n"id1";"Ann_A"\n"id3";"Cat_C"\n',
    ],
)
def test_people_who_are_not_in_the_table_are_noted(voxceleb: Any, inside: bool, table: str, tmp_path: Path) -> None:
    """It has Ann with a full stop that her folder lacks, and not Bob; how it is written does not matter."""
    files = voxceleb.make_videos(TWO | {"Cat_C": [2, 2]})
    content = ("\ufeff" + table).encode()
    path = voxceleb.pack(tmp_path, ".zip", add_table(tmp_path, files, content, inside=inside))
    faceset = voxceleb.write(path, tmp_path / "set")
    assert set(faceset.labels["identity"]) == {"Ann_A", "Bob_B", "Cat_C"} and not voxceleb.list_excluded(faceset)
    assert faceset.provenance["notes"] == ["people who are not in vox1_meta.csv: 1 of 3 (Bob_B)"]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (HEADER.encode() + b"id1\tAnn_A\tf\tUK\tdev\nid2\n", "line 3: cells: 1, in the header: 5. Give every row"),
        (HEADER.encode("utf-16"), "no text in UTF-8 (byte 0 is 0xff). Save it as CSV in UTF-8"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_table_that_cannot_be_read_does_not_block_the_import(
    voxceleb: Any, inside: bool, table: bytes, reason: str, tmp_path: Path
) -> None:
    files = add_table(tmp_path, voxceleb.make_videos(TWO), table, inside=inside)
    faceset = voxceleb.write(voxceleb.pack(tmp_path, ".zip", files), tmp_path / "set")
    (note,) = faceset.provenance["notes"]
    assert note.startswith(f"vox1_meta.csv, a cross-check of people, is not used: {reason}")


def test_a_table_without_permission(voxceleb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "vox1_meta.csv"
    table.write_text(HEADER)
    open_path = Path.open

    def forbid(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == table:
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", forbid)
    faceset = voxceleb.write(voxceleb.pack(tmp_path, "", voxceleb.make_videos(TWO)), tmp_path / "set")
    assert faceset.provenance["notes"] == ["vox1_meta.csv, a cross-check of people, is not used: Permission denied"]


def test_a_damaged_table(voxceleb: Any, tmp_path: Path) -> None:
    files = voxceleb.make_videos(TWO) | {"a/vox1_meta.csv": HEADER.encode()}
    content = bytearray(voxceleb.pack(tmp_path, ".zip", files, method=zipfile.ZIP_STORED).read_bytes())
    content[content.index(HEADER.encode())] ^= 1
    path = voxceleb.pack(tmp_path, "file", {"b.zip": bytes(content)})
    notes = voxceleb.write(path, tmp_path / "set").provenance["notes"]
    assert notes == ["vox1_meta.csv, a cross-check of people, is not used: damaged in the archive"]


@pytest.mark.parametrize("pattern", ["unzippedIntervalFaces/data/{}/1.6/{}/5/{}.png", "{}/{}/{}.png"])
def test_the_dense_release_and_folders_named_by_number(voxceleb: Any, pattern: str, tmp_path: Path) -> None:
    number = iter(range(99))
    files = {
        pattern.format(person, video, frame): voxceleb.make_picture(next(number))
        for person in ("id10001", "id10002")
        for video in ("v0", "v1")
        for frame in range(2)
    }
    labels = voxceleb.write(voxceleb.pack(tmp_path, "", files), tmp_path / "set", test=1).labels
    assert set(labels["identity"]) == {"id10001", "id10002"}
    assert labels["split"].value_counts().to_dict() == {"train": 4, "test": 2}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda picture: b"", "an empty file"),
        (lambda picture: picture(99)[:-60], "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("kind", ["", ".tar.xz"])
def test_bad_picture(voxceleb: Any, kind: str, make: Callable[..., bytes], reason: str, tmp_path: Path) -> None:
    files = dict.fromkeys(voxceleb.make_videos({"Ann_A": [1, 1], "Bob_B": [1, 1]}), voxceleb.make_picture(99))
    name = "unzippedFaces/Ann_A/1.6/v1/0000000.png"
    message = voxceleb.refuse(tmp_path, files | {name: make(voxceleb.make_picture)}, kind=kind)
    assert message.startswith("PATH: 1 of 4 images (25.00%) cannot be used") and f"First: {name}: {reason}. " in message


def test_pictures_elsewhere_count_and_repeated_faces_are_listed(voxceleb: Any, tmp_path: Path) -> None:
    elsewhere = {"unzippedFaces/Ann_A/v0/1.png": voxceleb.make_picture(99), "a.txt": b""}
    repeated = {"again/Ann_A/1.6/v1/0000000.png": voxceleb.make_picture(99)}
    path = voxceleb.pack(tmp_path, ".zip", voxceleb.make_videos(TWO) | elsewhere | repeated)
    faceset = voxceleb.write(path, tmp_path / "set", ImportOptions(48, 1, 0.5), test=1)
    assert voxceleb.list_excluded(faceset) == {
        "a.txt": "not <name>/1.6/<video>/<frame>.jpg",
        "unzippedFaces/Ann_A/1.6/v1/0000000.png": "the same face as again/Ann_A/1.6/v1/0000000.png, by its name",
        "unzippedFaces/Ann_A/v0/1.png": "not <name>/1.6/<video>/<frame>.jpg",
    }
    with pytest.raises(StudyError, match=r"^\S+: 2 of \d+ images"):
        voxceleb.write(path, tmp_path / "set")


def test_what_is_no_voxceleb_is_refused(voxceleb: Any, tmp_path: Path) -> None:
    voxceleb.check_missing_path(tmp_path)
    message = voxceleb.refuse(tmp_path, {"id10001/v/1.wav": b"1"}, kind=".tar.xz")
    assert message.startswith(
        "PATH: no VoxCeleb1: it holds id10001/v/1.wav. VoxCeleb1 is face crops like unzippedFaces/"
    )
    for kind, people, n in ((".zip", {"Ann_A": [2]}, 0), (".tar", {"Ann_A": [2, 2], "Bob_B": [3]}, 1)):
        message = voxceleb.refuse(tmp_path, voxceleb.make_videos(people), kind=kind)
        assert message.startswith(f"PATH: people with two videos or more: {n}; telling people apart needs two of them.")


def get_splits(faceset: FaceSet) -> dict[str, str]:
    return dict(zip(faceset.labels["stimulus"], faceset.labels["split"], strict=True))


@pytest.mark.parametrize("test", [1, 2, 3, 5, 7, 12])
def test_no_video_is_on_both_sides(voxceleb: Any, test: int, tmp_path: Path) -> None:
    """Of Ann's 4, 3 and 5 frames, any two videos may be tested; of Bob's 2 and 2, one."""
    path = voxceleb.pack(tmp_path, "", voxceleb.make_videos(TWO))
    for seed in range(4):
        splits = get_splits(voxceleb.write(path, tmp_path / "set", test=test, seed=seed))
        for person, lengths in TWO.items():
            videos: dict[str, list[str]] = {"train": [], "test": []}
            for stimulus, split in splits.items():
                if stimulus.startswith(person):
                    videos[split].append(stimulus.split("/")[1])
            train, tested = set(videos["train"]), set(videos["test"])
            assert train and tested and not train & tested
            # as many as requested, or all of the videos but one
            held_out = sum(n for i, n in enumerate(lengths) if f"v{i}" not in train)
            assert len(videos["test"]) == min(test, held_out)
            assert len(videos["test"]) == test or len(train) == 1
            # every frame of a training video is used
            assert len(videos["train"]) == sum(n for i, n in enumerate(lengths) if f"v{i}" in train)


def test_the_generator_decides_which_videos_are_tested(voxceleb: Any, tmp_path: Path) -> None:
    path = voxceleb.pack(tmp_path, "", voxceleb.make_videos({"Ann_A": [2] * 9, "Bob_B": [2] * 9}))
    splits = [get_splits(voxceleb.write(path, tmp_path / "set", seed=seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_a_persons_split_does_not_depend_on_the_others(voxceleb: Any, tmp_path: Path) -> None:
    few, more = (
        get_splits(voxceleb.write(voxceleb.pack(tmp_path, kind, voxceleb.make_videos(people)), tmp_path / f"set{kind}"))
        for kind, people in (("", TWO), (".zip", {"Aaa": [3, 3], **TWO}))
    )
    assert {stimulus: split for stimulus, split in more.items() if not stimulus.startswith("Aaa")} == few
