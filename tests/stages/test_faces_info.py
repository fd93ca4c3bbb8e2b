from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages import data as stage
from facespec.stages.faces_info import describe_faces
from facespec.study.paths import Paths

ROWS = [
    ("train", "F01", "happy"),
    ("train", "F01", "happy"),
    ("train", "M02", "sad"),
    ("test", "M02", "happy"),
    ("test", "", ""),
]


def faceset(
    directory: Path, role: str = "expression", rows: list[tuple[str, str, str]] = ROWS, **provenance: Any
) -> FaceSet:
    labels = pd.DataFrame(rows, columns=["split", "identity", "expression"])
    labels = labels.assign(stimulus=[f"s{i}" for i in range(len(rows))], view="", session="")
    provenance = {"source": "FER2013", "counts": {}, "excluded": [], "content": "c0ffee"} | provenance
    images = np.zeros((len(rows), 33, 33), np.uint8)
    return write_faceset(directory, [FaceChunk(images, labels)], FaceSetDescription(role, 4, None, provenance))


def lines(faces: FaceSet) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    for part in describe_faces(faces):
        console.print(part)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip(" ─")]


def test_everything_about_a_set_of_faces(tmp_path: Path) -> None:
    assert lines(faceset(tmp_path / "faces", notes=["one file twice"])) == [
        "expression role",
        "source FER2013",
        "images 5",
        "people 2, 2 images of each",
        "size 33 x 33 px, grey",
        "region maps no",
        "content c0ffee",
        "note one file twice",
        "expression train test",
        "happy 2 1",
        "sad 1 0",
        "unknown 0 1",
        "all 3 2",
        "No file was excluded.",
    ]


def test_splits_come_in_one_order_however_the_faces_came(tmp_path: Path) -> None:
    """Names that sort "test" before "train", as FER2013's do, give the order of every other source."""
    for number, rows in enumerate((ROWS, ROWS[::-1])):
        said = lines(faceset(tmp_path / str(number), rows=rows))
        assert said[7:12] == ["expression train test", "happy 2 1", "sad 1 0", "unknown 0 1", "all 3 2"]
    probe = lines(faceset(tmp_path / "probe", rows=[("probe", "F01", "sad"), ("test", "F01", "sad")]))
    assert probe[7] == "expression test probe"


def test_people_are_unknown_or_counted(tmp_path: Path) -> None:
    nobody = faceset(tmp_path / "nobody", rows=[("train", "", "sad")])
    uneven = faceset(tmp_path / "uneven", rows=[("train", "F01", "sad")] * 3 + [("train", "M02", "sad")])
    assert lines(nobody)[3] == "people unknown" and lines(uneven)[3] == "people 2, 1 to 3 images of each"
    assert "all 4" not in lines(uneven)  # one class is its own sum


def excluded(number: int, reason: str = "black") -> list[dict[str, str]]:
    return [{"file": f"f{index:02d}.jpg", "reason": reason} for index in range(number)]


def test_up_to_twenty_excluded_files_are_all_named(tmp_path: Path) -> None:
    said = lines(faceset(tmp_path / "faces", excluded=excluded(20)))
    assert said[-21] == "Excluded files: 20"
    assert said[-20:] == [f"f{index:02d}.jpg: black" for index in range(20)]


def test_of_more_the_rest_is_counted_by_reason(tmp_path: Path) -> None:
    many = excluded(22) + excluded(1, "[red]not an image[/red]") + excluded(1200, "truncated")
    said = lines(faceset(tmp_path / "faces", excluded=many))
    assert said[-24] == "Excluded files: 1,223"
    assert said[-4:] == [
        "f19.jpg: black",
        "and 1,200 more: truncated",
        "and 2 more: black",
        "and 1 more: [red]not an image[/red]",  # file names and reasons are never read as markup
    ]


def test_info_speaks_of_all_three_roles(tmp_path: Path) -> None:
    for role in ("expression", "identity", "probe"):
        faceset(tmp_path / "data" / role, role)
    console = Console(file=io.StringIO(), width=100)
    for part in stage.info(Paths(tmp_path)):
        console.print(part)
    said = console.file.getvalue()
    assert [said.count(f"{role} role") for role in ("expression", "identity", "probe")] == [1, 1, 1]
