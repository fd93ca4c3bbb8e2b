from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
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


def make_faces(
    directory: Path, role: str = "expression", rows: list[tuple[str, str, str]] = ROWS, **provenance: Any
) -> FaceSet:
    labels = pd.DataFrame(rows, columns=["split", "identity", "expression"])
    labels = labels.assign(stimulus=[f"s{i}" for i in range(len(rows))], view="", session="")
    provenance = {"source": "FER2013", "counts": {}, "excluded": [], "content": "c0ffee"} | provenance
    images = np.zeros((len(rows), 33, 33), np.uint8)
    return write_faceset(directory, [FaceChunk(images, labels)], FaceSetDescription(role, 4, None, provenance))


def print_lines(renderables: list[Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    for renderable in renderables:
        console.print(renderable)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip(" ─")]


def test_facts_and_counts_of_a_set_of_faces(tmp_path: Path) -> None:
    assert print_lines(describe_faces(make_faces(tmp_path / "faces", notes=["one file twice"]))) == [
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


@pytest.mark.parametrize(
    ("rows", "people", "counts"),
    [
        # names that sort "test" before "train", as FER2013's do
        (ROWS[::-1], "2, 2 images of each", "expression train test, happy 2 1, sad 1 0, unknown 0 1, all 3 2"),
        ([("probe", "F01", "sad"), ("test", "F01", "sad")], "1, 2 images of each", "expression test probe, sad 1 1"),
        ([("train", "", "sad")], "unknown", "expression train, sad 1"),
        ([*ROWS[:2], ("train", "M02", "happy")], "2, 1 to 2 images of each", "expression train, happy 3"),
    ],
)
def test_counts_have_one_order_and_people_may_be_unknown(
    tmp_path: Path, rows: list[tuple[str, str, str]], people: str, counts: str
) -> None:
    """Without a sum if there is one class only."""
    lines = print_lines(describe_faces(make_faces(tmp_path / "faces", rows=rows)))
    assert lines[3] == f"people {people}" and lines[7:-1] == counts.split(", ")


def test_twenty_excluded_files_are_named_and_the_rest_counted_by_reason(tmp_path: Path) -> None:
    black = [{"file": f"f{index:02d}.jpg", "reason": "black"} for index in range(22)]
    names = [f"f{index:02d}.jpg: black" for index in range(20)]
    lines = print_lines(describe_faces(make_faces(tmp_path / "few", excluded=black[:20])))
    assert lines[-21:] == ["Excluded files: 20", *names]
    more = [{"file": "x", "reason": "[red]not an image[/red]"}, *[{"file": "y", "reason": "truncated"}] * 1200]
    lines = print_lines(describe_faces(make_faces(tmp_path / "many", excluded=black + more)))
    assert lines[-24:] == [
        "Excluded files: 1,223",
        *names,
        "and 1,200 more: truncated",
        "and 2 more: black",
        "and 1 more: [red]not an image[/red]",  # file names and reasons are never read as markup
    ]


def test_info_describes_all_three_roles(tmp_path: Path) -> None:
    roles = ("expression", "identity", "probe")
    for role in roles:
        make_faces(tmp_path / "data" / role, role)
    lines = print_lines(list(stage.info(Paths(tmp_path))))
    assert [line for line in lines if line.endswith(" role")] == [f"{role} role" for role in roles]
