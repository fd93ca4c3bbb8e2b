"""What faces and parameters do not allow is said before anything is trained; by hand-made labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import write_faceset
from facespec.stages.faces_check import check_faces
from facespec.study.errors import StudyError
from facespec.study.params import Params, merge_params, read_params, validate_params
from facespec.study.paths import Paths
from facespec.study.vocabulary import EXPRESSIONS, Role

COLUMNS = ["stimulus", "split", "identity", "expression", "view", "session"]


@pytest.fixture(scope="session")
def small(project: Path) -> Params:
    """The default parameters, for a few pictures."""
    decoding = {"expression_test": 2, "identity_test": 6, "identity_people": 3, "fit_images": 9}
    values = read_params(project / "params.yaml").model_dump()
    return validate_params(merge_params(values, {"decoding": decoding}), name="small")


def write_role(
    paths: Paths, role: str, rows: Sequence[Sequence[str]], *, equal: Sequence[tuple[int, int]] = ()
) -> None:
    """Faces of noise with the labels `rows`; of every pair in `equal`, the second picture is the first again."""
    images = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (len(rows), 32, 32), dtype=np.uint8)
    for first, second in equal:
        images[second] = images[first]
    chunk = FaceChunk(images, pd.DataFrame(rows, columns=COLUMNS))
    write_faceset(
        paths.faces(role), [chunk], FaceSetDescription(role, 2048, None, {"source": "LFW", "notes": ["read"]})
    )


def make_people(train: int, test: Sequence[int]) -> list[list[str]]:
    """People p0, p1, ... with `train` training images each and as many test images as `test` says."""
    return [
        [f"p{person}-{n:02d}", "train" if n < train else "test", f"p{person}", "", "", ""]
        for person, tested in enumerate(test)
        for n in range(train + tested)
    ]


def make_probe(people: int, repetitions: int, *, session: str = "", view: str = "straight") -> list[list[str]]:
    return [
        [f"{person}-{name.value}-{n}", "probe", f"p{person}", name.value, view, session and f"{session}{n}"]
        for person in range(people)
        for name in EXPRESSIONS
        for n in range(repetitions)
    ]


def check(paths: Paths, params: Params, role: str) -> list[str]:
    lines: list[str] = []
    check_faces(paths, params, roles=[Role(role)], report=lines.append)
    assert all(line.startswith(f"{role} faces (LFW): ") for line in lines)
    return [line.partition("): ")[2] for line in lines]


def refuse(paths: Paths, params: Params, role: str) -> str:
    with pytest.raises(StudyError) as caught:
        check(paths, params, role)
    return str(caught.value)


def test_people_with_too_few_test_images(small: Params, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_role(paths, "identity", make_people(3, [2, 2, 2]))
    assert check(paths, small, "identity") == [
        "read",
        "train images of 3 people: 3 to 3 of each, median 3",
        "test images of 3 people: 2 to 2 of each, median 2",
    ]
    write_role(paths, "identity", make_people(3, [2, 1, 2]))
    assert "Figure S1A: identity 'p1' has 1 images; 2 of each are needed. " in refuse(paths, small, "identity")
    assert refuse(paths, small, "identity").endswith(
        "of 3 people, 2 have that many test images each and 3 have any. These faces allow identity_people 3 with "
        "identity_test 3.\nChange params.yaml, or give other faces."
    )
    write_role(paths, "identity", make_people(3, [2, 2]))
    assert "Figure S1A: 3 people are needed, the labels know 2." in refuse(paths, small, "identity")


def test_expressions_with_too_few_test_images(small: Params, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    rows = [
        [f"{split}{name.value}{n}", split, "", name.value, "", ""]
        for split, count in (("train", 3), ("test", 2))
        for name in EXPRESSIONS
        for n in range(count - (split == "test" and name.value == "fear"))
    ]
    write_role(paths, "expression", rows)
    message = refuse(paths, small, "expression")
    assert (
        "expression 'fear' has 1 images; 2 of each are needed. decoding.expression_test is 2; these faces allow 1."
        in (message)
    )
    rows.append(["one more", "test", "", "fear", "", ""])
    write_role(paths, "expression", rows, equal=[(0, len(rows) - 1), (1, 2), (3, 9)])
    assert check(paths, small, "expression")[1:] == [
        "train images: angry 3, disgust 3, fear 3, happy 3, neutral 3, sad 3, surprise 3",
        "test images: angry 2, disgust 2, fear 2, happy 2, neutral 2, sad 2, surprise 2",
        "test images that are training images too, pixel by pixel: 1",
        "groups of identical images with several labels of expression: 2 of 3",
    ]


def test_a_probe_without_sessions_and_views(small: Params, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_role(paths, "probe", make_probe(2, 2, session="day "))
    assert check(paths, small, "probe")[-1] == (
        "sessions day 0, day 1: nothing is measured across sessions, which needs A and B"
    )
    write_role(paths, "probe", make_probe(2, 2))
    assert check(paths, small, "probe")[-1].startswith("no sessions: split.hold_out session is not offered, ")
    write_role(paths, "probe", make_probe(2, 1))
    message = refuse(paths, small, "probe")
    assert "held-out images: split.hold_out 'cell' leaves 14 images to fit and 0 to test" in message
    assert "analyses by depth, of frontal images: no image has a session, and 0 of 2 people have two" in message
    write_role(paths, "probe", make_probe(2, 2, view="half_left"))
    assert "heatmaps: no image shows the straight view. heatmaps.view may be all." in refuse(paths, small, "probe")


def test_sessions_that_are_held_out_must_be_there(small: Params, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_role(paths, "probe", make_probe(2, 2))
    rule = small.model_copy(update={"split": small.split.model_copy(update={"hold_out": "session"})})
    assert "held-out images: 28 of 28 images have no session" in refuse(paths, rule, "probe")


def test_the_checks_of_the_default_study_say_nothing(study_copy: Paths) -> None:
    lines: list[str] = []
    check_faces(study_copy, read_params(study_copy.params), report=lines.append)
    assert lines == []


def test_every_missing_expression_is_named(small: Params, tmp_path: Path) -> None:
    rows = [row for row in make_probe(2, 2) if row[3] != "sad"]
    write_role(Paths(tmp_path), "probe", rows)
    assert re.search("held-out images: no image shows 'sad'", refuse(Paths(tmp_path), small, "probe"))
