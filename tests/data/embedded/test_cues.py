"""A swapped cue changes its own parameters and no others, and comes from a possible donor."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.cues import (
    COMBINED_CUES,
    PERSON_CUES,
    SCENE_CUES,
    SESSION,
    draw_donors,
    find_rows,
    list_parameters,
    swap_cue,
)
from facespec.data.embedded.production import render
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.errors import StudyError
from facespec.study.seeds import generator
from facespec.study.vocabulary import Role
from toys import draw_faces

CUES = (*PERSON_CUES, *COMBINED_CUES, *SCENE_CUES)


def draw_probe() -> Stimuli:
    return draw_faces(Role.PROBE, probe=4)


@pytest.mark.parametrize(
    ("cues", "parameters"), [(PERSON_CUES, anatomy.PARAMETERS), (SCENE_CUES, scenes.COLUMNS)], ids=["person", "scene"]
)
def test_every_parameter_is_in_exactly_one_cue(cues: dict[str, tuple[str, ...]], parameters: tuple[str, ...]) -> None:
    counts = Counter(name for names in cues.values() for name in names)
    assert not (missing := set(parameters) - set(counts)), f"add {missing} to a cue in data/embedded/cues.py"
    assert not (unknown := set(counts) - set(parameters)), f"remove {unknown} from data/embedded/cues.py"
    assert set(counts.values()) == {1}, f"in two cues: {[name for name, count in counts.items() if count > 1]}"


@given(st.sampled_from(CUES), st.integers(0, 2**32))
def test_a_swap_changes_the_parameters_of_its_cue_alone(cue: str, seed: int) -> None:
    faces, random = draw_probe(), np.random.Generator(np.random.PCG64(seed))
    rows, donors = random.integers(len(faces), size=(2, 7))
    before, donor = faces.take(rows), faces.take(donors)
    after = swap_cue(before, cue, donor)
    names = set(list_parameters(cue))
    for columns, part in ((anatomy.PARAMETERS, "people"), (scenes.COLUMNS, "scene")):
        for column, name in enumerate(columns):
            expected = donor if name in names else before
            np.testing.assert_array_equal(getattr(after, part)[:, column], getattr(expected, part)[:, column])
    assert after.labels is before.labels
    for part in ("codes", "intensity", "form", "style", "idle", "keys"):
        assert getattr(after, part) is getattr(before, part)
    same = swap_cue(before, cue, before)  # its own cue changes nothing
    assert same.digest() == before.digest()


def test_cues_together_are_the_whole_person_and_the_inner_features() -> None:
    assert set(list_parameters("everything")) == set(anatomy.PARAMETERS)
    inner = set(list_parameters("inner"))
    assert inner == {name for cue in ("brows", "eyes", "nose", "mouth") for name in list_parameters(cue)}
    assert not inner & set(list_parameters("hair")) and len(list_parameters("hair")) >= 10


def test_the_other_session_brings_looks_and_scene_but_no_expression() -> None:
    faces = draw_probe()
    after = swap_cue(faces.take([0, 1]), SESSION, faces.take([70, 3]))
    np.testing.assert_array_equal(after.people, faces.people[[70, 3]])
    own = [scenes.COLUMNS.index(name) for name in ("uneven_brow", "uneven_mouth")]  # of the expression
    np.testing.assert_array_equal(after.scene[:, own], faces.scene[[0, 1]][:, own])
    rest = np.setdiff1d(np.arange(len(scenes.COLUMNS)), own)
    np.testing.assert_array_equal(after.scene[:, rest], faces.scene[[70, 3]][:, rest])
    np.testing.assert_array_equal(after.units, faces.units[[0, 1]])


def test_swapped_features_are_seen_where_they_are() -> None:
    faces = draw_probe()
    frontal = faces.labels[(faces.labels["view"] == "straight") & (faces.labels["expression"] == "neutral")]
    before = faces.take(frontal.drop_duplicates("identity").index.to_numpy())
    pictures, regions = render(before, range(4), size=64, channels=1)
    changes = {}
    for cue in ("mouth", "hair"):
        changed, _ = render(swap_cue(before, cue, before.take([1, 0, 3, 2])), range(4), size=64, channels=1)
        changes[cue] = np.abs(changed.astype(int) - pictures)
    mouth, hair = (regions == REGIONS[name] for name in ("mouth", "hair"))
    assert changes["mouth"][mouth].mean() > 20 * changes["mouth"][hair].mean()
    assert not changes["hair"].any(), "all wear the same cap"


def test_donors_are_others_of_the_same_sex_and_all_equally_likely() -> None:
    identities = pd.Series(["F01", "F02", "F03", "M01", "M02"] * 400)
    donors = draw_donors(identities, identities, generator(3, "donors"))
    pairs = pd.crosstab(identities.to_numpy(), donors)
    expected = {("F01", "F02"), ("F01", "F03"), ("F02", "F01"), ("F02", "F03"), ("F03", "F01"), ("F03", "F02")}
    expected |= {("M01", "M02"), ("M02", "M01")}
    assert {(owner, donor) for owner in pairs.index for donor in pairs if pairs.loc[owner, donor]} == expected
    assert pairs.loc["F01", "F02"] == pytest.approx(200, abs=4 * np.sqrt(400 / 4))  # 4 sd of a binomial


def test_the_only_man_gets_a_womans_cue_and_a_lonely_person_is_refused() -> None:
    one = pd.Series(["M01"])
    assert draw_donors(one, ["F01", "M01"], generator(3)).tolist() == ["F01"]
    with pytest.raises(StudyError, match=r"nobody can donate a cue to 'M01'"):
        draw_donors(one, ["M01", "M01"], generator(3))


def test_donor_rows_are_labelled_like_the_images() -> None:
    faces = draw_probe()
    rows = np.arange(len(faces))
    people = draw_donors(faces.labels["identity"], faces.labels["identity"], generator(4))
    for other_session in (False, True):
        found = faces.labels.iloc[find_rows(faces.labels, rows, people, other_session=other_session)]
        assert found["identity"].tolist() == people.tolist()
        for column in ("view", "expression"):
            assert found[column].tolist() == faces.labels[column].tolist()
        same = found["session"].to_numpy() == faces.labels["session"].to_numpy()
        assert (same != other_session).all()


def test_where_no_row_is_alike_the_donors_first_is_taken() -> None:
    columns = ["identity", "session", "view", "expression"]
    labels = pd.DataFrame([["F01", "A", "straight", "sad"], ["F02", "", "", "happy"], ["F02", "", "", "sad"]])
    labels.columns = pd.Index(columns)
    donors = np.array(["F02", "F01", "F02"])
    assert find_rows(labels, np.array([0, 1, 2]), donors, other_session=True).tolist() == [1, 0, 2]
    with pytest.raises(StudyError, match=r"no image shows 'M09'"):
        find_rows(labels, np.array([0]), np.array(["M09"]), other_session=False)


def test_wrong_swaps_are_refused() -> None:
    faces = draw_probe()
    with pytest.raises(StudyError, match=r"unknown cue 'brow'.*brows"):
        swap_cue(faces.take([0]), "brow", faces.take([1]))
    with pytest.raises(StudyError, match=r"2 donors for 1 stimuli"):
        swap_cue(faces.take([0]), "brows", faces.take([1, 2]))
