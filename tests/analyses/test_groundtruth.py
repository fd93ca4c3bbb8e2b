"""Scores of heatmaps: by hand, by scikit-learn, at their bounds, and as laws; means of people with loops."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from facespec.analyses.groundtruth import (
    BASELINES,
    average_others,
    estimate_way,
    list_comparisons,
    make_centre_map,
    pool_masks,
    score_heatmaps,
    tabulate_scores,
    tabulate_unscored,
)
from facespec.analyses.resampling import estimate_interval
from facespec.study.maps import upsample_maps

# 3x5 px, six of them true
TRUE = np.array([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]], bool)


def score_one(maps: np.ndarray, truth: np.ndarray = TRUE) -> np.ndarray:
    """The three scores of one map against one truth."""
    return score_heatmaps(np.asarray(maps)[None], truth[None, None])[0, 0]


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


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.square, np.sqrt, np.expm1, lambda x: x / (2 - x)]))
def test_the_area_and_the_maximum_depend_on_the_order_of_pixels_only(seed: int, increase: object) -> None:
    random = np.random.default_rng(seed)
    maps = random.integers(0, 9, (2, 6, 7)) / 8.0  # with ties; steps that no rounding closes
    truths = random.random((2, 2, 6, 7)) < 0.4
    before, after = score_heatmaps(maps, truths), score_heatmaps(increase(maps), truths)  # type: ignore[operator]
    np.testing.assert_allclose(after[..., [0, 2]], before[..., [0, 2]], atol=1e-12)


# --- what heatmaps stand beside ---


def test_pooled_masks_are_means_of_cells() -> None:
    masks = np.random.default_rng(3).random((2, 3, 6, 8)) < 0.5
    expected = masks.reshape(2, 3, 2, 3, 4, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(pool_masks(masks, (2, 4)), expected, rtol=1e-12)
    np.testing.assert_array_equal(pool_masks(masks, (6, 8)), masks)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6))
def test_cells_of_any_size_share_their_pixels(seed: int, height: int, width: int, rows: int, columns: int) -> None:
    """As if every pixel were cut into so many that the cells have whole numbers of them."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    cut = np.repeat(np.repeat(mask, rows, axis=0), columns, axis=1)
    expected = cut.reshape(rows, height, columns, width).mean(axis=(1, 3))
    pooled = pool_masks(mask, (rows, columns))
    np.testing.assert_allclose(pooled, expected, atol=1e-12)
    assert pooled.mean() == pytest.approx(mask.mean(), abs=1e-12) and pooled.max() <= 1 + 1e-12


def test_the_ceiling_is_reached_by_the_truth_alone_and_lost_by_its_complement() -> None:
    """A truth that is made of whole cells: pooled and enlarged, it scores the ceiling, as the map that is the truth."""
    cells = np.array([[0, 1, 0], [0, 1, 1]], bool)
    truth = np.repeat(np.repeat(cells, 4, axis=0), 5, axis=1)
    ceiling = score_one(pool_masks(truth, (2, 3)), truth)
    np.testing.assert_array_equal(score_one(cells * 8.0, truth), ceiling)
    assert ceiling[0] == 1 and 0.9 < ceiling[2] < 1  # pixels between two cells tie
    complement = score_one(1.0 - cells, truth)
    assert complement[0] == 0 and complement[2] == pytest.approx(1 - ceiling[2], abs=1e-12)
    flat = score_one(np.ones((2, 3)), truth)
    np.testing.assert_allclose(flat, [0.5, 0.5, 0.5], rtol=1e-9)
    assert (complement < flat).all() and (flat < ceiling).all()


def test_the_mean_of_others_leaves_one_person_out_exactly() -> None:
    """Against the mean over the others, one by one; images of a person are averaged first."""
    random = np.random.default_rng(5)
    means = np.stack([(random.random((n, 4, 5)) < 0.3).mean(axis=0) for n in (3, 14, 7, 1)])
    for person in range(4):
        expected = np.mean([means[i] for i in range(4) if i != person], axis=0)
        np.testing.assert_allclose(average_others(means.sum(axis=0), means[person], 4), expected, atol=1e-15)
    changed = means.copy()
    changed[2] = 1 - changed[2]
    before, after = (average_others(part.sum(axis=0), part[2], 4) for part in (means, changed))
    np.testing.assert_allclose(before, after, atol=1e-15)  # own truth does not matter
    assert (average_others(means[0], means[0], 1) == 0).all()  # nobody else


PAIRS = [("expression", "expression"), ("joint", "identity"), ("untrained", "identity")]
CANDIDATES = [*PAIRS, *BASELINES]
NAMES = [looks for looks, _ in CANDIDATES]
PEOPLE = pd.Series(["b", "a", "b", "c", "a"])
AREAS = np.stack([np.array([[0.1, 0.5], [0.2, 0.5], [0.3, 0.5], [0.6, 0.5], [0.4, 0.5]]), np.full((5, 2), 0.7)], axis=1)
KEYS = ["looks", "tested_on", "truth_rule", "truth", "measure", "against"]
RULES, TASKS, MEASURES = ("changes", "discriminability"), ("expression", "identity"), ("pointing", "mass", "auc")


def draw_scores() -> np.ndarray:
    """(5 images, 2 seeds, 8 candidates, 2 rules, 2 truths, 3 measures); ceilings are above centres."""
    scores = np.random.default_rng(8).random((5, 2, 8, 2, 2, 3))
    scores[:, :, NAMES.index("centre")] *= 0.4
    scores[:, :, NAMES.index("ceiling")] = 0.6 + 0.4 * scores[:, :, NAMES.index("ceiling")]
    return scores


def tabulate(scores: np.ndarray, *, draws: int = 120, seed: int = 4) -> pd.DataFrame:
    stream = np.random.default_rng(seed)
    shared = {"people": PEOPLE, "source": "toy faces", "draws": draws, "generator": stream}
    return tabulate_scores(scores, AREAS, candidates=CANDIDATES, **shared)


def find_row(
    table: pd.DataFrame,
    looks: str,
    *,
    rule: str = "changes",
    truth: str = "identity",
    measure: str = "mass",
    against: str = "",
) -> pd.Series:
    key = {"looks": looks, "truth_rule": rule, "truth": truth, "measure": measure, "against": against}
    return table[(table[list(key)] == list(key.values())).all(axis=1)].squeeze(axis=0)


def test_every_combination_has_one_row() -> None:
    table = tabulate(draw_scores())
    assert len(table) == (8 + 3 * 4 + 8) * 2 * 2 * 3 and not table.duplicated(KEYS).any()
    assert set(table["against"][table["tested_on"] == ""]) == {"", "centre_to_ceiling"}
    against = {"", "random", "centre", "others", "others_pooled", "centre_to_ceiling"}
    assert set(table["against"][table["looks"] == "untrained"]) == against
    assert (table["seeds"] == 2).all() and set(table["source"]) == {"toy faces"} and (table["reason"] == "").all()
    assert [NAMES[index] for index, against in list_comparisons(CANDIDATES) if against == "random"] == NAMES[:3]


def test_images_are_averaged_within_people_first() -> None:
    """By hand: the one image of c counts as much as the two of a."""
    scores = np.zeros((5, 1, 8, 2, 2, 3))
    scores[:, 0, 1, 0, 0, 1] = [0.1, 0.4, 0.3, 0.9, 0.6]
    table = tabulate(scores)
    row = find_row(table, "joint", truth="expression")
    assert row["number"] == pytest.approx((0.5 + 0.2 + 0.9) / 3, rel=1e-12)
    assert row["area"] == pytest.approx((0.3 + 0.2 + 0.6) / 3, rel=1e-12)
    assert (row["people"], row["n"], row["blank"]) == (3, 5, 0)
    assert find_row(table, "centre")["area"] == 0.5
    assert find_row(table, "centre", rule="discriminability")["area"] == pytest.approx(0.7)


def average_slowly(scores: np.ndarray) -> np.ndarray:
    """Means of people, (seeds, people a b c), of scores (images, seeds)."""
    means = np.full((2, 3), np.nan)
    for seed in range(2):
        for index, person in enumerate("abc"):
            values = [scores[i, seed] for i in range(5) if PEOPLE[i] == person]
            values = [score for score in values if not np.isnan(score)]
            if values:
                means[seed, index] = sum(values) / len(values)
    return means


def test_numbers_and_intervals_are_over_seeds_and_people() -> None:
    scores = draw_scores()
    scores[3, 1, 2] = np.nan  # c has no map of the second seed
    table = tabulate(scores)
    for candidate, against in list_comparisons(CANDIDATES):
        if against == "centre_to_ceiling":
            continue
        for (i, rule), (j, truth), (k, measure) in product(*map(enumerate, (RULES, TASKS, MEASURES))):
            values = average_slowly(scores[:, :, candidate, i, j, k])
            if against:
                values = values - average_slowly(scores[:, :, NAMES.index(against), i, j, k])
            expected = estimate_interval(values, draws=120, generator=np.random.default_rng(4))
            row = find_row(table, NAMES[candidate], rule=rule, truth=truth, measure=measure, against=against)
            np.testing.assert_allclose(row[["number", "low", "high"]].astype(float), expected, rtol=1e-9)
            assert row["low"] < row["number"] < row["high"]


def test_differences_to_baselines_are_paired() -> None:
    scores = draw_scores() / 2
    scores[:, :, 0] = scores[:, :, NAMES.index("others")] + 0.25
    row = find_row(tabulate(scores), "expression", against="others")
    np.testing.assert_allclose(row[["number", "low", "high"]].astype(float), 0.25, rtol=1e-9)


def test_the_way_begins_at_the_centre_and_ends_at_the_ceiling() -> None:
    scores = draw_scores()
    centre, ceiling = (scores[:, :, NAMES.index(name)] for name in ("centre", "ceiling"))
    scores[:, :, 0] = centre + 0.25 * (ceiling - centre)
    scores[:, :, 1] = ceiling + 0.5 * (ceiling - centre)
    scores[:, :, 2] = centre - 0.5 * (ceiling - centre)
    table = tabulate(scores)
    way = table[table["against"] == "centre_to_ceiling"].set_index("looks")[["number", "low", "high"]]
    for looks, share in {"centre": 0, "ceiling": 1, "expression": 0.25, "joint": 1.5, "untrained": -0.5}.items():
        np.testing.assert_allclose(way.loc[looks], share, atol=1e-9)  # the interval has no width: paired


def test_the_way_is_a_ratio_of_means_with_the_draws_of_all_other_rows() -> None:
    """By brute force: the draws of seeds and people are drawn again, in loops; the image without a map is left out."""
    scores = draw_scores()
    scores[2, :, 0] = np.nan  # one of two images of b
    row = find_row(tabulate(scores, draws=70), "expression", against="centre_to_ceiling")
    use = np.where(np.isnan(scores[:, :, 0, 0, 1, 1]), np.nan, 1)
    look, centre, ceiling = (scores[:, :, NAMES.index(x), 0, 1, 1] * use for x in ("expression", "centre", "ceiling"))
    rise, gap = average_slowly(look - centre), average_slowly(ceiling - centre)
    stream = np.random.default_rng(4)
    seeds, people = stream.integers(2, size=(70, 2)), stream.integers(3, size=(70, 3))
    ratios = [rise[s][:, p].mean() / gap[s][:, p].mean() for s, p in zip(seeds, people, strict=True)]
    assert row["number"] == pytest.approx(rise.mean() / gap.mean(), rel=1e-12)
    np.testing.assert_allclose(row[["low", "high"]].astype(float), np.percentile(ratios, [2.5, 97.5]), rtol=1e-9)
    assert (row["people"], row["n"], row["blank"]) == (3, 4, 2)


def test_a_ceiling_that_is_not_above_the_centre_has_no_way() -> None:
    scores = draw_scores()
    centre, ceiling = NAMES.index("centre"), NAMES.index("ceiling")
    scores[:, :, ceiling, 0] = scores[:, :, centre, 0] - 0.01
    scores[:, :, ceiling, 1] = scores[:, :, centre, 1] + 0.1
    scores[3, :, ceiling, 1] = scores[3, :, centre, 1] - 0.15  # one person of three
    table = tabulate(scores)
    ways = table[table["against"] == "centre_to_ceiling"].set_index("truth_rule")
    assert set(ways.loc["changes", "reason"]) == {"the ceiling is not above the centre"}
    assert ways.loc["changes", ["number", "low", "high"]].isna().all(axis=None)
    doubtful = ways.loc["discriminability"]
    assert set(doubtful["reason"]) == {"the ceiling is not surely above the centre: no interval"}
    assert doubtful["number"].notna().all() and doubtful[["low", "high"]].isna().all(axis=None)
    assert (table["reason"][table["against"] != "centre_to_ceiling"] == "").all()


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-3, 3))
def test_the_way_does_not_depend_on_the_scale_of_scores(seed: int, scale: float, share: float) -> None:
    random = np.random.default_rng(seed)
    rises, gaps = random.normal(size=(2, 6)), 0.1 + random.random((2, 6))
    first, scaled, ends = (
        estimate_way(*pair, draws=40, generator=np.random.default_rng(1))
        for pair in ((rises, gaps), (rises * scale, gaps * scale), (gaps * share, gaps))
    )
    np.testing.assert_allclose(scaled, first, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ends, share, rtol=1e-9, atol=1e-12)
    assert first[1] <= first[2]


def test_blank_maps_and_full_truths_are_counted() -> None:
    scores = draw_scores()
    scores[[0, 2], :, 1] = np.nan  # all maps of b are blank
    scores[1, 0, 1] = np.nan
    scores[3, :, :, 0, 1, 2] = np.nan  # the identity truth of c is the whole image
    table = tabulate(scores)
    mass = find_row(table, "joint")
    assert (mass["people"], mass["n"], mass["blank"]) == (2, 3, 5)
    for against in ("centre", "centre_to_ceiling"):
        auc = find_row(table, "joint", measure="auc", against=against)
        assert (auc["people"], auc["n"], auc["blank"]) == (1, 2, 5)
        assert auc["reason"] == "1 person only: no interval"
    other = find_row(table, "joint", truth="expression", measure="auc")
    assert (other["people"], other["n"], other["blank"]) == (2, 3, 5)
    assert find_row(table, "others")["blank"] == 0


def test_missing_numbers_have_a_reason() -> None:
    scores = draw_scores()
    scores[:, :, 1] = np.nan
    scores[..., 0, 2] = np.nan
    table = tabulate(scores)
    nothing = table[table["reason"] == "no map has any mass"]
    assert set(nothing["looks"]) == {"joint"} and len(nothing) == 6 * 12 and set(nothing["blank"]) == {10}
    flat = table[table["reason"] == "in no image are some pixels true and others not"]
    assert set(flat["truth"]) == {"expression"} and set(flat["measure"]) == {"auc"} and len(flat) == 2 * (7 + 2 * 4 + 7)
    assert table["number"].isna().eq(table["reason"] != "").all() and table["low"].isna().equals(table["high"].isna())
    assert set(table["n"][table["number"].isna()]) == set(table["people"][table["number"].isna()]) == {0}


def test_without_a_truth_the_same_rows_have_a_reason() -> None:
    table = tabulate_unscored(CANDIDATES, source="KDEF", seeds=3, reason="these are photographs")
    pd.testing.assert_frame_equal(table[KEYS], tabulate(draw_scores())[KEYS])
    assert table[["area", "number", "low", "high"]].isna().all(axis=None)
    assert set(table["reason"]) == {"these are photographs"} and set(table["source"]) == {"KDEF"}
    assert (table[["people", "n", "blank"]] == 0).all(axis=None) and (table["seeds"] == 3).all()
