"""The contact sheet shows the right faces, each under its own name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.analyses.regions import make_region_template
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet, write_faceset
from facespec.figures.faces import paint_regions
from facespec.stages import data as stage
from facespec.stages.faces_show import make_sheet
from facespec.study.params import Data, HeadBox
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, ROLES, VIEWS, Role

SMALL = {
    "seed": 11,
    "size": 32,
    "channels": 1,
    "tolerated": 0.01,
    "expression": {"source": "embedded", "train": 14, "test": 7, "scenes": "web"},
    "identity": {"source": "embedded", "people": 3, "train": 7, "test": 1, "scenes": "video"},
    "probe": {"source": "embedded", "people": 3, "hair": "cap"},
}
BOX = HeadBox(top=-0.1, bottom=0.9, left=0.2, right=0.8)
CHANGES = ["only happy", "only surprise", "only identity"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, FaceSet]:
    block, root, face_sets = Data(**SMALL), tmp_path_factory.mktemp("data"), {}
    for role in ROLES:
        stimuli = draw_role(role, block, generator(block.seed, "faces", role.value))
        chunks = production.iterate_chunks(stimuli, size=block.size, channels=block.channels, chunk=100, workers=1)
        face_sets[role] = write_faceset(root / role.value, chunks, production.describe_stimuli(stimuli))
    return face_sets


@pytest.fixture(scope="module")
def sheet(faces: dict[Role, FaceSet]) -> Figure:
    return make_sheet(faces, Data(**SMALL), BOX)


def read_axes(axes: Axes) -> np.ndarray | None:
    return np.asarray(axes.images[0].get_array()) if axes.images else None


def read_first(faces: FaceSet, **labels: str) -> np.ndarray:
    (row, *_) = faces.labels.query(" and ".join(f"{name} == {value!r}" for name, value in labels.items())).index
    return faces.images(np.array([row]))[0]


def read_titles(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_grids_are_named_with_role_and_source(sheet: Figure) -> None:
    assert read_titles(sheet) == [
        "probe role (embedded faces): people and expressions",
        "One face with one thing changed",
        "probe role (embedded faces): five views and two sessions of F01",
        "expression role (embedded faces): in the wild",
        "identity role (embedded faces): in the wild, one person per row",
        "Region maps",
    ]


def test_every_person_shows_every_expression_under_its_name(sheet: Figure, faces: dict[Role, FaceSet]) -> None:
    for row, person in enumerate(("F01", "F02", "M01")):
        for column, name in enumerate(EXPRESSIONS):
            axes = sheet.axes[row * 7 + column]
            labels = {"identity": person, "expression": name.value, "view": "straight", "session": "A"}
            np.testing.assert_array_equal(read_axes(axes), read_first(faces[Role.PROBE], **labels))
            assert axes.get_title() == (name.value if row == 0 else "")
        assert sheet.axes[row * 7].get_ylabel() == person


def test_one_thing_changes_and_the_rest_stays(sheet: Figure, faces: dict[Role, FaceSet]) -> None:
    row = sheet.axes[21:28]
    titles = ["neutral", *(title for change in CHANGES for title in (change, "difference"))]
    assert [axes.get_title() for axes in row] == titles
    neutral, *pictures = (read_axes(axes).astype(int) for axes in row)
    labels = {"identity": "F01", "expression": "neutral", "view": "straight"}
    np.testing.assert_array_equal(neutral, read_first(faces[Role.PROBE], **labels))
    for picture, difference in zip(pictures[::2], pictures[1::2], strict=True):
        np.testing.assert_array_equal(255 - difference, np.abs(picture - neutral))
        assert (picture != neutral).any()
    # expressions leave the top of the head as it is; another face has another outline, too
    assert (pictures[1][:3] > 240).all()
    assert (pictures[5] < 240).mean() > (pictures[1] < 240).mean()


def test_views_expressions_people_and_regions(sheet: Figure, faces: dict[Role, FaceSet]) -> None:
    views, wild, people, regions = sheet.axes[28:38], sheet.axes[38:52], sheet.axes[52:66], sheet.axes[66:]
    titles = ["full left", "half left", "straight", "half right", "full right"]
    assert [axes.get_title() for axes in views[:5]] == titles
    for row, session in enumerate("AB"):
        assert views[5 * row].get_ylabel() == f"session {session}"
        for column, view in enumerate(VIEWS):
            labels = {"identity": "F01", "expression": "neutral", "view": view.value, "session": session}
            np.testing.assert_array_equal(read_axes(views[5 * row + column]), read_first(faces[Role.PROBE], **labels))
    counts = faces[Role.EXPRESSION].labels["expression"].value_counts()
    for axes, second, name in zip(wild[:7], wild[7:], EXPRESSIONS, strict=True):
        assert axes.get_title() == name.value
        np.testing.assert_array_equal(read_axes(axes), read_first(faces[Role.EXPRESSION], expression=name.value))
        assert (read_axes(second) is None) == (counts[name.value] < 2), "a rare expression leaves a cell empty"
    assert [people[0].get_ylabel(), people[7].get_ylabel()] == ["p0000", "p0002"]
    np.testing.assert_array_equal(read_axes(people[7]), read_first(faces[Role.IDENTITY], identity="p0002"))
    assert len(regions) == 14
    codes = faces[Role.PROBE].region_codes
    for face, painted in zip(regions[:7], regions[7:], strict=True):
        owner = faces[Role.EXPRESSION if face in regions[5:7] else Role.PROBE]
        (row,) = np.flatnonzero((owner.images(np.arange(len(owner))) == read_axes(face)).all(axis=(1, 2)))
        np.testing.assert_array_equal(read_axes(painted), paint_regions(owner.regions(np.array([row]))[0], codes))
    assert [text.get_text() for text in sheet.legends[0].get_texts()] == sorted(codes, key=codes.get)


def test_faces_of_other_parameters_are_not_rendered_again(sheet: Figure, faces: dict[Role, FaceSet]) -> None:
    changed = Data(**SMALL | {"probe": {"source": "embedded", "people": 4, "hair": "cap"}})
    titles = read_titles(sheet)
    titles.remove("One face with one thing changed")
    assert read_titles(make_sheet(faces, changed, BOX)) == titles


def make_real(directory: Path, role: Role, labels: list[dict[str, str]], *, channels: int = 1) -> FaceSet:
    """Faces as an adapter writes them: labels with gaps, no region maps."""
    table = pd.DataFrame([{"identity": "", "expression": "", "view": "", "session": "", **row} for row in labels])
    shape = (len(table), 33, 33, 3) if channels == 3 else (len(table), 33, 33)
    images = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    source = {"expression": "FER2013", "identity": "VoxCeleb1", "probe": "KDEF"}[role]
    description = FaceSetDescription(role.value, 5, None, {"source": source})
    return write_faceset(directory / role.value, [FaceChunk(images, table)], description)


NEUTRAL = {"stimulus": "AF01NES", "split": "probe", "identity": "F01", "expression": "neutral", "view": "straight"}


@pytest.mark.parametrize("channels", [1, 3])
def test_real_faces_with_gaps_have_a_template_instead_of_maps(tmp_path: Path, channels: int) -> None:
    expressions = [{"stimulus": f"s{i}", "expression": name} for i, name in enumerate(("sad", "sad", "happy"))]
    people = [{"stimulus": f"{person}{i}", "identity": person} for person in ("id1", "id2") for i in range(4)]
    labels = {
        Role.EXPRESSION: [row | {"split": "train"} for row in expressions],
        Role.IDENTITY: [row | {"split": "train"} for row in people],
        Role.PROBE: [NEUTRAL | {"session": "A"}],
    }
    faces = {role: make_real(tmp_path, role, rows, channels=channels) for role, rows in labels.items()}
    figure = make_sheet(faces, Data(**SMALL), BOX)
    assert read_titles(figure) == [
        "probe role (KDEF): people and expressions",
        "probe role (KDEF): five views and two sessions of F01",
        "expression role (FER2013): in the wild",
        "identity role (VoxCeleb1): in the wild, one person per row",
        "probe role (KDEF): region template",
    ]
    assert [read_axes(axes) is not None for axes in figure.axes[:7]] == [name == "neutral" for name in EXPRESSIONS]
    template, codes = make_region_template((33, 33), BOX)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == sorted(codes, key=codes.get)
    mean, over = [read_axes(axes) for axes in figure.axes if axes.images][-2:]
    np.testing.assert_array_equal(mean, faces[Role.PROBE].images(np.array([0]))[0])  # the only face
    grey = mean.astype(float) if channels == 1 else mean.mean(axis=2)
    np.testing.assert_array_equal(over, ((paint_regions(template, codes) + grey[..., None]) / 2).astype(np.uint8))


def test_region_maps_of_embedded_faces_beside_a_real_probe_have_a_legend(
    faces: dict[Role, FaceSet], tmp_path: Path
) -> None:
    figure = make_sheet(faces | {Role.PROBE: make_real(tmp_path, Role.PROBE, [NEUTRAL])}, Data(**SMALL), BOX)
    assert "Region maps" in read_titles(figure)
    assert len(figure.legends[0].get_texts()) == len(faces[Role.EXPRESSION].region_codes)


def test_show_writes_the_same_picture_every_time(faces: dict[Role, FaceSet], tmp_path: Path, project: Path) -> None:
    shutil.copytree(faces[Role.PROBE].directory.parent, tmp_path / "data")
    shutil.copy(project / "params.yaml", tmp_path)
    for name in ("one.png", "two.png"):
        stage.show(Paths(tmp_path), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
