"""A notebook draws faces with given expressions, in which only the expression differs within a person."""

from __future__ import annotations

import numpy as np
import pytest

from facespec.data.embedded.anatomy import CAP, COLUMN
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.faces import draw_stimuli, render_stimuli
from facespec.data.embedded.production import iterate_chunks
from facespec.data.embedded.roles import draw_studio
from facespec.data.embedded.stimuli import replace_expressions, replace_people
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, Expression, View


def test_people_and_expressions_as_requested() -> None:
    stimuli = draw_stimuli(3, ["happy", Expression.SAD], generator=generator(1))
    LABELS.check(stimuli.labels)
    assert stimuli.labels[["stimulus", "identity", "expression"]].to_numpy().tolist() == [
        [f"{person}-{expression}", person, expression]
        for person in ("F01", "F02", "M01")
        for expression in ("happy", "sad")
    ]
    assert (stimuli.labels[["split", "view", "session"]] == ["probe", "straight", "A"]).all(axis=None)
    assert [EXPRESSIONS[code].value for code in stimuli.codes] == stimuli.labels["expression"].tolist()
    assert len(draw_stimuli(1, generator=generator(1))) == 7
    assert draw_stimuli(2, generator=generator(1)).digest() == draw_stimuli(2, generator=generator(1)).digest()
    assert draw_stimuli(2, generator=generator(1)).digest() != draw_stimuli(2, generator=generator(2)).digest()


def test_people_and_scenes_are_drawn_as_for_the_probe() -> None:
    neutral, straight, session = [Expression.NEUTRAL], [View.STRAIGHT], SESSIONS[:1]
    probe = draw_studio(4, generator(1), sessions=session, expressions=neutral, views=straight)
    stimuli = draw_stimuli(4, ["neutral"], generator=generator(1))
    assert stimuli.digest() == probe.digest()
    assert stimuli.labels.drop(columns="stimulus").equals(probe.labels.drop(columns="stimulus"))


def test_hair_is_shown_or_under_a_cap_of_the_same_people() -> None:
    capped, bare = (draw_stimuli(3, ["happy"], generator=generator(1), hair=hair) for hair in ("cap", "own"))
    assert (capped.people[:, COLUMN["cap"]] == 1).all() and not bare.people[:, COLUMN["cap"]].any()
    same = [index for name, index in COLUMN.items() if name not in CAP]
    np.testing.assert_array_equal(capped.people[:, same], bare.people[:, same])
    np.testing.assert_array_equal(capped.units, bare.units)


def test_only_the_expression_differs_within_a_person() -> None:
    stimuli = draw_stimuli(2, ["neutral", "happy", "fear"], generator=generator(1))
    for name in ("people", "intensity", "form", "style", "idle", "scene", "keys"):
        values = getattr(stimuli, name).reshape(2, 3, -1)
        np.testing.assert_array_equal(values, values[:, :1].repeat(3, axis=1))
        assert (values[0] != values[1]).any(), f"both people have the same {name}"


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_pipeline(channels: int) -> None:
    stimuli = draw_stimuli(2, ["happy", "sad"], generator=generator(1))
    images, regions = render_stimuli(stimuli, size=33, channels=channels)
    (chunk,) = iterate_chunks(stimuli, size=33, channels=channels, chunk=4, workers=1)
    np.testing.assert_array_equal(images, chunk.images, strict=True)
    np.testing.assert_array_equal(regions, chunk.regions, strict=True)
    assert render_stimuli(stimuli.take([0]))[0].shape == (1, 64, 64)


def test_one_thing_is_changed_in_the_image() -> None:
    neutral = draw_stimuli(2, ["neutral"], generator=generator(1))
    happy, swapped = replace_expressions(neutral, ["happy"] * 2), replace_people(neutral, neutral.people[::-1])
    (images, regions), (happy_images, _), (swapped_images, _) = map(render_stimuli, (neutral, happy, swapped))
    assert happy.people is neutral.people and swapped.codes is neutral.codes
    assert ((happy_images != images) & (regions == REGIONS["mouth"])).any((1, 2)).all()
    assert not ((happy_images != images) & np.isin(regions, [REGIONS["background"], REGIONS["clothes"]])).any()
    assert (swapped_images != images).any((1, 2)).all()


@pytest.mark.parametrize(
    ("n_people", "expressions", "fragment"),
    [
        (0, ["happy"], "^0 people with the expressions .'happy'.; give at least one person and one or more different"),
        (2, [], "^2 people with the expressions ..; give at least"),
        (2, ["sad", "sad"], "^2 people with the expressions .'sad', 'sad'.; give at least"),
        (2, ["hapy"], "^unknown expression 'hapy': did you mean 'happy'"),
    ],
)
def test_invalid_requests_are_refused(n_people: int, expressions: list[str], fragment: str) -> None:
    with pytest.raises(StudyError, match=fragment):
        draw_stimuli(n_people, expressions, generator=generator(1))
