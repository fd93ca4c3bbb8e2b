from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from facespec.analyses.contrasts import COMPARISONS, contrast_maps, contrast_people, contrast_pixels
from facespec.study.maps import PersonMaps, upsample_maps
from facespec.study.seeds import generator
from facespec.study.tables import CONTRASTS
from facespec.study.vocabulary import PAIRS

NAMES = ["first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"]
NUMBERS = ["difference", "low", "high", "statistic", "p", "effect"]


def people_of(maps: np.ndarray, *, count: np.ndarray | int = 1, size: tuple[int, int] | None = None) -> PersonMaps:
    """People whose mean maps are `maps` (pairs, seeds, people, h, w), as large as the image unless `size` is given."""
    count = np.broadcast_to(count, maps.shape[:3]).astype(np.int64)
    seeds, people = maps.shape[1:3]
    names = tuple(f"AF{p:02}" for p in range(people))
    return PersonMaps(
        maps * count[..., None, None],
        count,
        tuple(range(3, 3 + 2 * seeds, 2)),
        names,
        size or maps.shape[3:],
        "embedded faces",
    )


def table(maps: PersonMaps, *, permutations: int = 99, draws: int = 100, seed: int = 0) -> pd.DataFrame:
    return contrast_maps(maps, permutations=permutations, draws=draws, generator=generator(seed))


def rows(found: pd.DataFrame, comparison: int, style: str) -> pd.DataFrame:
    (first, second) = COMPARISONS[comparison]
    named = (found[NAMES] == [*first, *second]).all(axis=1)
    return found[named & (found["style"] == style)].reset_index(drop=True)


@pytest.fixture
def maps() -> PersonMaps:
    """Maps of 5 people and two seeds, of unequal numbers of images."""
    draw = generator(1)
    return people_of(draw.random((4, 2, 5, 2, 3)), count=draw.integers(1, 9, size=(4, 2, 5)), size=(7, 5))


def test_comparisons() -> None:
    """The joint network with each single one on its own task, and its tasks with each other."""
    assert [[str(word) for side in sides for word in side] for sides in COMPARISONS] == [
        ["joint", "expression", "expression", "expression"],
        ["joint", "identity", "identity", "identity"],
        ["joint", "expression", "joint", "identity"],
    ]


def test_rows(maps: PersonMaps) -> None:
    found = table(maps)
    assert list(found.columns) == list(CONTRASTS.columns)
    assert set(found["source"]) == {"embedded faces"}
    assert len(found) == 3 * (2 * 3 + 2)
    for comparison in range(3):
        cells, pictures = rows(found, comparison, "sound"), rows(found, comparison, "published")
        assert cells["seed"].isna().all() and set(cells["n"]) == {5}
        assert cells[["row", "column"]].to_numpy().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
        assert pictures[["row", "column", "low", "high"]].isna().all(axis=None) and set(pictures["n"]) == {35}
        assert pictures["seed"].tolist() == [3, 5]
    assert (found["reason"] == "").all()
    assert "1.0" not in found.filter(["seed", "row", "column"]).to_csv()  # seeds and places stay whole numbers


# --- sound


def test_sound_by_hand() -> None:
    """Differences .1, .2, .6 and 0, 0, 0 and -.3, .0, .3: means over two seeds, .1 apart."""
    difference = np.array([[0.1, 0.2, 0.6], [0, 0, 0], [-0.3, 0, 0.3]]).T[:, None]  # people, 1, cells
    maps = np.full((4, 2, 3, 1, 3), 0.4)
    maps[PAIRS.index(COMPARISONS[0][0]), 0] += difference + 0.05 * (difference != 0)
    maps[PAIRS.index(COMPARISONS[0][0]), 1] += difference - 0.05 * (difference != 0)
    cells = rows(table(people_of(maps)), 0, "sound")
    assert cells["difference"].tolist() == pytest.approx([0.3, 0, 0])
    sd = np.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2)
    assert cells["effect"].tolist() == pytest.approx([0.3 / sd, 0, 0])
    assert cells["statistic"].tolist() == pytest.approx([0.3 / sd * np.sqrt(3), 0, 0])
    assert cells["p"].tolist()[1:] == [1, 1]


def test_sound_is_the_paired_t_of_people_and_seeds_are_averaged(maps: PersonMaps) -> None:
    means = {pair: (maps.total[i] / maps.count[i][..., None, None]).mean(axis=0) for i, pair in enumerate(PAIRS)}
    found = table(maps)
    for comparison, (first, second) in enumerate(COMPARISONS):
        cells = rows(found, comparison, "sound")
        t = stats.ttest_rel(means[first], means[second]).statistic.ravel()
        np.testing.assert_allclose(cells["statistic"], t, rtol=1e-9)
        np.testing.assert_allclose(cells["effect"], t / np.sqrt(5), rtol=1e-9)
        np.testing.assert_allclose(cells["difference"], (means[first] - means[second]).mean(axis=0).ravel(), rtol=1e-9)
        assert (cells["low"] < cells["difference"]).all() and (cells["difference"] < cells["high"]).all()
        np.testing.assert_allclose(cells["p"] * 100, (cells["p"] * 100).round())  # of 99 flips and the identity


def test_interval_over_many_people_is_normal_theorys() -> None:
    maps = np.zeros((4, 1, 300, 1, 2))
    maps[3, 0, :, 0] = generator(3).random((300, 2))
    cells = rows(table(people_of(maps), draws=4000, permutations=1), 1, "sound")
    half = 1.96 * maps[3, 0, :, 0].std(axis=0) / np.sqrt(300)
    np.testing.assert_allclose(cells["low"], cells["difference"] - half, atol=0.1 * half.max())
    np.testing.assert_allclose(cells["high"], cells["difference"] + half, atol=0.1 * half.max())


def test_interval_spans_the_seeds() -> None:
    """All people alike, seeds apart: a quarter of the draws takes the first seed twice, and a quarter the second."""
    maps = np.zeros((4, 2, 4, 1, 1))
    maps[3, 0], maps[3, 1] = 0.2, 0.6
    cells = rows(table(people_of(maps)), 1, "sound")
    assert cells[["difference", "low", "high"]].loc[0].tolist() == pytest.approx([0.4, 0.2, 0.6])


def test_people_without_maps_are_left_out(maps: PersonMaps) -> None:
    """One person has no joint expression map for the second seed: two comparisons do without that person."""
    count = maps.count.copy()
    count[PAIRS.index(COMPARISONS[0][0]), 1, 3] = 0
    total = maps.total * (count > 0)[..., None, None]
    partial = PersonMaps(total, count, maps.seeds, maps.people, maps.size, maps.source)
    kept = [0, 1, 2, 4]
    others = PersonMaps(
        maps.total[:, :, kept], maps.count[:, :, kept], maps.seeds, maps.people[:4], maps.size, maps.source
    )
    found, without, everybody = table(partial), table(others), table(maps)
    for comparison, expected in ((0, without), (1, everybody), (2, without)):
        pd.testing.assert_frame_equal(rows(found, comparison, "sound"), rows(expected, comparison, "sound"))


def test_too_few_people_are_an_answer_and_shift_nothing(maps: PersonMaps) -> None:
    count = maps.count.copy()
    count[PAIRS.index(COMPARISONS[0][1]), 0, 1:] = 0
    total = maps.total * (count > 0)[..., None, None]
    found = table(PersonMaps(total, count, maps.seeds, maps.people, maps.size, maps.source))
    cells = rows(found, 0, "sound")
    assert len(cells) == 6 and cells["column"].tolist() == [0, 1, 2, 0, 1, 2]
    assert cells[NUMBERS].isna().all(axis=None)
    assert set(cells["n"]) == {1}
    assert set(cells["reason"]) == {
        "1 of 5 people have maps that are not blank on both sides, for every seed; a test over people needs at least 2"
    }
    for comparison in (1, 2):
        pd.testing.assert_frame_equal(rows(found, comparison, "sound"), rows(table(maps), comparison, "sound"))


def test_comparisons_have_their_own_streams_and_draws_do_not_shift_flips(maps: PersonMaps) -> None:
    found, again, more = table(maps), table(maps), table(maps, draws=150)
    pd.testing.assert_frame_equal(found, again)
    pd.testing.assert_series_equal(found["p"], more["p"])
    assert not found["low"].equals(more["low"])
    same = np.broadcast_to(maps.person_means()[:1], maps.total.shape).copy()
    same[2:] = 1 - same[:1]  # the first two comparisons have the same differences
    found = table(people_of(same))
    one, other = rows(found, 0, "sound"), rows(found, 1, "sound")
    np.testing.assert_array_equal(one["statistic"], other["statistic"])
    assert not one["low"].equals(other["low"])


# --- published


def test_published_by_hand() -> None:
    """Pixels of the first .1, .5, .9, of the second .2, .4, .3: the first wins in 2 x 3 of 9 pairs."""
    maps = np.zeros((4, 1, 2, 1, 3))
    maps[2], maps[0] = [0.1, 0.5, 0.9], [0.2, 0.4, 0.3]
    (row,) = rows(table(people_of(maps)), 0, "published").to_dict("records")
    assert row["statistic"] == 6
    assert row["effect"] == pytest.approx((6 - 3) / 9)
    assert row["difference"] == pytest.approx(0.5 - 0.3)
    assert row["p"] == pytest.approx(0.7)  # 14 of the 20 orders of two times three are as far from 4.5


def test_published_is_about_the_pixels_of_mean_maps(maps: PersonMaps) -> None:
    pixels = upsample_maps(maps.total.sum(axis=2) / maps.count.sum(axis=2)[..., None, None], maps.size).reshape(
        4, 2, -1
    )
    for comparison, sides in enumerate(COMPARISONS):
        found = rows(table(maps), comparison, "published")
        first, second = (pixels[PAIRS.index(side)] for side in sides)
        for seed in (0, 1):
            wins = np.sign(first[seed][:, None] - second[seed])
            assert found["effect"][seed] == pytest.approx(wins.mean())
            assert found["statistic"][seed] == pytest.approx((wins + 1).sum() / 2)
            assert found["difference"][seed] == pytest.approx(np.median(first[seed]) - np.median(second[seed]))
            assert found["p"][seed] == pytest.approx(stats.ranksums(first[seed], second[seed]).pvalue, rel=0.05)


@given(st.integers(0, 50))
def test_published_turns_round_with_its_sides(seed: int) -> None:
    maps = people_of(generator(seed).random((4, 1, 2, 2, 3)), size=(7, 5))
    first, second = COMPARISONS[2]
    one, other = contrast_pixels(maps, (first, second)).loc[0], contrast_pixels(maps, (second, first)).loc[0]
    assert one["effect"] == pytest.approx(-other["effect"])
    assert one["difference"] == pytest.approx(-other["difference"])
    assert one["p"] == pytest.approx(other["p"])
    assert -1 <= one["effect"] <= 1


def test_published_p_shrinks_with_the_size_maps_are_drawn_at() -> None:
    """The pictures, and the effect, stay the same: what p counts is pixels."""
    maps = generator(2).random((4, 1, 3, 4, 4))
    small, large = (contrast_pixels(people_of(maps, size=size), COMPARISONS[0]).loc[0] for size in ((12, 12), (60, 60)))
    assert small["effect"] == pytest.approx(large["effect"], abs=0.03)
    assert large["p"] < small["p"] ** 4


def test_equal_maps_are_not_called_different() -> None:
    maps = people_of(np.full((4, 1, 3, 2, 3), 0.5), size=(7, 5))
    (row,) = contrast_pixels(maps, COMPARISONS[0]).to_dict("records")
    assert (row["difference"], row["effect"], row["p"]) == (0, 0, 1)
    cells = contrast_people(maps, COMPARISONS[0], permutations=9, draws=9, generator=generator(1))
    assert set(cells["p"]) == {1} and set(cells["statistic"]) == {0}


def test_published_without_maps(maps: PersonMaps) -> None:
    count = maps.count.copy()
    count[PAIRS.index(COMPARISONS[1][1]), 0] = 0
    total = maps.total * (count > 0)[..., None, None]
    found = table(PersonMaps(total, count, maps.seeds, maps.people, maps.size, maps.source))
    missing, there = rows(found, 1, "published").to_dict("records")
    assert missing["reason"] == "all maps of one side are blank" and there["reason"] == ""
    assert np.isnan([missing[name] for name in NUMBERS]).all()
    assert not np.isnan([there["statistic"], there["p"], there["effect"], there["difference"]]).any()
    for comparison in (0, 2):
        assert (rows(found, comparison, "published")["reason"] == "").all()
