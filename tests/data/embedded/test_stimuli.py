"""Counterfactuals: one thing changes, everything else stays to the bit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.production import render
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli, replace_expressions, replace_people
from facespec.study.errors import StudyError
from facespec.study.params import Data, ExpressionFaces, IdentityFaces, ProbeFaces
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, Role

SKIN = ("outline", "brows", "eyes", "nose", "mouth", "marks", "ears")


@cache
def wild() -> Stimuli:
    block = Data(
        seed=2,
        size=48,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(source="embedded", train=20, test=4),
        identity=IdentityFaces(source="embedded", people=2, train=1, test=1),
        probe=ProbeFaces(source="embedded", people=2),
    )
    return draw_role(Role.EXPRESSION, block, generator(2, "faces"))


def other_expressions(stimuli: Stimuli) -> list[str]:
    return [EXPRESSIONS[(code + 3) % 7].value for code in stimuli.codes]


def test_a_changed_expression_changes_code_and_label_only() -> None:
    before = wild()
    after = replace_expressions(before, other_expressions(before))
    assert after.labels["expression"].tolist() == other_expressions(before)
    assert after.labels.drop(columns="expression").equals(before.labels.drop(columns="expression"))
    np.testing.assert_array_equal(after.codes, (before.codes + 3) % 7)
    for part in ("people", "intensity", "style", "idle", "scene", "keys"):
        assert getattr(after, part) is getattr(before, part)
    assert (after.units != before.units).any(1).all()


def test_the_same_expression_gives_the_same_pictures() -> None:
    same = replace_expressions(wild(), wild().labels["expression"].tolist())
    found, expected = (render(stimuli, range(6), size=32, channels=1) for stimuli in (same, wild()))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def near(mask: np.ndarray) -> np.ndarray:
    """`mask` (n, H, W) and two pixels around: one of an edge that is partly covered, one more that blur reaches."""
    return np.array([ndimage.binary_dilation(one, np.ones((3, 3)), iterations=2) for one in mask])


def test_a_changed_expression_changes_pixels_of_the_face_only() -> None:
    """Background, hair, clothes, light and noise stay to the bit: two pixels from skin nothing differs."""
    before = wild().take(range(len(wild())))
    before.people[:, [anatomy.COLUMN["beard"], anatomy.COLUMN["moustache"]]] = 0.0  # hair, but it moves with the jaw
    before.scene[:, scenes.COLUMNS.index("occluder")] = 0.0  # dark glasses let a little through
    pictures, regions = [], []
    for stimuli in (before, replace_expressions(before, other_expressions(before))):
        images, region = render(stimuli, range(len(before)), size=48, channels=3)
        pictures.append(images)
        regions.append(region)
    skin = np.isin(regions, [REGIONS[name] for name in SKIN]).any(0)
    changed = (pictures[0] != pictures[1]).any(-1)
    assert not (changed & ~near(skin)).any()
    assert (~near(skin)).any((1, 2)).all()
    assert changed.any((1, 2)).all()


def test_a_changed_identity_changes_face_and_identity_label_only() -> None:
    before = wild()
    people = anatomy.draw_people(len(before), generator(77), male=np.ones(len(before), bool))
    after = replace_people(before, people)
    np.testing.assert_array_equal(after.people, people)
    assert set(after.labels["identity"]) == {""}
    assert after.labels.drop(columns="identity").equals(before.labels.drop(columns="identity"))
    for part in ("codes", "intensity", "style", "idle", "scene", "keys"):
        assert getattr(after, part) is getattr(before, part)
    np.testing.assert_array_equal(after.units, before.units)


def test_a_changed_identity_leaves_the_background_to_the_bit() -> None:
    people = anatomy.draw_people(len(wild()), generator(77), male=np.ones(len(wild()), bool))
    everyone = range(len(wild()))
    before, regions_before = render(wild(), everyone, size=48, channels=1)
    after, regions_after = render(replace_people(wild(), people), everyone, size=48, channels=1)
    behind = REGIONS["background"]
    far = ~near((regions_before != behind) | (regions_after != behind))
    np.testing.assert_array_equal(before[far], after[far])
    assert far.mean() > 0.05
    assert (before != after).any((1, 2)).all()


def test_take_keeps_rows_together_and_renumbers_labels() -> None:
    part = wild().take([5, 2, 5])
    assert len(part) == 3
    assert part.labels.index.tolist() == [0, 1, 2]
    assert part.labels["stimulus"].tolist() == wild().labels["stimulus"].iloc[[5, 2, 5]].tolist()
    for name in ("people", "codes", "intensity", "style", "idle", "scene", "keys", "units"):
        np.testing.assert_array_equal(getattr(part, name), getattr(wild(), name)[[5, 2, 5]])


@pytest.mark.parametrize("name", ["people", "intensity", "scene", "keys"])
def test_the_digest_sees_every_part(name: str) -> None:
    part = wild().take(range(8))  # copies
    before = part.digest()
    getattr(part, name)[...] = getattr(part, name)[::-1].copy()
    assert part.digest() != before


def test_as_many_expressions_as_stimuli() -> None:
    with pytest.raises(StudyError) as caught:
        replace_expressions(wild(), ["happy", "sad"])
    assert str(caught.value) == "2 expressions for 24 stimuli; give one for each."


def test_an_unknown_expression_is_named() -> None:
    with pytest.raises(StudyError) as caught:
        replace_expressions(wild().take([0]), ["hapy"])
    assert str(caught.value) == (
        "unknown expression 'hapy': did you mean 'happy'? "
        "Allowed: 'angry', 'disgust', 'fear', 'happy', 'neutral', 'sad', 'surprise'."
    )


def test_people_of_the_wrong_shape() -> None:
    with pytest.raises(StudyError) as caught:
        replace_people(wild(), np.zeros((24, 3)))
    n = len(anatomy.PARAMETERS)
    assert str(caught.value) == f"identity parameters of shape (24, 3), expected (24, {n}): one row per stimulus."
