"""Which faces does the contact sheet show? Chosen from the labels alone: equal data give an equal sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from facespec.analyses.regions import make_region_template
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import replace_expressions, replace_people
from facespec.data.faceset import FaceSet
from facespec.figures.faces import Grid, draw_contact_sheet, paint_difference, paint_regions
from facespec.study.params import Data, FaceBox
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, VIEWS, Expression, Role, View

PEOPLE, COLUMNS = 8, len(EXPRESSIONS)
BATCH = 256  # images that are averaged at a time
Cell = np.ndarray | None


def make_sheet(faces: Mapping[Role, FaceSet], block: Data, template: FaceBox) -> Figure:
    """Draw the contact sheet of all three roles.

    `block` holds the parameters of embedded faces, `template` the box of the template that stands for region maps.
    """
    probe, expression = faces[Role.PROBE], faces[Role.EXPRESSION]
    people = _choose_people(probe, PEOPLE)
    first_column = [_show_people(probe, people), *_show_counterfactuals(probe, block, people)]
    second_column = [
        _show_views(probe, people[0]),
        _show_expressions(expression),
        _show_identities(faces[Role.IDENTITY]),
        *_show_regions(probe, expression, people[0]),
        *_show_template(probe, template),
    ]
    codes = probe.region_codes or expression.region_codes or make_region_template((1, 1), template)[1]
    return draw_contact_sheet([first_column, second_column], regions=codes)


def _choose_people(faces: FaceSet, most: int) -> list[str]:
    """At most `most` of the people, evenly spread over their names."""
    names = sorted(set(faces.labels["identity"]) - {""})
    positions = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[position] for position in positions]


def _find_rows(faces: FaceSet, **labels: str) -> np.ndarray:
    return np.flatnonzero((faces.labels[list(labels)] == list(labels.values())).all(axis=1))


def _read_first(faces: FaceSet, **labels: str) -> Cell:
    rows = _find_rows(faces, **labels)
    return faces.images(rows[:1])[0] if len(rows) else None


def _make_grid(
    faces: FaceSet,
    title: str,
    images: Sequence[Sequence[Cell]],
    columns: Sequence[str],
    rows: Sequence[str] = (),
    *,
    names: Sequence[str] = (),
) -> Grid:
    """A grid of images of `faces`; `names` replace each ``{}`` of `title`."""
    return Grid(f"{{}} role ({{}}): {title}", images, columns, rows, names=(str(faces.role), faces.source, *names))


def _show_people(probe: FaceSet, people: Sequence[str]) -> Grid:
    images = [
        [_read_first(probe, identity=person, expression=name, view=View.STRAIGHT) for name in EXPRESSIONS]
        for person in people
    ]
    return _make_grid(probe, "people and expressions", images, EXPRESSIONS, people)


def _show_views(probe: FaceSet, person: str) -> Grid:
    neutral = {"identity": person, "expression": Expression.NEUTRAL.value}
    images = [[_read_first(probe, **neutral, session=session, view=view) for view in VIEWS] for session in SESSIONS]
    columns = [view.replace("_", " ") for view in VIEWS]
    rows = [f"session {session}" for session in SESSIONS]
    return _make_grid(probe, "five views and two sessions of {}", images, columns, rows, names=[person])


def _show_expressions(faces: FaceSet) -> Grid:
    columns = [[*faces.images(_find_rows(faces, expression=name)[:2]), None, None][:2] for name in EXPRESSIONS]
    return _make_grid(faces, "in the wild", list(zip(*columns, strict=True)), EXPRESSIONS)


def _show_identities(faces: FaceSet) -> Grid:
    people = _choose_people(faces, 2)
    images = [list(faces.images(_find_rows(faces, identity=person)[:COLUMNS])) for person in people]
    return _make_grid(faces, "in the wild, one person per row", images, (), people)


def _show_regions(probe: FaceSet, wild: FaceSet, person: str) -> list[Grid]:
    """Faces above their region maps; no grid for real faces, which have none."""
    happy = {"identity": person, "expression": Expression.HAPPY.value}
    choices = [(probe, _find_rows(probe, **happy, view=view)[:1]) for view in VIEWS]
    choices += [(wild, np.array([row])) for row in range(COLUMNS - len(VIEWS))]
    choices = [(faces, row) for faces, row in choices if faces.region_codes and len(row)]
    if not choices:
        return []
    images = [faces.images(row)[0] for faces, row in choices]
    maps = [paint_regions(faces.regions(row)[0], faces.region_codes) for faces, row in choices]
    return [Grid("Region maps", [images, maps], (), ["face", "regions"])]


def _show_template(probe: FaceSet, template: FaceBox) -> list[Grid]:
    """The mean of the frontal faces, and the region template over it: what `regions` measures where it has no maps."""
    rows = _find_rows(probe, view=View.STRAIGHT)
    if probe.region_codes or not len(rows):
        return []
    parts = np.array_split(rows, -(-len(rows) // BATCH))
    mean = sum(probe.images(part).sum(axis=0, dtype=np.float64) for part in parts) / len(rows)
    grey = mean if mean.ndim == 2 else mean.mean(axis=2)
    painted = (paint_regions(*make_region_template(grey.shape, template)) + grey[..., None]) / 2
    images = [mean.astype(np.uint8), painted.astype(np.uint8)]
    return [_make_grid(probe, "region template", [images], ["mean face", "template over it"])]


def _show_counterfactuals(probe: FaceSet, block: Data, people: Sequence[str]) -> list[Grid]:
    """A neutral face; only its expression, then only its identity changed. Only embedded faces can be rendered so."""
    if probe.source != production.SOURCE or len(people) < 2:
        return []
    stimuli = draw_role(Role.PROBE, block, generator(block.seed, "faces", Role.PROBE.value))
    if not stimuli.labels.equals(probe.labels):
        return []  # params.yaml has changed since these faces were made
    labels = {"expression": Expression.NEUTRAL.value, "view": View.STRAIGHT.value}
    face, other = (stimuli.take(_find_rows(probe, identity=people[i], **labels)[:1]) for i in (0, -1))
    changes = {
        "only happy": replace_expressions(face, [Expression.HAPPY]),
        "only surprise": replace_expressions(face, [Expression.SURPRISE]),
        "only identity": replace_people(face, other.people),
    }
    neutral, *pictures = (
        production.render(stimulus, [0], size=probe.height, channels=probe.channels)[0][0]
        for stimulus in (face, *changes.values())
    )
    images, names = [neutral], ["neutral"]
    for name, picture in zip(changes, pictures, strict=True):
        images += [picture, paint_difference(picture, neutral)]
        names += [name, "difference"]
    return [Grid("One face with one thing changed", [images], names)]
