from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facespec.data import voxceleb
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.intake import Wanted
from facespec.data.voxceleb import Frame, formatted, parsed
from facespec.study.errors import StudyError

WANTED = Wanted(48, 1, 0.0)


HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"


words = st.text(st.characters(categories=["L", "N"], include_characters="_-."), min_size=1, max_size=12)


names = words.filter(lambda word: not word.endswith("."))


@given(names, words, names, st.sampled_from(["", "unzippedFaces/", "a/b/"]), st.sampled_from([".jpg", ".JPG", ".png"]))
def test_reading_a_path_inverts_writing_it(person: str, video: str, frame: str, above: str, ending: str) -> None:
    found = Frame(person, video, frame)
    path = formatted(found)
    assert path.endswith(".jpg") and parsed(above + path.removesuffix(".jpg") + ending) == found


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        ("unzippedFaces/A.J._Buckley/1.6/1zcIwhmdeo4/0000375.jpg", Frame("A.J._Buckley", "1zcIwhmdeo4", "0000375")),
        ("Robert_Downey_Jr./1.6/-x/1.JPG", Frame("Robert_Downey_Jr", "-x", "1")),
        *dict.fromkeys(["1.6/v/1.jpg", "A/1.7/v/1.jpg", "A/1.6/v/x/1.jpg", "A/1.6/1.jpg", "A/1.6/v/1.wav"]).items(),
    ],
)
def test_paths_by_hand(path: str, frame: Frame | None) -> None:
    assert parsed(path) == frame


def picture(grey: int, size: tuple[int, int] = (60, 70), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, grey if mode == "L" else (grey,) * len(Image.new(mode, (1, 1)).getbands())).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def videos(people: dict[str, list[int]]) -> dict[str, bytes]:
    """Name -> frames of each video; every picture differs."""
    number = iter(range(256))
    return {f"unzippedFaces/{person}/1.6/v{i}/{frame:07d}.png": picture(next(number))
            for person, lengths in people.items() for i, n in enumerate(lengths) for frame in range(n)}  # fmt: skip


TWO = {"Ann_A": [4, 3, 5], "Bob_B": [2, 2]}


def packed(at: Path, kind: str, files: dict[str, bytes]) -> Path:
    """`files`, in this order, as a directory (kind "") or an archive."""
    path = at / f"faces{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind == ".tar.xz":
        with lzma.open(path, "w", preset=0) as raw, tarfile.open(fileobj=raw, mode="w|") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def silent(done: int, total: int) -> None:
    del done, total


def imported(path: Path, to: Path, *, wanted: Wanted = WANTED, test: int = 2, seed: int = 0) -> FaceSet:
    generator = np.random.Generator(np.random.PCG64(seed))
    taken = voxceleb.read(path, wanted, test=test, generator=generator, report=silent)
    return write_faceset(to, taken.chunks, taken.description)


def refused(tmp_path: Path, files: dict[str, bytes], kind: str = "") -> str:
    path = packed(tmp_path, kind, files)
    with pytest.raises(StudyError) as caught:
        imported(path, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    return str(caught.value).replace(str(path), "PATH")


def test_labels_counts_and_pixels(tmp_path: Path) -> None:
    files = videos(TWO)
    faceset = imported(packed(tmp_path, "", files), tmp_path / "set", test=2)
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


def test_directory_zip_and_tar_give_the_same_faces(tmp_path: Path) -> None:
    files = videos(TWO) | {
        "vox1_meta.csv": (HEADER + "id1\tAnn_A\t\t\t\nid2\tBob_B.\t\t\t\n").encode(),
        "read.me": b"1",
    }
    results = []
    for kind, order in (("", 1), (".zip", -1), (".tar.xz", -1)):
        path = packed(tmp_path, kind, dict(list(files.items())[::order]))
        directory = imported(path, tmp_path / f"set{kind}").directory
        results.append({file.name: file.read_bytes() for file in directory.iterdir()})
    assert results[0] == results[1] == results[2]


def test_crops_of_any_size_are_cut_to_their_central_square(tmp_path: Path) -> None:
    stripes = np.zeros((100, 180, 3), dtype=np.uint8)
    stripes[:, 40:140] = 200
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "PNG")
    files = dict.fromkeys(videos(TWO), buffer.getvalue())
    faceset = imported(packed(tmp_path, "", files), tmp_path / "set", wanted=Wanted(48, 3, 0.0))
    images = faceset.images(np.arange(faceset.n))
    assert images.shape[1:] == (48, 48, 3) and (images == 200).all()


def test_a_person_with_one_video_is_left_out_and_tolerated(tmp_path: Path) -> None:
    faceset = imported(packed(tmp_path, "", videos(TWO | {"Cat_C": [2]})), tmp_path / "set")
    reason = "Cat_C has one video only, and a split by video needs two"
    assert faceset.provenance["excluded"] == [
        {"file": f"Cat_C/1.6/v0/000000{i}.png", "reason": reason} for i in range(2)
    ]
    assert faceset.provenance["counts"]["videos"] == 5 and set(faceset.labels["identity"]) == {"Ann_A", "Bob_B"}


@pytest.mark.parametrize("inside", [True, False])
def test_the_table_is_a_cross_check(inside: bool, tmp_path: Path) -> None:
    """It knows Ann with a full stop that her folder lacks, and not Bob."""
    files = videos(TWO | {"Cat_C": [2, 2]})
    table = ("\ufeff" + HEADER + "id1\tAnn_A.\tf\tUK\tdev\nid3\tCat_C\tf\tUK\tdev\n").encode()
    if not inside:
        (tmp_path / "vox1_meta.csv").write_bytes(table)
    path = packed(tmp_path, ".zip", files | ({"vox1_meta.csv": table} if inside else {}))
    faceset = imported(path, tmp_path / "set", wanted=Wanted(48, 1, 0.5))
    assert set(faceset.labels["identity"]) == {"Ann_A", "Cat_C"}
    assert [row["reason"] for row in faceset.provenance["excluded"]] == ["Bob_B is not in vox1_meta.csv"] * 4
    with pytest.raises(StudyError, match=r"First: Bob_B/1\.6/v0/0000000\.png: Bob_B is not in vox1_meta\.csv; "):
        imported(path, tmp_path / "set")


@pytest.mark.parametrize(
    ("table", "has"), [(b"", "none"), (b"VoxCeleb1 ID,VGGFace1 ID\n", "'VoxCeleb1 ID,VGGFace1 ID'")]
)
def test_another_table(table: bytes, has: str, tmp_path: Path) -> None:
    assert refused(tmp_path, videos(TWO) | {"vox1_meta.csv": table}) == (
        f"PATH: vox1_meta.csv lacks the column 'VGGFace1 ID'; it has {has}. Its columns are separated by tabs. "
        "Fetch it again, or move it away: it is only a cross-check."
    )


def test_damaged_table(tmp_path: Path) -> None:
    content = bytearray(packed(tmp_path, ".zip", videos(TWO) | {"a/vox1_meta.csv": HEADER.encode()}).read_bytes())
    content[content.index(HEADER.encode())] ^= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(StudyError) as caught:
        imported(tmp_path / "b.zip", tmp_path / "set")
    assert str(caught.value) == f"{tmp_path / 'b.zip'}: a/vox1_meta.csv: damaged in the archive. Fetch it again."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<html>", "not a JPEG, PNG or BMP picture"),
        (picture(99)[:-60], "truncated or damaged"),
        (picture(99, mode="RGBA"), "mode RGBA instead of RGB or L"),
    ],
)
@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_bad_picture(kind: str, content: bytes, reason: str, tmp_path: Path) -> None:
    files = dict.fromkeys(videos({"Ann_A": [1, 1], "Bob_B": [1, 1]}), picture(99))
    files["unzippedFaces/Ann_A/1.6/v1/0000000.png"] = content
    assert refused(tmp_path, files, kind) == (
        "PATH: 1 of 4 images (25.00%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: Ann_A/1.6/v1/0000000.png: {reason}. Fetch the data set again, or raise data.tolerated in params.yaml."
    )


def test_pictures_elsewhere_count_as_lost_faces(tmp_path: Path) -> None:
    assert "First: unzippedFaces/Ann_A/v0/1.png: not <name>/1.6/<video>/<frame>.jpg. Fetch" in refused(
        tmp_path, videos(TWO) | {"unzippedFaces/Ann_A/v0/1.png": picture(99), "a.txt": b""}
    )


def test_missing_path(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    with pytest.raises(StudyError) as caught:
        voxceleb.read(tmp_path / "none", WANTED, test=2, generator=generator, report=silent)
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: no such file or directory. Give the path of the data set; see docs/data.md."
    )


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_no_voxceleb(kind: str, tmp_path: Path) -> None:
    assert refused(tmp_path, {"id10001/v/1.wav": b"1"}, kind) == (
        "PATH: no VoxCeleb1: it holds id10001/v/1.wav. VoxCeleb1 is face crops like "
        "unzippedFaces/<name>/1.6/<video>/<frame>.jpg, plain or in a .zip or .tar.xz."
    )


@pytest.mark.parametrize(("people", "n"), [({"Ann_A": [2]}, 0), ({"Ann_A": [2, 2], "Bob_B": [3]}, 1)])
def test_too_few_people(people: dict[str, list[int]], n: int, tmp_path: Path) -> None:
    assert refused(tmp_path, videos(people)) == (
        f"PATH: people with two videos or more: {n}; telling people apart needs two of them. Is the copy complete?"
    )
