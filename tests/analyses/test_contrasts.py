"""Contrasts of heatmaps: by hand, by scipy and normal theory; people without maps are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facespec.analyses.contrasts import COMPARISONS, contrast_maps, contrast_people, contrast_pixels
from facespec.study.maps import PersonMaps, upsample_maps
from facespec.study.seeds import generator
from facespec.study.tables import CONTRASTS
from facespec.study.vocabulary import PAIRS
from toys import make_person_maps

NAMES = ["first_trained_on", "first_tested_on", "second_trained_on", "second_tested_on"]
NUMBERS = ["difference", "low", "high", "statistic", "p", "effect"]


def contrast(maps: PersonMaps, *, permutations: int = 99, draws: int = 100, seed: int = 0) -> pd.DataFrame:
    return contrast_maps(maps, permutations=permutations, draws=draws, generator=generator(seed))


def select_rows(table: pd.DataFrame, comparison: int, style: str) -> pd.DataFrame:
    first, second = COMPARISONS[comparison]
    is_comparison = (table[NAMES] == [*first, *second]).all(axis=1)
    return table[is_comparison & (table["style"] == style)].reset_index(drop=True)


def blank(maps: PersonMaps, side: tuple[str, str], seed: int, people: object) -> PersonMaps:
    """The maps, of which those of some people are blank."""
    count = maps.count.copy()
    count[PAIRS.index(side), seed, people] = 0
    return replace(maps, count=count, total=maps.total * (count > 0)[..., None, None])


@pytest.fixture
def maps() -> PersonMaps:
    """Maps of 5 people and two seeds, of unequal numbers of images."""
    random = generator(1)
    return make_person_maps(random.random((6, 2, 5, 2, 3)), count=random.integers(1, 9, size=(6, 2, 5)), size=(7, 5))


def test_comparisons_are_of_the_joint_with_single_and_untrained_networks_and_of_two_tasks() -> None:
    assert [[str(word) for side in sides for word in side] for sides in COMPARISONS] == [
        ["joint", "expression", "expression", "expression"],
        ["joint", "identity", "identity", "identity"],
        ["joint", "expression", "joint", "identity"],
        ["joint", "expression", "untrained", "expression"],
        ["joint", "identity", "untrained", "identity"],
        ["untrained", "expression", "untrained", "identity"],
    ]


def test_the_table_has_a_row_per_cell_and_per_seed(maps: PersonMaps) -> None:
    table = contrast(maps)
    assert list(table.columns) == list(CONTRASTS.columns)
    assert set(table["source"]) == {"embedded faces"}
    assert len(table) == 6 * (2 * 3 + 2)
    for comparison in range(3):
        cells, pictures = select_rows(table, comparison, "sound"), select_rows(table, comparison, "published")
        assert cells["seed"].isna().all() and set(cells["n"]) == {5}
        assert cells[["row", "column"]].to_numpy().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
        assert pictures[["row", "column", "low", "high"]].isna().all(axis=None) and set(pictures["n"]) == {35}
        assert pictures["seed"].tolist() == [3, 5]
    assert (table["reason"] == "").all()
    assert "1.0" not in table.filter(["seed", "row", "column"]).to_csv()  # seeds, rows and columns stay integers


def test_people_by_hand() -> None:
    """Differences .1, .2, .6 and 0, 0, 0 and -.3, .0, .3: means over two seeds that differ by .1."""
    difference = np.array([[0.1, 0.2, 0.6], [0, 0, 0], [-0.3, 0, 0.3]]).T[:, None]  # people, 1, cells
    maps = np.full((6, 2, 3, 1, 3), 0.4)
    maps[PAIRS.index(COMPARISONS[0][0]), 0] += difference + 0.05 * (difference != 0)
    maps[PAIRS.index(COMPARISONS[0][0]), 1] += difference - 0.05 * (difference != 0)
    cells = select_rows(contrast(make_person_maps(maps)), 0, "sound")
    assert cells["difference"].tolist() == pytest.approx([0.3, 0, 0])
    sd = np.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2)
    assert cells["effect"].tolist() == pytest.approx([0.3 / sd, 0, 0])
    assert cells["statistic"].tolist() == pytest.approx([0.3 / sd * np.sqrt(3), 0, 0])
    assert cells["p"].tolist()[1:] == [1, 1]


def test_the_statistic_is_the_paired_t_of_people_with_seeds_averaged(maps: PersonMaps) -> None:
    means = {pair: (maps.total[i] / maps.count[i][..., None, None]).mean(axis=0) for i, pair in enumerate(PAIRS)}
    table = contrast(maps)
    for comparison, (first, second) in enumerate(COMPARISONS):
        cells = select_rows(table, comparison, "sound")
        t = stats.ttest_rel(means[first], means[second]).statistic.ravel()
        np.testing.assert_allclose(cells["statistic"], t, rtol=1e-9)
        np.testing.assert_allclose(cells["effect"], t / np.sqrt(5), rtol=1e-9)
        np.testing.assert_allclose(cells["difference"], (means[first] - means[second]).mean(axis=0).ravel(), rtol=1e-9)
        assert (cells["low"] < cells["difference"]).all() and (cells["difference"] < cells["high"]).all()
        np.testing.assert_allclose(cells["p"] * 100, (cells["p"] * 100).round())  # of 99 flips and the identity


def test_the_interval_over_many_people_agrees_with_normal_theory() -> None:
    maps = np.zeros((6, 1, 300, 1, 2))
    maps[3, 0, :, 0] = generator(3).random((300, 2))
    cells = select_rows(contrast(make_person_maps(maps), draws=4000, permutations=1), 1, "sound")
    half = 1.96 * maps[3, 0, :, 0].std(axis=0) / np.sqrt(300)
    np.testing.assert_allclose(cells["low"], cells["difference"] - half, atol=0.1 * half.max())
    np.testing.assert_allclose(cells["high"], cells["difference"] + half, atol=0.1 * half.max())


def test_the_interval_is_over_seeds_too() -> None:
    """Equal people, different seeds: a quarter of the draws takes the first seed twice, and a quarter the second."""
    maps = np.zeros((6, 2, 4, 1, 1))
    maps[3, 0], maps[3, 1] = 0.2, 0.6
    cells = select_rows(contrast(make_person_maps(maps)), 1, "sound")
    assert cells[["difference", "low", "high"]].loc[0].tolist() == pytest.approx([0.4, 0.2, 0.6])


def test_people_without_maps_are_left_out(maps: PersonMaps) -> None:
    """One person has no joint expression map for the second seed, and so is left out of two comparisons."""
    table = contrast(blank(maps, COMPARISONS[0][0], 1, 3))
    others = [0, 1, 2, 4]
    four = contrast(
        replace(maps, total=maps.total[:, :, others], count=maps.count[:, :, others], people=maps.people[:4])
    )
    for comparison, expected in ((0, four), (1, contrast(maps)), (2, four)):
        pd.testing.assert_frame_equal(
            select_rows(table, comparison, "sound"), select_rows(expected, comparison, "sound")
        )


def test_too_few_people_give_nan_and_a_reason_and_change_no_other_comparison(maps: PersonMaps) -> None:
    table = contrast(blank(maps, COMPARISONS[0][1], 0, slice(1, None)))
    cells = select_rows(table, 0, "sound")
    assert len(cells) == 6 and cells["column"].tolist() == [0, 1, 2, 0, 1, 2]
    assert cells[NUMBERS].isna().all(axis=None)
    assert set(cells["n"]) == {1}
    assert set(cells["reason"]) == {
        "1 of 5 people have maps that are not blank on both sides, for every seed; a test over people needs at least 2"
    }
    for comparison in (1, 2):
        pd.testing.assert_frame_equal(
            select_rows(table, comparison, "sound"), select_rows(contrast(maps), comparison, "sound")
        )


def test_each_comparison_has_its_own_stream_and_draws_do_not_shift_flips(maps: PersonMaps) -> None:
    table, again, more = contrast(maps), contrast(maps), contrast(maps, draws=150)
    pd.testing.assert_frame_equal(table, again)
    pd.testing.assert_series_equal(table["p"], more["p"])
    assert not table["low"].equals(more["low"])
    same = np.broadcast_to(maps.person_means()[:1], maps.total.shape).copy()
    same[2:] = 1 - same[:1]  # the first two comparisons have the same differences
    table = contrast(make_person_maps(same))
    one, other = select_rows(table, 0, "sound"), select_rows(table, 1, "sound")
    np.testing.assert_array_equal(one["statistic"], other["statistic"])
    assert not one["low"].equals(other["low"])


def test_pixels_by_hand() -> None:
    """Pixels of the first .1, .5, .9, of the second .2, .4, .3: the first is larger in 2 x 3 of 9 pairs."""
    maps = np.zeros((6, 1, 2, 1, 3))
    maps[2], maps[0] = [0.1, 0.5, 0.9], [0.2, 0.4, 0.3]
    (row,) = select_rows(contrast(make_person_maps(maps)), 0, "published").to_dict("records")
    assert row["statistic"] == 6
    assert row["effect"] == pytest.approx((6 - 3) / 9)
    assert row["difference"] == pytest.approx(0.5 - 0.3)
    assert row["p"] == pytest.approx(0.7)  # 14 of the 20 orders of two times three are as far from 4.5


def test_pixels_are_those_of_mean_maps_at_image_size(maps: PersonMaps) -> None:
    pixels = upsample_maps(maps.total.sum(axis=2) / maps.count.sum(axis=2)[..., None, None], maps.size).reshape(
        6, 2, -1
    )
    for comparison, sides in enumerate(COMPARISONS):
        table = select_rows(contrast(maps), comparison, "published")
        first, second = (pixels[PAIRS.index(side)] for side in sides)
        for seed in (0, 1):
            signs = np.sign(first[seed][:, None] - second[seed])
            assert table["effect"][seed] == pytest.approx(signs.mean())
            assert table["statistic"][seed] == pytest.approx((signs + 1).sum() / 2)
            assert table["difference"][seed] == pytest.approx(np.median(first[seed]) - np.median(second[seed]))
            assert table["p"][seed] == pytest.approx(stats.ranksums(first[seed], second[seed]).pvalue, rel=0.05)


@settings(max_examples=10)
@given(st.integers(0, 50))
def test_swapping_the_sides_flips_the_signs(seed: int) -> None:
    maps = make_person_maps(generator(seed).random((6, 1, 2, 2, 3)), size=(7, 5))
    first, second = COMPARISONS[2]
    one, other = contrast_pixels(maps, (first, second)).loc[0], contrast_pixels(maps, (second, first)).loc[0]
    assert one["effect"] == pytest.approx(-other["effect"])
    assert one["difference"] == pytest.approx(-other["difference"])
    assert one["p"] == pytest.approx(other["p"])
    assert -1 <= one["effect"] <= 1


def test_p_of_pixels_decreases_with_the_size_of_the_image() -> None:
    """The effect stays the same, but there are more pixels."""
    maps = generator(2).random((6, 1, 3, 4, 4))
    small, large = (
        contrast_pixels(make_person_maps(maps, size=size), COMPARISONS[0]).loc[0] for size in ((12, 12), (60, 60))
    )
    assert small["effect"] == pytest.approx(large["effect"], abs=0.03)
    assert large["p"] < small["p"] ** 4


def test_equal_maps_do_not_differ() -> None:
    maps = make_person_maps(np.full((6, 1, 3, 2, 3), 0.5), size=(7, 5))
    (row,) = contrast_pixels(maps, COMPARISONS[0]).to_dict("records")
    assert (row["difference"], row["effect"], row["p"]) == (0, 0, 1)
    cells = contrast_people(maps, COMPARISONS[0], permutations=9, draws=9, generator=generator(1))
    assert set(cells["p"]) == {1} and set(cells["statistic"]) == {0}


def test_a_seed_with_blank_maps_only_has_no_numbers(maps: PersonMaps) -> None:
    table = contrast(blank(maps, COMPARISONS[1][1], 0, slice(None)))
    missing, present = select_rows(table, 1, "published").to_dict("records")
    assert missing["reason"] == "all maps of one side are blank" and present["reason"] == ""
    assert np.isnan([missing[name] for name in NUMBERS]).all()
    assert not np.isnan([present["statistic"], present["p"], present["effect"], present["difference"]]).any()
    for comparison in (0, 2):
        assert (select_rows(table, comparison, "published")["reason"] == "").all()
