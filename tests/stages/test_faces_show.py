"""The contact sheet: which faces are chosen, and that each is shown under its own name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import FaceSet, write_faceset
from facespec.figures.faces import paint_regions
from facespec.stages import data as stage
from facespec.stages.faces_show import make_sheet
from facespec.study.params import Data
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, ROLES, VIEWS, Role

SMALL = {
    "seed": 11,
    "size": 32,
    "channels": 1,
    "tolerated": 0.01,
    "expression": {"source": "embedded", "train": 14, "test": 7},
    "identity": {"source": "embedded", "people": 3, "train": 7, "test": 1},
    "probe": {"source": "embedded", "people": 3},
}


def embedded(block: Data, root: Path) -> dict[Role, FaceSet]:
    made = {}
    for role in ROLES:
        stimuli = draw_role(role, block, generator(block.seed, "faces", role.value))
        chunks = production.iterate_chunks(stimuli, size=block.size, channels=block.channels, chunk=100, workers=1)
        made[role] = write_faceset(root / role.value, chunks, production.describe_stimuli(stimuli))
    return made


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, FaceSet]:
    return embedded(Data(**SMALL), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def drawn(faces: dict[Role, FaceSet]) -> Figure:
    return make_sheet(faces, Data(**SMALL))


def shown(axes: Axes) -> np.ndarray | None:
    return np.asarray(axes.images[0].get_array()) if axes.images else None


def stored(faces: FaceSet, **wanted: str) -> np.ndarray:
    (row, *_) = faces.labels.query(" and ".join(f"{name} == {value!r}" for name, value in wanted.items())).index
    return faces.images(np.array([row]))[0]


def test_grids_are_named_with_role_and_source(drawn: Figure) -> None:
    assert [text.get_text() for text in drawn.texts] == [
        "probe role (embedded faces): people and expressions",
        "One face with one thing changed",
        "probe role (embedded faces): five views and two sessions of F01",
        "expression role (embedded faces): in the wild",
        "identity role (embedded faces): in the wild, one person per row",
        "Region maps",
    ]


def test_every_person_shows_every_expression_under_its_name(drawn: Figure, faces: dict[Role, FaceSet]) -> None:
    people = ["F01", "F02", "M01"]
    for row, who in enumerate(people):
        for column, name in enumerate(EXPRESSIONS):
            axes = drawn.axes[row * 7 + column]
            wanted = stored(faces[Role.PROBE], identity=who, expression=name.value, view="straight", session="A")
            np.testing.assert_array_equal(shown(axes), wanted)
            assert axes.get_title() == (name.value if row == 0 else "")
        assert drawn.axes[row * 7].get_ylabel() == who


def test_one_thing_changes_and_the_rest_stays(drawn: Figure, faces: dict[Role, FaceSet]) -> None:
    row = drawn.axes[21:28]
    assert [axes.get_title() for axes in row] == [
        "neutral",
        "only happy",
        "difference",
        "only surprise",
        "difference",
        "only identity",
        "difference",
    ]
    neutral = shown(row[0])
    np.testing.assert_array_equal(
        neutral, stored(faces[Role.PROBE], identity="F01", expression="neutral", view="straight")
    )
    for picture, difference in ((1, 2), (3, 4), (5, 6)):
        unlike = shown(row[picture]).astype(int) - neutral
        np.testing.assert_array_equal(255 - shown(row[difference]).astype(int), np.abs(unlike))
        assert unlike.any()
    # hair is part of who one is, not of what one expresses
    assert (shown(row[2])[:6] > 240).all() and not (shown(row[6])[:6] > 240).all()


def test_views_expressions_people_and_regions(drawn: Figure, faces: dict[Role, FaceSet]) -> None:
    views, wild, people, regions = drawn.axes[28:38], drawn.axes[38:52], drawn.axes[52:66], drawn.axes[66:]
    assert [axes.get_title() for axes in views[:5]] == [
        "full left",
        "half left",
        "straight",
        "half right",
        "full right",
    ]
    assert [views[0].get_ylabel(), views[5].get_ylabel()] == ["session A", "session B"]
    for place, view in enumerate(VIEWS):
        for row, session in ((0, "A"), (5, "B")):
            wanted = stored(faces[Role.PROBE], identity="F01", expression="neutral", view=view.value, session=session)
            np.testing.assert_array_equal(shown(views[row + place]), wanted)
    for place, name in enumerate(EXPRESSIONS):
        assert wild[place].get_title() == name.value
        np.testing.assert_array_equal(shown(wild[place]), stored(faces[Role.EXPRESSION], expression=name.value))
    assert [people[0].get_ylabel(), people[7].get_ylabel()] == ["p0000", "p0002"]
    np.testing.assert_array_equal(shown(people[7]), stored(faces[Role.IDENTITY], identity="p0002"))
    assert len(regions) == 14
    codes = faces[Role.PROBE].region_codes
    for face, painted in zip(regions[:7], regions[7:], strict=True):
        owner = faces[Role.EXPRESSION if face in regions[5:7] else Role.PROBE]
        everything = owner.images(np.arange(len(owner)))
        (row,) = np.flatnonzero((everything == shown(face)).all(axis=(1, 2)))
        np.testing.assert_array_equal(shown(painted), paint_regions(owner.regions(np.array([row]))[0], codes))
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == sorted(codes, key=codes.get)


def test_a_rare_expression_leaves_places_empty(drawn: Figure, faces: dict[Role, FaceSet]) -> None:
    counts = faces[Role.EXPRESSION].labels["expression"].value_counts()
    for column, name in enumerate(EXPRESSIONS):
        assert (shown(drawn.axes[45 + column]) is None) == (counts[name.value] < 2)


def test_faces_of_other_parameters_are_not_rendered_again(faces: dict[Role, FaceSet]) -> None:
    changed = Data(**SMALL | {"probe": {"source": "embedded", "people": 4}})
    titles = [text.get_text() for text in make_sheet(faces, changed).texts]
    assert "One face with one thing changed" not in titles and len(titles) == 5


def real(directory: Path, role: Role, labels: list[dict[str, str]], *, channels: int) -> FaceSet:
    """Faces as an adapter leaves them: labels with gaps, no region maps."""
    table = pd.DataFrame([{"identity": "", "expression": "", "view": "", "session": "", **row} for row in labels])
    shape = (len(table), 33, 33, 3) if channels == 3 else (len(table), 33, 33)
    images = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    description = FaceSetDescription(
        role.value, 5, None, {"source": {"expression": "FER2013", "identity": "VoxCeleb1"}.get(role, "KDEF")}
    )
    return write_faceset(directory, [FaceChunk(images, table)], description)


@pytest.mark.parametrize("channels", [1, 3])
def test_real_faces_with_gaps_are_shown_without_maps(tmp_path: Path, channels: int) -> None:
    people = [{"stimulus": f"{who}{i}", "split": "train", "identity": who} for who in ("id1", "id2") for i in range(4)]
    made = {
        Role.EXPRESSION: real(
            tmp_path / "e",
            Role.EXPRESSION,
            [
                {"stimulus": f"s{i}", "split": "train", "expression": name}
                for i, name in enumerate(["sad", "sad", "happy"])
            ],
            channels=channels,
        ),
        Role.IDENTITY: real(tmp_path / "i", Role.IDENTITY, people, channels=channels),
        Role.PROBE: real(
            tmp_path / "p",
            Role.PROBE,
            [
                {
                    "stimulus": "AF01NES",
                    "split": "probe",
                    "identity": "F01",
                    "expression": "neutral",
                    "view": "straight",
                    "session": "A",
                }
            ],
            channels=channels,
        ),
    }
    figure = make_sheet(made, Data(**SMALL))
    assert [text.get_text() for text in figure.texts] == [
        "probe role (KDEF): people and expressions",
        "probe role (KDEF): five views and two sessions of F01",
        "expression role (FER2013): in the wild",
        "identity role (VoxCeleb1): in the wild, one person per row",
    ]
    assert [shown(axes) is not None for axes in figure.axes[:7]] == [name == "neutral" for name in EXPRESSIONS]
    assert not figure.legends


def test_show_writes_the_same_picture_every_time(faces: dict[Role, FaceSet], tmp_path: Path, project: Path) -> None:
    shutil.copytree(faces[Role.PROBE].directory.parent, tmp_path / "data")
    shutil.copy(project / "params.yaml", tmp_path)
    for name in ("one.png", "two.png"):
        stage.show(Paths(tmp_path), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_maps_of_embedded_faces_beside_a_real_probe_are_explained(faces: dict[Role, FaceSet], tmp_path: Path) -> None:
    label = {"stimulus": "AF01NES", "split": "probe", "identity": "F01", "expression": "neutral", "view": "straight"}
    figure = make_sheet(faces | {Role.PROBE: real(tmp_path / "p", Role.PROBE, [label], channels=1)}, Data(**SMALL))
    assert "Region maps" in [text.get_text() for text in figure.texts]
    assert len(figure.legends[0].get_texts()) == len(faces[Role.EXPRESSION].region_codes)
