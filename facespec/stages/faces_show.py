"""Which faces the contact sheet shows: chosen from the labels alone, so that the same data give the same sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import replace_expressions, replace_people
from facespec.data.faceset import FaceSet
from facespec.figures.faces import Grid, draw_contact_sheet, paint_difference, paint_regions
from facespec.study.params import Data
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, VIEWS, Expression, Role, View

PEOPLE, ACROSS = 8, len(EXPRESSIONS)
Cell = np.ndarray | None


def make_sheet(faces: Mapping[Role, FaceSet], block: Data) -> Figure:
    """The contact sheet of all three roles; `block` is what embedded faces were made from."""
    probe = faces[Role.PROBE]
    people = _people_of(probe, PEOPLE)
    right = [_views(probe, people[0]), _expressions(faces[Role.EXPRESSION]), _identities(faces[Role.IDENTITY])]
    right += _regions(probe, faces[Role.EXPRESSION], people[0])
    left = [_people(probe, people), *_counterfactuals(probe, block, people)]
    return draw_contact_sheet([left, right], regions=probe.region_codes or faces[Role.EXPRESSION].region_codes)


def _people_of(faces: FaceSet, most: int) -> list[str]:
    """At most so many of the people, evenly spread over their names."""
    names = sorted(set(faces.labels["identity"]) - {""})
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[place] for place in places]


def _rows(faces: FaceSet, **wanted: str) -> np.ndarray:
    fits = np.ones(len(faces), bool)
    for column, value in wanted.items():
        fits &= (faces.labels[column] == value).to_numpy()
    return np.flatnonzero(fits)


def _first(faces: FaceSet, **wanted: str) -> Cell:
    found = _rows(faces, **wanted)
    return faces.images(found[:1])[0] if len(found) else None


def _grid(
    faces: FaceSet,
    words: str,
    images: Sequence[Sequence[Cell]],
    columns: Sequence[str],
    rows: Sequence[str] = (),
    *,
    names: Sequence[str] = (),
) -> Grid:
    """Images of `faces`; `names` are written into the ``{}`` of `words`."""
    return Grid(f"{{}} role ({{}}): {words}", images, columns, rows, names=(str(faces.role), faces.source, *names))


def _people(probe: FaceSet, people: Sequence[str]) -> Grid:
    images = [
        [_first(probe, identity=who, expression=face, view=View.STRAIGHT) for face in EXPRESSIONS] for who in people
    ]
    return _grid(probe, "people and expressions", images, EXPRESSIONS, people)


def _views(probe: FaceSet, who: str) -> Grid:
    neutral = {"identity": who, "expression": Expression.NEUTRAL.value}
    images = [[_first(probe, **neutral, session=session, view=view) for view in VIEWS] for session in SESSIONS]
    rows = [f"session {session}" for session in SESSIONS]
    columns = [_words(view) for view in VIEWS]
    return _grid(probe, "five views and two sessions of {}", images, columns, rows, names=[who])


def _expressions(faces: FaceSet) -> Grid:
    images: list[list[Cell]] = [[], []]
    for name in EXPRESSIONS:
        found = _rows(faces, expression=name)[:2]
        shown = [*faces.images(found), None, None]
        for row, image in zip(images, shown, strict=False):
            row.append(image)
    return _grid(faces, "in the wild", images, EXPRESSIONS)


def _identities(faces: FaceSet) -> Grid:
    people = _people_of(faces, 2)
    images = [list(faces.images(_rows(faces, identity=who)[:ACROSS])) for who in people]
    return _grid(faces, "in the wild, one person per row", images, (), people)


def _regions(probe: FaceSet, wild: FaceSet, who: str) -> list[Grid]:
    """Faces above their region maps; nothing for real faces, which have none."""
    chosen = [(probe, _rows(probe, identity=who, expression=Expression.HAPPY, view=view)[:1]) for view in VIEWS]
    chosen += [(wild, np.array([index])) for index in range(ACROSS - len(VIEWS))]
    chosen = [(faces, row) for faces, row in chosen if faces.region_codes and len(row)]
    if not chosen:
        return []
    images = [faces.images(row)[0] for faces, row in chosen]
    maps = [paint_regions(faces.regions(row)[0], faces.region_codes) for faces, row in chosen]
    return [Grid("Region maps", [images, maps], (), ["face", "regions"])]


def _counterfactuals(probe: FaceSet, block: Data, people: Sequence[str]) -> list[Grid]:
    """A neutral face; only its expression, then only its identity changed. Only embedded faces can be rendered so."""
    if probe.source != production.SOURCE or len(people) < 2:
        return []
    stimuli = draw_role(Role.PROBE, block, generator(block.seed, "faces", Role.PROBE.value))
    if not stimuli.labels.equals(probe.labels):
        return []  # params.yaml has changed since these faces were made
    wanted = {"expression": Expression.NEUTRAL.value, "view": View.STRAIGHT.value}
    rows = [_rows(probe, identity=who, **wanted)[0] for who in (people[0], people[-1])]
    own, other = stimuli.take(rows[:1]), stimuli.take(rows[1:])
    changed = {
        "only happy": replace_expressions(own, [Expression.HAPPY]),
        "only surprise": replace_expressions(own, [Expression.SURPRISE]),
        "only identity": replace_people(own, other.people),
    }
    neutral, *pictures = (
        production.render(one, [0], size=probe.height, channels=probe.channels)[0][0]
        for one in (own, *changed.values())
    )
    images, names = [neutral], ["neutral"]
    for name, picture in zip(changed, pictures, strict=True):
        images += [picture, paint_difference(picture, neutral)]
        names += [name, "difference"]
    return [Grid("One face with one thing changed", [images], names)]


def _words(name: str) -> str:
    return name.replace("_", " ")
