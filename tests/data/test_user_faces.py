"""One's own faces: a table, folders, names of files or a set of faces; their labels, splits, names and refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.sources import name_path, read_faces
from facespec.study.errors import StudyError
from facespec.study.params import Data, read_params
from facespec.study.vocabulary import Role

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
NOUNS = ("anger", "disgusted", "afraid", "happiness", "neutral", "sadness", "surprised")


@pytest.fixture(scope="session")
def defaults(project: Path) -> Data:
    return read_params(project / "params.yaml").data


class Reader:
    """Reads a source for a role, with some parameters of the role changed."""

    def __init__(self, directory: Path, defaults: Data) -> None:
        self.directory, self.defaults = directory, defaults
        self.number = 0

    def read(self, path: Path, role: str, *, seed: int = 0, tolerated: float = 0.0, **changes: Any) -> FaceSet:
        values = self.defaults.model_dump()
        values["tolerated"] = tolerated
        values[role] |= changes
        streams = tuple(np.random.Generator(np.random.PCG64(seed)) for _ in range(2))
        faces = read_faces(
            path, Role(role), Data.model_validate(values), generators=streams, report=lambda done, total: None
        )
        self.number += 1
        return write_faceset(self.directory / f"set{self.number}", faces.chunks, faces.description)

    def refuse(self, path: Path, role: str, **changes: Any) -> str:
        with pytest.raises(StudyError) as caught:
            self.read(path, role, **changes)
        return str(caught.value).replace(str(path), "PATH")


@pytest.fixture
def reader(tmp_path: Path, defaults: Data) -> Reader:
    return Reader(tmp_path, defaults)


@pytest.fixture
def draw(fer2013: Any) -> Any:
    """A picture of noise per call."""
    generator = np.random.Generator(np.random.PCG64(3))
    return lambda form="PNG", shape=(9, 7): fer2013.encode(generator.integers(0, 256, shape, dtype=np.uint8), form)


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tabulate(faces: FaceSet, *columns: str) -> list[list[str]]:
    return faces.labels[list(columns)].to_numpy().tolist()


def find_note(faces: FaceSet, start: str) -> str:
    (note,) = (note for note in faces.provenance["notes"] if note.startswith(start))
    return str(note)


# --- tables


TABLE = """image;Identity;expression;view;session;age
a/1.png;Ann;anger;frontal;1;30
a/2.png;Ann;Happiness;frontal;2;30
b\\1.png;Bob;contempt;frontal;1;41
"""


def test_a_table_labels_the_probe(reader: Reader, draw: Any, tmp_path: Path) -> None:
    """All seven expressions of Ann and Bob, in words of a laboratory; contempt and the column age are left out."""
    rows = [
        f"{person}/{word}.png,{person},{word},front,{session}"
        for person, session in (("Ann", 1), ("Bob", 2))
        for word in (*NOUNS, "contempt")
    ]
    root = write(tmp_path / "lab", {row.split(",")[0]: draw() for row in rows})
    (root / "labels.csv").write_text("image,identity,expression,view,session\n" + "\n".join(rows))
    for path in (root / "labels.csv", root):
        faces = reader.read(path, "probe")
        assert tabulate(faces, "stimulus", "split", "identity", "expression", "view", "session")[:2] == [
            ["Ann/afraid", "probe", "Ann", "fear", "straight", "1"],
            ["Ann/anger", "probe", "Ann", "angry", "straight", "1"],
        ]
        assert faces.n == 14 and faces.source == ("labels" if path.suffix else "lab")
        assert {row["reason"] for row in faces.provenance["excluded"]} == {"expression 'contempt', none of the seven"}
        assert find_note(faces, "left out") == "left out: 2 of expression 'contempt'"
        assert find_note(faces, "words: ").startswith("words: 'afraid' is fear (2), 'anger' is angry (2), 'disgusted'")
        assert "'neutral'" not in find_note(faces, "words: ")


def test_columns_in_any_case_with_semicolons_and_unused_ones(reader: Reader, draw: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "lab", {name: draw() for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png")})
    (root / "t.csv").write_text(TABLE + "b/2.png;Bob;;side;2;41\n")
    faces = reader.read(root / "t.csv", "identity", name="ours", test_share=0.5)
    assert faces.source == "ours" and faces.labels["identity"].tolist() == ["Ann", "Ann", "Bob", "Bob"]
    assert faces.labels["expression"].tolist() == ["angry", "happy", "", ""]
    assert find_note(faces, "columns") == "columns that are not used: age"


BAD_TABLES = {
    "image,idenity\na,b\n": "unknown column 'idenity': did you mean 'identity'? Allowed: 'image', 'split', 'identity'",
    "image,identity,identity\na,b,c\n": "several columns are called 'identity'",
    "image,identity\n,Ann\n": "line 2: image is empty",
    "image,identity,left,top\na,b,1,2\n": "a box needs the columns 'left', 'top', 'right', 'bottom'; missing: 'right'",
    "image,identity,left,top,right,bottom\na,b,1,2,,x\n": "line 2: left '1', top '2', right '', bottom 'x': expected",
    "image,identity\na\n": "line 2: cells: 1, in the header: 2",
    "image,identity,split\n1.png,Ann,train\n2.png,Ann,\n": "of 2 pictures, 1 have no split. Give every picture",
    "image,identity,split\n1.png,Ann,train\n2.png,Ann,train\n": "of 2 pictures, all of them are train.",
    "image,identity,split,group\n1.png,Ann,train,v\n2.png,Ann,test,v\n": "the group 'v' is in train and in test",
    "image,identity,split\n1.png,Ann,train\n2.png,Bob,test\n": "train and test show other people",
    "image,expression\n1.png,sad\n2.png,sad\n": "no picture with what the identity role needs (identity).",
}


@pytest.mark.parametrize("table", BAD_TABLES)
def test_a_table_with_a_fault_is_refused(reader: Reader, draw: Any, tmp_path: Path, table: str) -> None:
    root = write(tmp_path / "lab", {"1.png": draw(), "2.png": draw(), "t.csv": table.encode()})
    assert BAD_TABLES[table] in reader.refuse(root / "t.csv", "identity")


def test_pictures_that_are_missing_are_named(reader: Reader, draw: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "lab", {f"{n}.png": draw() for n in range(4)})
    (root / "t.csv").write_text("image,identity\n" + "".join(f"{n}.png,{'AB'[n % 2]}\n" for n in range(6)))
    assert "2 of 6 images (33.33%) cannot be used" in reader.refuse(root / "t.csv", "identity")
    faces = reader.read(root / "t.csv", "identity", tolerated=0.5)
    assert {row["file"]: row["reason"] for row in faces.provenance["excluded"]} == dict.fromkeys(
        ("4.png", "5.png"), "no longer there"
    )


def test_a_group_is_never_divided(reader: Reader, draw: Any, tmp_path: Path) -> None:
    rows = [f"{person}/{n}.png,{person},v{n // 3}" for person in "AB" for n in range(12)]
    root = write(tmp_path / "lab", {row.split(",")[0]: draw() for row in rows})
    (root / "t.csv").write_text("image,identity,group\n" + "\n".join(rows))
    drawn = set()
    for seed in range(4):
        labels = reader.read(root / "t.csv", "identity", seed=seed).labels
        groups = labels["stimulus"].str.split("/").str[1].astype(int) // 3
        assert labels["split"].groupby(groups).nunique().max() == 1
        assert labels.groupby("identity")["split"].nunique().tolist() == [2, 2]
        drawn.add(tuple(labels["split"]))
    assert len(drawn) > 1
    assert find_note(reader.read(root / "t.csv", "identity"), "split drawn") == (
        "split drawn, test share 0.2, by groups as given"
    )


def test_boxes_of_a_table_and_a_crop_of_all(reader: Reader, fer2013: Any, tmp_path: Path) -> None:
    """A face of 10x10 px at column 5 and row 20 of 40x60 px: everything else is black."""
    picture = np.zeros((60, 40), dtype=np.uint8)
    picture[20:30, 5:15] = 200
    names = [f"{person}{n}.png" for person in "AB" for n in range(2)]
    root = write(tmp_path / "lab", dict.fromkeys(names, fer2013.encode(picture)))
    box = ",left,top,right,bottom\n"
    rows = [f"{name},{name[0]},5,20,15,30" for name in names]
    (root / "t.csv").write_text("image,identity" + box + "\n".join(rows))
    faces = reader.read(root / "t.csv", "identity")
    assert (faces.images(np.arange(4)) == 200).all()
    (root / "t.csv").write_text("image,identity\n" + "\n".join(f"{name},{name[0]}" for name in names))
    crop = {"top": 1 / 3, "bottom": 0.5, "left": 0.125, "right": 0.375}
    faces = reader.read(root / "t.csv", "identity", crop=crop)
    assert (faces.images(np.arange(4)) == 200).all()
    assert find_note(faces, "every picture was cropped to top 0.333333, bottom 0.5, left 0.125, right 0.375")


# --- folders


def test_a_folder_per_person_is_called_after_its_path_and_not_voxceleb(
    reader: Reader, draw: Any, pack: Any, tmp_path: Path
) -> None:
    files = {f"lfw/{person}/{person}_{n:04d}.jpg": draw("JPEG") for person in ("Ann_A", "Bob_B") for n in range(1, 6)}
    path = pack(tmp_path, ".tar.xz", files | {"lfw/readme.txt": b"1", "lfw/Cat_C/Cat_C_0001.jpg": draw("JPEG")})
    faces = reader.read(path.rename(tmp_path / "lfw.tar.xz"), "identity")
    assert (faces.source, faces.role, faces.n) == ("lfw", "identity", 10)
    assert faces.labels["stimulus"][0] == "lfw/Ann_A/Ann_A_0001"
    counts = faces.labels.groupby(["identity", "split"]).size()
    assert counts.to_dict() == {
        (person, split): n for person in ("Ann_A", "Bob_B") for split, n in (("test", 1), ("train", 4))
    }
    assert {row["file"]: row["reason"] for row in faces.provenance["excluded"]} == {
        "lfw/Cat_C/Cat_C_0001.jpg": "Cat_C has one picture or group only, and a split needs two",
        "lfw/readme.txt": "no picture",
    }
    assert "single pictures; near-copies of one shooting may be in both" in find_note(faces, "split drawn")


@pytest.mark.parametrize("words", [CLASSES, NOUNS])
@pytest.mark.parametrize("layout", ["{split}/{word}/{n}.png", "{word}/{split}/{n}.png"])
def test_folders_per_expression_and_split(
    reader: Reader, draw: Any, tmp_path: Path, words: tuple[str, ...], layout: str
) -> None:
    files = {
        layout.format(split=split, word=word, n=n): draw()
        for split, count in (("train", 3), ("validation", 2))
        for word in (*words, "contempt")
        for n in range(count)
    }
    faces = reader.read(write(tmp_path / "mine", files), "expression")
    assert faces.source == "mine" and faces.n == 35
    assert faces.labels.groupby(["split", "expression"]).size().unstack().to_numpy().tolist() == [[2] * 7, [3] * 7]


def test_a_split_of_expressions_is_drawn_by_person(reader: Reader, draw: Any, tmp_path: Path) -> None:
    files = {f"{word}/P{person}/1.png": draw() for word in CLASSES for person in range(10)}
    faces = reader.read(write(tmp_path / "mine", files), "expression")
    assert faces.labels.groupby("identity")["split"].nunique().max() == 1
    assert faces.labels["split"].value_counts().to_dict() == {"train": 56, "test": 14}
    assert find_note(faces, "split drawn") == "split drawn, test share 0.2, by people"
    assert find_note(faces, "labels from") == "labels from folders: level 1 expression, level 2 identity"


def test_folders_of_the_probe_and_its_view(reader: Reader, draw: Any, tmp_path: Path) -> None:
    files = {f"{person}/day{n}/{word}.png": draw() for person in ("S1", "S2") for n in (1, 2) for word in CLASSES}
    message = reader.refuse(write(tmp_path / "a", files), "probe")
    assert "no picture with what the probe role needs (identity, expression)." in message
    files = {f"{person}/{word}/day{n}/1.png": draw() for person in ("S1", "S2") for n in (1, 2) for word in CLASSES}
    faces = reader.read(write(tmp_path / "b", files), "probe")
    assert tabulate(faces, "identity", "expression", "view", "session")[0] == ["S1", "angry", "straight", "day1"]
    assert find_note(faces, "no view") == "no view is stated: all pictures are taken for straight"


@pytest.mark.parametrize(
    ("files", "role", "fragment"),
    [
        (["1.png", "2.png"], "identity", "First: 1.png: not in the folder of a person or an expression; 2.png: not in"),
        (["happy/1.png", "sad/1.png", "happy/2.png", "sad/2.png"], "expression", "no train pictures of 'angry', "),
        (["a.txt"], "identity", "PATH: holds a.txt, and no pictures. Faces of your own are pictures in a folder per"),
        (["train/A/1.png", "test/B/1.png"], "identity", "train and test show other people"),
        (
            ["A/1.png", "A/2.png", "A/3.png"],
            "identity",
            "PATH: no picture with what the identity role needs (identity)",
        ),
    ],
)
def test_folders_that_say_too_little(
    reader: Reader, draw: Any, tmp_path: Path, files: list[str], role: str, fragment: str
) -> None:
    assert fragment in reader.refuse(write(tmp_path / "mine", {name: draw() for name in files}), role)


# --- names of files


def test_names_of_a_laboratory_by_a_pattern(reader: Reader, draw: Any, tmp_path: Path) -> None:
    """JAFFE's: initials, expression, repetition, number."""
    codes = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
    files = {f"{who}.{code}{n}.{100 + n}.tiff": draw("TIFF") for who in ("KA", "YM") for code in codes for n in (1, 2)}
    pattern = r"^(?P<identity>[A-Z]{2})\.(?P<expression>[A-Z]{2})(?P<session>\d)"
    root = write(tmp_path / "jaffe", files | {"README": b"1"})
    faces = reader.read(root, "probe", pattern=pattern, name="JAFFE")
    assert faces.source == "JAFFE" and faces.n == 28
    assert tabulate(faces, "stimulus", "identity", "expression", "session")[0] == ["KA.AN1.101", "KA", "angry", "1"]
    (root / "other.png").write_bytes(draw())
    assert "other.png: a name that the pattern" in reader.refuse(root, "probe", pattern=pattern)


def test_words_of_a_source_in_its_own_codes(reader: Reader, draw: Any, tmp_path: Path) -> None:
    """As RaFD names views by degrees, and others expressions by numbers."""
    files = {
        f"x{angle}_{who}_{code}.png": draw() for angle in ("090", "135", "045") for who in "12" for code in range(7)
    }
    words = {str(code): name for code, name in enumerate(CLASSES)} | {"090": "straight", "135": "half_left"}
    pattern = r"x(?P<view>\d{3})_(?P<identity>\d)_(?P<expression>\d)"
    faces = reader.read(write(tmp_path / "lab", files), "probe", pattern=pattern, words=words)
    assert faces.labels["view"].value_counts().to_dict() == {"straight": 14, "half_left": 14}
    reasons = {row["reason"] for row in faces.provenance["excluded"]}
    assert reasons == {"view '045', none of the five; `words` can say which it is"}


# --- sets of faces


def test_a_set_of_faces_of_another_study_fills_another_role(reader: Reader, draw: Any, tmp_path: Path) -> None:
    files = {f"{person}/{word}/{n}.png": draw() for person in ("S1", "S2") for n in (1, 2, 3) for word in CLASSES}
    first = reader.read(write(tmp_path / "mine", files), "probe")
    faces = reader.read(first.directory, "identity")
    assert (faces.source, faces.role, faces.n) == ("mine", "identity", 42)
    assert set(faces.labels["split"]) == {"train", "test"}
    rows = faces.labels["stimulus"].map(dict(zip(first.labels["stimulus"], range(42), strict=True))).to_numpy()
    assert np.array_equal(faces.images(np.arange(42)), first.images(rows))
    again = reader.read(faces.directory, "identity", name="again")
    assert again.source == "again" and again.labels.equals(faces.labels)


# --- the data sets of the study


def test_the_data_sets_of_the_study_are_known_by_their_own_words(
    reader: Reader, fer2013: Any, voxceleb: Any, pack: Any, tmp_path: Path
) -> None:
    files = fer2013.make_folders(fer2013.make_faces())
    plain = {re.sub(r"[A-Za-z]+_(\d+)", r"\1", name): content for name, content in files.items()}
    sources = [
        reader.read(write(tmp_path / name, content), "expression").source
        for name, content in (("a", files), ("b", plain), ("fer2013", plain))
    ]
    assert sources == ["FER2013", "b", "FER2013"]
    assert reader.read(tmp_path / "a", "expression", name="mine").source == "mine"
    videos = write(tmp_path / "crops", voxceleb.make_videos({"Ann": [2, 2], "Bob": [2, 2]}))
    assert reader.read(videos, "identity").source == "VoxCeleb1"


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/lfw.tar.xz", "lfw"), ("a/My Faces/", "My Faces"), ("x.zip", "x"), ("t.csv", "t"), ("v1.2", "v1.2")],
)
def test_names_of_paths(path: str, name: str) -> None:
    assert name_path(Path(path)) == name


# --- the documentation


def expand_braces(name: str) -> list[str]:
    """As a shell does: ``a{1,2}`` is ``a1`` and ``a2``."""
    match = re.search(r"\{([^}]*)\}", name)
    if match is None:
        return [name]
    parts = match[1].split(",")
    return [more for part in parts for more in expand_braces(name[: match.start()] + part + name[match.end() :])]


def test_the_examples_of_the_documentation(reader: Reader, draw: Any, project: Path, tmp_path: Path) -> None:
    """Every example in docs/data.md: the listed files, read with the listed parameters, give the listed labels."""
    page = (project / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = page.split("<!-- example -->")[1:]
    assert len(blocks) >= 5
    for number, block in enumerate(blocks):
        root = tmp_path / f"example{number}"
        listings = re.findall(r"^```(\w*)\n(.*?)^```$", block.split("<!-- end -->")[0], re.MULTILINE | re.DOTALL)
        for kind, listing in listings:
            if not kind:
                names = [name for line in listing.splitlines() for name in expand_braces(line.strip())]
                write(root, {name: draw(*(["TIFF"] if name.endswith("tiff") else [])) for name in names})
            elif kind == "csv":
                (root / "faces" / "labels.csv").write_text(listing)
        (values,) = (yaml.safe_load(listing)["data"] for kind, listing in listings if kind == "yaml")
        ((role, values),) = values.items()
        faces = reader.read(root / values.pop("source"), role, **values)
        labels = faces.labels.set_index("stimulus")
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", block, re.MULTILINE)
        assert rows
        for stimulus, *cells in rows:
            shown = labels.loc[stimulus, ["identity", "expression", "view", "session"]]
            assert [cell.strip() for cell in cells] == [text or "-" for text in shown], stimulus
