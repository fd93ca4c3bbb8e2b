"""The three roles: how many images of how many people, with which expressions, in which split."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facespec.data.embedded import anatomy, scenes
from facespec.data.embedded.anatomy import CAP, COLUMN, PARAMETERS
from facespec.data.embedded.roles import compute_quotas, draw_role
from facespec.data.embedded.stimuli import Stimuli
from facespec.study.seeds import generator
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS, ROLES, SESSIONS, VIEWS, Role
from toys import FACE, draw_faces, make_faces_block

# FER2013's training split, counted in its CSV: 28,709 pictures
FER2013 = MappingProxyType(
    {"angry": 3995, "disgust": 436, "fear": 4097, "happy": 7215, "sad": 4830, "surprise": 3171, "neutral": 4965}
)


def draw(role: Role, **sizes: Any) -> Stimuli:
    return draw_faces(role, **{"seed": 5, "expression": (60, 30), "identity": (9, 4, 3), "probe": 70} | sizes)


def count(stimuli: Stimuli, column: str, split: str | None = None) -> dict[str, int]:
    labels = stimuli.labels
    return dict((labels if split is None else labels[labels["split"] == split])[column].value_counts())


def test_quotas_of_all_of_fer2013_are_its_counts() -> None:
    assert dict(zip(map(str, EXPRESSIONS), compute_quotas(28709).tolist(), strict=True)) == dict(FER2013)


def test_quotas_of_8000_by_hand() -> None:
    # shares, angry to surprise: 1113.24 121.49 1141.66 2010.52 1383.54 1345.92 883.63; four largest remainders round up
    assert compute_quotas(8000).tolist() == [1113, 121, 1142, 2010, 1384, 1346, 884]


@given(st.integers(0, 30000))
def test_quotas_sum_to_n_and_differ_from_their_share_by_less_than_one(n: int) -> None:
    quotas = compute_quotas(n)
    assert quotas.sum() == n
    assert n < 7 or quotas.min() >= 1
    exact = np.array([FER2013[name] * n / 28709 for name in map(str, EXPRESSIONS)])
    # disgust's share of 66 is the first whole one: below, it gets more than its share
    assert np.abs(quotas - exact).max() < 1 + 1e-9 or 7 <= n < 66


@pytest.mark.parametrize("role", ROLES)
def test_every_stimulus_has_valid_labels_a_unique_name_and_unique_noise(role: Role) -> None:
    stimuli = draw(role)
    n = len(stimuli)
    LABELS.check(stimuli.labels)
    assert stimuli.role is role
    assert stimuli.labels["stimulus"].nunique() == len(stimuli.labels) == n
    assert len(np.unique(stimuli.keys)) == n
    assert stimuli.people.shape == (n, len(anatomy.PARAMETERS))
    assert stimuli.scene.shape == (n, len(scenes.COLUMNS))
    assert stimuli.style.shape == stimuli.idle.shape == stimuli.units.shape == (n, 16)
    assert [EXPRESSIONS[code].value for code in stimuli.codes] == stimuli.labels["expression"].tolist()


@pytest.mark.parametrize("role", ROLES)
def test_a_name_of_a_person_is_one_face(role: Role) -> None:
    stimuli = draw(role)
    of_face: dict[bytes, set[str]] = {}
    of_name: dict[str, set[bytes]] = {}
    for name, row in zip(stimuli.labels["identity"], stimuli.people[:, FACE], strict=True):
        face = row.tobytes()
        of_face.setdefault(face, set()).add(name)
        of_name.setdefault(name, set()).add(face)
    assert {len(names) for names in of_face.values()} == {len(faces) for faces in of_name.values()} == {1}


@pytest.mark.parametrize("role", ROLES)
def test_the_same_stream_draws_the_same_stimuli(role: Role) -> None:
    block = make_faces_block(seed=5, expression=(60, 30), identity=(9, 4, 3), probe=70)
    assert draw_role(role, block, generator(5, "faces", role.value)).digest() == draw(role).digest()
    assert draw(role, seed=6).digest() != draw(role).digest()


def test_expression_counts_are_skewed_like_fer2013_in_both_splits() -> None:
    stimuli = draw(Role.EXPRESSION, expression=(700, 300))
    for split, n in (("train", 700), ("test", 300)):
        assert count(stimuli, "expression", split) == {
            str(name): k for name, k in zip(EXPRESSIONS, compute_quotas(n).tolist(), strict=True)
        }


@settings(max_examples=10)
@example(1, 1)
@given(st.integers(1, 80), st.integers(1, 80))
def test_nobody_in_the_expression_test_set_was_trained_on(train: int, test: int) -> None:
    stimuli = draw(Role.EXPRESSION, expression=(train, test))
    assert (count(stimuli, "split").get("train"), count(stimuli, "split").get("test")) == (train, test)
    train_people, test_people = (set(count(stimuli, "identity", split)) for split in ("train", "test"))
    assert not train_people & test_people
    splits = [stimuli.labels["split"] == split for split in ("train", "test")]
    faces = [{row.tobytes() for row in stimuli.people[split][:, FACE]} for split in splits]
    assert not faces[0] & faces[1]


def test_the_expression_role_has_many_people() -> None:
    people = count(draw(Role.EXPRESSION, expression=(2000, 200)), "identity")
    assert len(people) > 800
    assert max(people.values()) < 12


def test_identity_counts_per_person() -> None:
    stimuli = draw(Role.IDENTITY)
    assert len(stimuli) == 9 * 7
    assert count(stimuli, "identity", "train") == {f"p{i:04d}": 4 for i in range(9)}
    assert count(stimuli, "identity", "test") == {f"p{i:04d}": 3 for i in range(9)}
    assert count(draw(Role.IDENTITY, identity=(60, 4, 3)), "expression") == {
        str(name): k for name, k in zip(EXPRESSIONS, compute_quotas(420).tolist(), strict=True)
    }


def test_the_probe_is_laid_out_like_kdef() -> None:
    stimuli = draw(Role.PROBE)
    labels = stimuli.labels
    assert len(labels) == 70 * 7 * 5 * 2 == 4900
    assert set(labels["split"]) == {"probe"}
    assert len(labels.groupby(["identity", "expression", "view", "session"])) == 4900
    assert set(labels["view"]) == {view.value for view in VIEWS}
    assert set(labels["session"]) == set(SESSIONS)
    assert set(count(stimuli, "identity").values()) == {70}
    assert sorted(set(labels["identity"])) == sorted(f"{sex}{i:02d}" for sex in "FM" for i in range(1, 36))


def test_probe_names_contain_their_labels() -> None:
    labels = draw(Role.PROBE, probe=4).labels
    names = labels["session"] + labels["identity"] + "-" + labels["expression"] + "-" + labels["view"]
    assert labels["stimulus"].tolist() == names.tolist()
    assert names.str.fullmatch(r"[AB][FM]\d\d-\w+-\w+").all()


def test_probe_men_may_have_beards_and_women_have_none() -> None:
    stimuli = draw(Role.PROBE)
    bearded = stimuli.people[:, COLUMN["beard"]] > 0
    men = stimuli.labels["identity"].str.startswith("M").to_numpy()
    assert not bearded[~men].any()
    assert 0.15 < bearded[men].mean() < 0.6


def test_in_the_wild_nobody_has_the_same_hair_twice() -> None:
    stimuli = draw(Role.IDENTITY)
    hair = stimuli.people[:, [COLUMN["hair_volume"], COLUMN["hair_tone"]]]
    for name in set(stimuli.labels["identity"]):
        assert len(np.unique(hair[stimuli.labels["identity"] == name], axis=0)) == 7


def test_probe_hair_is_under_a_cap_or_one_s_own_of_the_session() -> None:
    capped, bare = draw(Role.PROBE, probe=4), draw(Role.PROBE, probe=4, hair="own")
    for name, value in CAP.items():
        assert set(capped.people[:, COLUMN[name]]) == {value}
    assert not bare.people[:, COLUMN["cap"]].any()
    same = [index for index, name in enumerate(PARAMETERS) if name not in CAP]
    np.testing.assert_array_equal(capped.people[:, same], bare.people[:, same])
    days = bare.labels["identity"] + bare.labels["session"]
    assert len({row.tobytes() for row in bare.people}) == days.nunique() == 8


def test_an_expression_is_photographed_from_all_views_at_once() -> None:
    stimuli = draw(Role.PROBE, probe=4)
    for name in ("intensity", "form", "style"):
        values = getattr(stimuli, name).reshape(4 * 2 * 7, 5, -1)
        np.testing.assert_array_equal(values, values[:, :1].repeat(5, axis=1))
        assert len(np.unique(values[:, 0], axis=0)) == 4 * 2 * 7, name


def test_the_two_training_roles_come_from_two_domains() -> None:
    """And the domain is a parameter: both roles may have the same one."""

    def measure_yaw(role: Role, **scenes_of: str) -> float:
        scene = draw(role, expression=(900, 30), identity=(9, 90, 10), **scenes_of).scene
        return float(np.ptp(scene[:, scenes.COLUMNS.index("yaw_s")]))

    assert measure_yaw(Role.IDENTITY) > 1.1 * measure_yaw(Role.EXPRESSION)
    assert measure_yaw(Role.EXPRESSION, expression_scenes="video") > 1.1 * measure_yaw(Role.EXPRESSION)


def test_posed_expressions_are_stronger_than_wild_ones() -> None:
    posed, wild = draw(Role.PROBE).intensity, draw(Role.EXPRESSION, expression=(900, 30)).intensity
    assert posed.min() >= 0.60
    assert 0.50 <= wild.min() < 0.52
    assert max(posed.max(), wild.max()) <= 1.0
    assert draw(Role.PROBE).idle.max() < 0.32


@pytest.mark.parametrize(("people", "names"), [(2, ["F01", "M01"]), (3, ["F01", "F02", "M01"])])
def test_smaller_probes(people: int, names: list[str]) -> None:
    stimuli = draw(Role.PROBE, probe=people)
    assert len(stimuli) == people * 70
    assert list(dict.fromkeys(stimuli.labels["identity"])) == names


@pytest.mark.parametrize("role", ROLES)
def test_no_person_of_one_role_appears_in_another(role: Role) -> None:
    faces = {other: {row.tobytes() for row in draw(other).people[:, FACE]} for other in ROLES}
    assert not any(faces[role] & faces[other] for other in ROLES if other is not role)
