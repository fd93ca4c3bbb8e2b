"""Scores of heatmaps: by hand, by scikit-learn, at their bounds, and as laws; means of people with loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from facespec.analyses.groundtruth import (
    CANDIDATES,
    find_changed_pixels,
    make_centre_map,
    score_heatmaps,
    tabulate_scores,
    tabulate_unscored,
)
from facespec.analyses.resampling import estimate_interval
from facespec.study.maps import upsample_maps
from facespec.study.vocabulary import PAIRS

# 3x5 px, six of them true
TRUE = np.array([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]], bool)


def score_one(maps: np.ndarray, truth: np.ndarray = TRUE) -> np.ndarray:
    """The three scores of one map against one truth."""
    return score_heatmaps(np.asarray(maps)[None], truth[None, None])[0, 0]


def test_the_pixels_that_change_most_over_all_pictures() -> None:
    images = np.array([[[100, 0, 255, 9]]], np.uint8)
    others = np.array([[[[108, 255, 0, 9]], [[92, 0, 255, 9]], [[107, 0, 252, 9]]]], np.uint8)  # sums 23, 255, 258, 0
    assert find_changed_pixels(images, others, share=0.25).tolist() == [[[False, False, True, False]]]
    assert find_changed_pixels(images, others, share=0.01).tolist() == [[[False, False, True, False]]]  # at least one
    assert find_changed_pixels(images, others, share=0.5).tolist() == [[[False, True, True, False]]]
    changed = find_changed_pixels(images, others, share=0.99)
    assert changed.tolist() == [[[True, True, True, False]]]  # equal pixels are not true


def test_each_image_has_a_threshold_and_ties_are_true() -> None:
    images = np.full((2, 1, 4), 50, np.uint8)
    others = images[:, None] + np.array([[[[0, 1, 2, 3]]], [[[90, 70, 90, 80]]]], np.uint8)
    assert find_changed_pixels(images, others, share=0.25).tolist() == [
        [[False, False, False, True]],
        [[True, False, True, False]],
    ]


def test_colours_are_averaged_and_equal_pictures_have_no_truth() -> None:
    images = np.zeros((2, 1, 2, 3), np.uint8)
    others = np.zeros((2, 5, 1, 2, 3), np.uint8)
    others[1, :, 0, 0], others[1, :, 0, 1] = (40, 0, 0), (20, 10, 11)
    assert find_changed_pixels(images, others, share=0.5).tolist() == [[[False, False]], [[False, True]]]


def test_a_map_that_is_the_truth_scores_one_and_its_opposite_nothing() -> None:
    np.testing.assert_array_equal(score_one(TRUE.astype(float)), [1, 1, 1])
    np.testing.assert_array_equal(score_one(~TRUE * 3.0), [0, 0, 0])


def test_scores_by_hand() -> None:
    maps = np.array([[4, 4, 0, 0, 0], [0, 1, 0, 0, 0], [4, 0, 3, 0, 0]], float)
    # maximum: three pixels, one true; mass 4 + 1 + 3 of 16; of the 6 x 9 pairs of a true and a false pixel: 4 equals
    # two false ones and exceeds seven, 1 and 3 exceed seven each, three zeros equal seven
    np.testing.assert_allclose(score_one(maps), [1 / 3, 8 / 16, (7 + 1 + 7 + 7 + 3 * 3.5) / 54], rtol=1e-12)


def test_every_map_is_scored_against_every_truth() -> None:
    maps = np.stack([TRUE, ~TRUE, TRUE]).astype(float)
    truths = np.stack([np.stack([TRUE, ~TRUE]), np.stack([TRUE, ~TRUE]), np.stack([~TRUE, TRUE])])
    expected = [[1, 0], [0, 1], [0, 1]]
    np.testing.assert_array_equal(score_heatmaps(maps, truths), np.repeat(np.array(expected)[..., None], 3, axis=2))


@pytest.mark.parametrize("cells", [(3, 4), (7, 11)])
def test_areas_under_the_curve_are_those_of_scikit_learn(cells: tuple[int, int]) -> None:
    random = np.random.default_rng(9)
    maps = random.random((6, *cells))
    if cells == (7, 11):  # as large as the image, so that ties stay exact
        maps = np.floor(maps * 4)
    truths = random.random((6, 2, 7, 11)) < 0.3
    result = score_heatmaps(maps, truths)
    for i, j in np.ndindex(6, 2):
        pixels = upsample_maps(maps[i], (7, 11))
        assert result[i, j, 2] == pytest.approx(roc_auc_score(truths[i, j].ravel(), pixels.ravel()), abs=1e-12)
        assert result[i, j, 1] == pytest.approx(pixels[truths[i, j]].sum() / pixels.sum(), rel=1e-12)


def test_a_map_without_mass_has_no_scores_and_changes_no_other() -> None:
    result = score_heatmaps(np.stack([np.zeros((2, 3)), np.ones((2, 3))]), np.stack([TRUE[None]] * 2))
    assert np.isnan(result[0]).all() and not np.isnan(result[1]).any()


@pytest.mark.parametrize(("truth", "score"), [(np.zeros_like(TRUE), 0), (np.ones_like(TRUE), 1)])
def test_an_empty_or_full_truth_has_no_curve(truth: np.ndarray, score: int) -> None:
    result = score_one(np.random.default_rng(1).random((3, 5)), truth)
    np.testing.assert_array_equal(result, [score, score, np.nan])


@pytest.mark.parametrize("level", [1.0, 0.1, 3e-8])
def test_a_constant_map_scores_chance(level: float) -> None:
    """Pixels of an upsampled constant map differ in their last bits, but count as ties."""
    truth = np.random.default_rng(2).random((13, 29)) < 0.4
    np.testing.assert_allclose(score_one(np.full((5, 6), level), truth), [truth.mean(), truth.mean(), 0.5], rtol=1e-9)


def test_random_maps_score_chance_on_average() -> None:
    """Chance is one half for the curve and the true share of the picture for the others; 400 maps err by a few %."""
    random = np.random.default_rng(3)
    truths = np.broadcast_to(np.arange(18) < 5, (400, 1, 16, 18))
    pointing, mass, auc = score_heatmaps(random.random((400, 4, 5)), truths)[:, 0].mean(axis=0)
    assert pointing == pytest.approx(5 / 18, abs=0.07)  # 3 standard errors
    assert mass == pytest.approx(5 / 18, abs=0.02)
    assert auc == pytest.approx(0.5, abs=0.03)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_scores_do_not_depend_on_scale_and_are_within_their_bounds(seed: int, factor: float) -> None:
    random = np.random.default_rng(seed)
    maps = random.random((2, 3, 4)) * (random.random((2, 3, 4)) < 0.5) + 0.1 * np.eye(3, 4)
    truths = random.random((2, 2, 7, 5)) < random.random()
    result = score_heatmaps(maps, truths)
    np.testing.assert_allclose(score_heatmaps(maps * factor, truths), result, rtol=1e-9, atol=1e-12)
    assert ((result >= 0) & (result <= 1) | np.isnan(result)).all()
    # scores against the opposite truth are complementary
    np.testing.assert_allclose(score_heatmaps(maps, ~truths), 1 - result, atol=1e-12)


def test_the_centre_map_is_a_gaussian_of_the_image_width() -> None:
    result = make_centre_map((7, 21), spread=0.25)
    assert result.shape == (7, 21) and np.unravel_index(result.argmax(), result.shape) == (3, 10)
    np.testing.assert_array_equal(result, result[::-1, ::-1])
    offsets = np.array([0, 3, 10])
    np.testing.assert_allclose(result[3, 10 + offsets], np.exp(-0.5 * (offsets / 5.25) ** 2), rtol=1e-12)
    np.testing.assert_allclose(result[6, 10], np.exp(-0.5 * (3 / 5.25) ** 2), rtol=1e-12)
    even = make_centre_map((4, 6), spread=0.3)  # the centre lies between pixels
    assert (even == even.max()).nonzero()[0].tolist() == [1, 1, 2, 2]


PEOPLE = pd.Series(["b", "a", "b", "c", "a"])
AREAS = np.array([[0.1, 0.5], [0.2, 0.5], [0.3, 0.5], [0.6, 0.5], [0.4, 0.5]])


def draw_scores() -> np.ndarray:
    """(5 images, 2 seeds, 6 candidates, 2 truths, 3 measures)."""
    return np.random.default_rng(8).random((5, 2, 6, 2, 3))


def tabulate(scores: np.ndarray, *, draws: int = 120, seed: int = 4) -> pd.DataFrame:
    stream = np.random.default_rng(seed)
    return tabulate_scores(scores, AREAS, people=PEOPLE, source="toy faces", draws=draws, generator=stream)


def find_row(
    table: pd.DataFrame,
    looks: str,
    tested_on: str,
    *,
    truth: str = "identity",
    measure: str = "mass",
    against: str = "",
) -> pd.Series:
    key = {"looks": looks, "tested_on": tested_on, "truth": truth, "measure": measure, "against": against}
    return table[(table[list(key)] == list(key.values())).all(axis=1)].squeeze(axis=0)


def test_every_combination_has_one_row() -> None:
    table = tabulate(draw_scores())
    keys = ["looks", "tested_on", "truth", "measure", "against"]
    assert len(table) == (4 * 3 + 2) * 2 * 3 and not table.duplicated(keys).any()
    assert set(table["against"][table["looks"].isin(["random", "centre"])]) == {""}
    assert (table["seeds"] == 2).all() and set(table["source"]) == {"toy faces"} and (table["reason"] == "").all()
    assert [(looks, task) for looks, task in CANDIDATES[:4]] == [(network.value, task.value) for network, task in PAIRS]


def test_images_are_averaged_within_people_first() -> None:
    """By hand: the one image of c counts as much as the two of a."""
    scores = np.zeros((5, 1, 6, 2, 3))
    scores[:, 0, 3, 0, 1] = [0.1, 0.4, 0.3, 0.9, 0.6]
    row = find_row(tabulate(scores), "joint", "identity", truth="expression")
    assert row["number"] == pytest.approx((0.5 + 0.2 + 0.9) / 3, rel=1e-12)
    assert row["area"] == pytest.approx((0.3 + 0.2 + 0.6) / 3, rel=1e-12)
    assert (row["people"], row["n"], row["blank"]) == (3, 5, 0)
    assert find_row(tabulate(scores), "centre", "")["area"] == 0.5


def average_slowly(scores: np.ndarray, candidate: int, truth: int, measure: int) -> np.ndarray:
    """Means of people, (seeds, people a b c)."""
    means = np.full((2, 3), np.nan)
    for seed in range(2):
        for index, person in enumerate("abc"):
            values = [scores[i, seed, candidate, truth, measure] for i in range(5) if PEOPLE[i] == person]
            values = [score for score in values if not np.isnan(score)]
            if values:
                means[seed, index] = sum(values) / len(values)
    return means


def test_numbers_and_intervals_are_over_seeds_and_people() -> None:
    scores = draw_scores()
    scores[3, 1, 2] = np.nan  # c has no map of the second seed
    table = tabulate(scores)
    for candidate, (looks, tested_on) in enumerate(CANDIDATES):
        for against, base in (("", None), ("random", 4), ("centre", 5)):
            if against and candidate > 3:
                continue
            for truth, task in enumerate(("expression", "identity")):
                for measure, name in enumerate(("pointing", "mass", "auc")):
                    values = average_slowly(scores, candidate, truth, measure)
                    values = values if base is None else values - average_slowly(scores, base, truth, measure)
                    expected = estimate_interval(values, draws=120, generator=np.random.default_rng(4))
                    row = find_row(table, looks, tested_on, truth=task, measure=name, against=against)
                    np.testing.assert_allclose(row[["number", "low", "high"]].astype(float), expected, rtol=1e-9)
                    assert row["low"] < row["number"] < row["high"]


def test_differences_to_baselines_are_paired() -> None:
    scores = draw_scores() / 2
    scores[:, :, 0] = scores[:, :, 4] + 0.25
    row = find_row(tabulate(scores), "expression", "expression", against="random")
    np.testing.assert_allclose(row[["number", "low", "high"]].astype(float), 0.25, rtol=1e-9)


def test_blank_maps_and_full_truths_are_counted() -> None:
    scores = draw_scores()
    scores[[0, 2], :, 3] = np.nan  # all maps of b are blank
    scores[1, 0, 3] = np.nan
    scores[3, :, :, 1, 2] = np.nan  # the identity truth of c is the whole image
    table = tabulate(scores)
    mass = find_row(table, "joint", "identity")
    assert (mass["people"], mass["n"], mass["blank"]) == (2, 3, 5)
    auc = find_row(table, "joint", "identity", measure="auc", against="centre")
    assert (auc["people"], auc["n"], auc["blank"]) == (1, 2, 5)
    other = find_row(table, "joint", "expression", measure="auc")
    assert (other["people"], other["n"], other["blank"]) == (2, 4, 0)


def test_missing_numbers_have_a_reason() -> None:
    scores = draw_scores()
    scores[:, :, 1] = np.nan
    scores[..., 0, 2] = np.nan
    table = tabulate(scores)
    nothing = table[table["reason"] == "no heatmap has any mass"]
    assert set(nothing["looks"]) == {"identity"} and len(nothing) == 3 * 2 * 3 and set(nothing["blank"]) == {10}
    flat = table[table["reason"] == "in no image are some pixels true and others not"]
    assert set(flat["truth"]) == {"expression"} and set(flat["measure"]) == {"auc"} and len(flat) == 3 * 3 + 2
    assert table["number"].isna().eq(table["reason"] != "").all() and table["low"].isna().equals(table["high"].isna())
    assert set(table["n"][table["number"].isna()]) == set(table["people"][table["number"].isna()]) == {0}


def test_without_a_truth_the_same_rows_have_a_reason() -> None:
    table = tabulate_unscored(source="KDEF", seeds=3, reason="these are photographs")
    keys = ["looks", "tested_on", "truth", "measure", "against"]
    pd.testing.assert_frame_equal(table[keys], tabulate(draw_scores())[keys])
    assert table[["area", "number", "low", "high"]].isna().all(axis=None)
    assert set(table["reason"]) == {"these are photographs"} and set(table["source"]) == {"KDEF"}
    assert (table[["people", "n", "blank"]] == 0).all(axis=None) and (table["seeds"] == 3).all()
