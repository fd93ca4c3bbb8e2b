"""One thing about a stimulus is changed, everything else keeps its bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import ndimage

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.production import render
from facespec.data.embedded.stimuli import Stimuli, replace_expressions, replace_people
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, Role
from toys import draw_faces

N = 24
SKIN = ("outline", "brows", "eyes", "nose", "mouth", "marks", "ears")
PEOPLE = anatomy.draw_people(N, generator(77), male=np.ones(N, bool))


def draw_wild() -> Stimuli:
    return draw_faces(Role.EXPRESSION, expression=(20, 4))


def shift_expressions(stimuli: Stimuli) -> list[str]:
    return [EXPRESSIONS[(code + 3) % 7].value for code in stimuli.codes]


def test_a_changed_expression_changes_code_and_label_only() -> None:
    before = draw_wild()
    after = replace_expressions(before, shift_expressions(before))
    assert after.labels["expression"].tolist() == shift_expressions(before)
    assert after.labels.drop(columns="expression").equals(before.labels.drop(columns="expression"))
    np.testing.assert_array_equal(after.codes, (before.codes + 3) % 7)
    for name in ("people", "intensity", "form", "style", "idle", "scene", "keys"):
        assert getattr(after, name) is getattr(before, name)
    assert (after.units != before.units).any(1).all()
    same = replace_expressions(after, before.labels["expression"].tolist())
    assert same.digest() == before.digest() and same.labels.equals(before.labels)


def dilate(mask: np.ndarray) -> np.ndarray:
    """`mask` (n, H, W) and two pixels around: one of an edge that is partly covered, one more that blur reaches."""
    return np.array([ndimage.binary_dilation(image, np.ones((3, 3)), iterations=2) for image in mask])


def test_a_changed_expression_changes_pixels_of_the_face_only() -> None:
    """Background, hair, clothes, light and noise keep their bytes: two pixels from skin nothing differs."""
    before = draw_wild().take(range(N))
    before.people[:, [anatomy.COLUMN["beard"], anatomy.COLUMN["moustache"]]] = 0.0  # hair, but it moves with the jaw
    before.scene[:, scenes.COLUMNS.index("occluder")] = 0.0  # dark glasses are slightly transparent
    after = replace_expressions(before, shift_expressions(before))
    (images, regions), (other_images, other_regions) = (
        render(stimuli, range(N), size=48, channels=3) for stimuli in (before, after)
    )
    near_skin = dilate(np.isin([regions, other_regions], [REGIONS[name] for name in SKIN]).any(0))
    changed = (images != other_images).any(-1)
    assert not (changed & ~near_skin).any()
    assert (~near_skin).any((1, 2)).all()
    assert changed.any((1, 2)).all()


def test_a_changed_identity_changes_face_and_identity_label_only() -> None:
    before = draw_wild()
    after = replace_people(before, PEOPLE)
    np.testing.assert_array_equal(after.people, PEOPLE)
    assert set(after.labels["identity"]) == {""}
    assert after.labels.drop(columns="identity").equals(before.labels.drop(columns="identity"))
    for name in ("codes", "intensity", "form", "style", "idle", "scene", "keys"):
        assert getattr(after, name) is getattr(before, name)
    np.testing.assert_array_equal(after.units, before.units)


def test_a_changed_identity_does_not_change_the_background() -> None:
    before, regions = render(draw_wild(), range(N), size=48, channels=1)
    after, other_regions = render(replace_people(draw_wild(), PEOPLE), range(N), size=48, channels=1)
    background = ~dilate((regions != REGIONS["background"]) | (other_regions != REGIONS["background"]))
    np.testing.assert_array_equal(before[background], after[background])
    assert background.mean() > 0.05
    assert (before != after).any((1, 2)).all()


def test_take_keeps_rows_together_and_renumbers_labels() -> None:
    stimuli, rows = draw_wild(), [5, 2, 5]
    part = stimuli.take(rows)
    assert len(part) == 3
    assert part.labels.index.tolist() == [0, 1, 2]
    assert part.labels["stimulus"].tolist() == stimuli.labels["stimulus"].iloc[rows].tolist()
    for name in ("people", "codes", "intensity", "form", "style", "idle", "scene", "keys", "units"):
        np.testing.assert_array_equal(getattr(part, name), getattr(stimuli, name)[rows])


@pytest.mark.parametrize("name", ["people", "intensity", "form", "scene", "keys"])
def test_the_digest_depends_on_every_part(name: str) -> None:
    part = draw_wild().take(range(8))  # copies
    before = part.digest()
    getattr(part, name)[...] = getattr(part, name)[::-1].copy()
    assert part.digest() != before


def test_invalid_replacements_are_refused() -> None:
    stimuli = draw_wild()
    with pytest.raises(StudyError, match=r"^2 expressions for 24 stimuli; give one for each\.$"):
        replace_expressions(stimuli, ["happy", "sad"])
    with pytest.raises(StudyError, match=r"^unknown expression 'hapy': did you mean 'happy'\? Allowed: 'angry', "):
        replace_expressions(stimuli.take([0]), ["hapy"])
    expected = re.escape(f"shape (24, 3), expected (24, {len(anatomy.PARAMETERS)}): one row per stimulus.")
    with pytest.raises(StudyError, match=expected):
        replace_people(stimuli, np.zeros((N, 3)))
