from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.cbook import boxplot_stats

from facespec.analyses import overlap as module
from facespec.analyses.overlap import compare_masks, draw_halves, measure_overlap
from facespec.study.errors import StudyError
from facespec.study.maps import PersonMaps
from facespec.study.seeds import generator
from facespec.study.tables import OVERLAP
from facespec.study.vocabulary import PAIRS

BOX = ["whisker_low", "q1", "median", "q3", "whisker_high"]
EXPRESSION, IDENTITY = 2, 3  # the joint network's places among PAIRS
shades = st.integers(0, 1000).map(lambda n: n / 1000)


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


def table(
    maps: PersonMaps, *, quantile: float = 0.8, top: float = 0.3, resamples: int = 2, seed: int = 0
) -> pd.DataFrame:
    return measure_overlap(maps, quantile=quantile, top=top, resamples=resamples, generator=generator(seed))


def numbers(found: pd.DataFrame, **labels: object) -> pd.DataFrame:
    """(resamples, seeds) of one quantity, as labelled."""
    rows = found[np.logical_and.reduce([found[name] == value for name, value in labels.items()])]
    return rows.pivot(index="resample", columns="seed", values="number")


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (k, h, w) at image size by torch, pixels in a row."""
    grown = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)
    return grown.reshape(len(maps), -1).numpy()


def mask(pixels: np.ndarray, threshold: float) -> set[int]:
    return {place for place, value in enumerate(pixels.tolist()) if value >= threshold}


def slow_iou(first: np.ndarray, second: np.ndarray, rule: str, *, quantile: float, top: float) -> float:
    if rule == "published":
        thresholds = [min(np.percentile(first, 100 * quantile), np.percentile(second, 100 * quantile))] * 2
    else:
        thresholds = [np.percentile(first, 100 * (1 - top)), np.percentile(second, 100 * (1 - top))]
    one, other = mask(first, thresholds[0]), mask(second, thresholds[1])
    return len(one & other) / len(one | other)


# --- 2B


@settings(max_examples=40)
@given(st.lists(shades, min_size=1, max_size=14))
def test_boxes_are_matplotlibs(pixels: list[float]) -> None:
    """Also where a quartile lies between pixels, so that a whisker has none of its own."""
    maps = people_of(np.broadcast_to(np.array(pixels), (4, 1, 1, 1, len(pixels))))
    expected = boxplot_stats(pixels)[0]
    found = table(maps, resamples=1).query("figure == '2B'")
    for quantity, name in zip(BOX, ["whislo", "q1", "med", "q3", "whishi"], strict=True):
        assert set(found[found["quantity"] == quantity]["number"]) == {expected[name]}, quantity


def test_boxes_are_about_mean_maps_at_image_size() -> None:
    draw = generator(1)
    cells, count = draw.random((4, 2, 5, 3, 4)) ** 4, draw.integers(1, 9, size=(4, 2, 5))
    found = table(people_of(cells, count=count, size=(17, 11)))
    means = (cells * count[..., None, None]).sum(axis=2) / count.sum(axis=2)[..., None, None]
    for pair, (network, task) in enumerate(PAIRS):
        expected = boxplot_stats(enlarged(means[pair], (17, 11)).T)
        for quantity, name in zip(BOX, ["whislo", "q1", "med", "q3", "whishi"], strict=True):
            got = numbers(found, figure="2B", quantity=quantity, trained_on=network, tested_on=task, rule="").loc[-1]
            assert got.index.tolist() == [3, 5]
            np.testing.assert_allclose(got, [one[name] for one in expected], rtol=1e-12, err_msg=quantity)


def test_resamples_are_bootstrap_draws_of_people() -> None:
    """3 of 7 people have a map, the others an empty one: a draw's median counts how many of the three were drawn."""
    level = np.array([1, 1, 1, 0, 0, 0, 0])[:, None, None]
    ramp = np.linspace(0, 1, 15).reshape(3, 5)
    found = table(people_of(np.broadcast_to(level * ramp, (4, 2, 7, 3, 5))), resamples=2000)
    medians = found[found["quantity"] == "median"].pivot(
        index="resample", columns=["trained_on", "tested_on", "seed"], values="number"
    )
    drawn = medians.to_numpy() / 0.5 * 7
    assert drawn[0] == pytest.approx(3)  # all people
    assert (drawn == drawn[:, :1]).all()  # the same draws for every network, task and seed
    np.testing.assert_allclose(drawn, drawn.round(), atol=1e-9)
    assert drawn[1:].mean() == pytest.approx(3, abs=4 * np.sqrt(7 * 3 / 7 * 4 / 7 / 2000))
    assert drawn[1:, 0].var() == pytest.approx(7 * 3 / 7 * 4 / 7, rel=0.15)  # binomial


# --- 2C


def test_masks_by_hand() -> None:
    maps = np.zeros((4, 1, 1, 1, 5))
    maps[EXPRESSION] = [0, 0.25, 0.5, 0.75, 1]
    maps[IDENTITY] = [1, 0.9, 0.1, 0.2, 0.8]
    found = table(people_of(maps), quantile=0.75, top=0.5, resamples=1).query("figure == '2C' and resample == -1")
    assert set(found["trained_on"]) == {"joint"}
    got = found.set_index(["rule", "quantity", "tested_on"])["number"]
    expected = {
        # 75th percentiles .75 and .9: pixels 3, 4 and pixels 0, 1, 4
        ("published", "threshold", "both"): 0.75,
        ("published", "area", "expression"): 2 / 5,
        ("published", "area", "identity"): 3 / 5,
        ("published", "intersection", "both"): 1 / 5,
        ("published", "iou", "both"): 1 / 4,
        ("published", "dice", "both"): 2 / 5,
        # medians .5 and .8: pixels 2, 3, 4 and pixels 0, 1, 4
        ("top", "threshold", "expression"): 0.5,
        ("top", "threshold", "identity"): 0.8,
        ("top", "area", "expression"): 3 / 5,
        ("top", "area", "identity"): 3 / 5,
        ("top", "intersection", "both"): 1 / 5,
        ("top", "iou", "both"): 1 / 5,
        ("top", "dice", "both"): 1 / 3,
    }
    halves = {
        (rule, "iou_halves", tested_on): np.nan  # one person makes no halves
        for rule in ("published", "top")
        for tested_on in ("expression", "identity", "both")
    }
    assert got.to_dict() == pytest.approx(expected | halves, nan_ok=True)


two_maps = st.integers(1, 30).flatmap(lambda n: st.tuples(*[arrays(float, n, elements=shades)] * 2))
level = st.integers(1, 19).map(lambda n: n / 20)


@given(two_maps, level, st.sampled_from(["published", "top"]))
def test_laws_of_masks(maps: tuple[np.ndarray, np.ndarray], level: float, rule: str) -> None:
    first, second = maps
    thresholds, found = compare_masks(first, second, level=level, rule=rule)
    areas = [float(found["first_area"]), float(found["second_area"])]
    assert 0 < min(areas) <= max(areas) <= 1
    assert min(areas) > 1 - level - 1 / len(first)  # a share of n pixels is known to one of them
    assert found["intersection"] <= min(areas)
    assert found["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]))
    assert found["iou"] == pytest.approx(slow_iou(first, second, rule, quantile=level, top=1 - level))
    assert areas[0] == len(mask(first, float(thresholds[0]))) / len(first)
    swapped = compare_masks(second, first, level=level, rule=rule)[1]
    assert swapped["iou"] == found["iou"] and swapped["first_area"] == areas[1]
    assert compare_masks(first, first, level=level, rule=rule)[1]["iou"] == 1
    both = compare_masks(first / 4, second / 4, level=level, rule=rule)[1]  # a quarter: exact in binary
    assert both == found
    if rule == "top":
        assert compare_masks(first / 4, second, level=level, rule=rule)[1] == found


# --- halves


@given(st.integers(2, 9), st.integers(0, 5))
def test_halves_part_the_people_and_draw_within(people: int, seed: int) -> None:
    whole, drawn = draw_halves(people, draws=6, generator=generator(seed))
    assert whole.shape == drawn.shape == (6, 2, people)
    np.testing.assert_array_equal(whole.sum(axis=1), 1)  # everybody is in one half
    sizes = [people - people // 2, people // 2]
    np.testing.assert_array_equal(whole.sum(axis=2), [sizes] * 6)
    np.testing.assert_array_equal(drawn.sum(axis=2), [sizes] * 6)
    assert (drawn[whole == 0] == 0).all()
    np.testing.assert_array_equal(drawn, drawn.round())


def test_halves_are_random() -> None:
    whole, drawn = draw_halves(5, draws=4000, generator=generator(2))
    together = (whole[:, 0, 0] == whole[:, 0, 1]).mean()
    assert whole[:, 0].mean(axis=0) == pytest.approx(3 / 5, abs=0.04)
    assert together == pytest.approx((3 + 1) / 10, abs=0.04)  # pairs within a half, of 10 pairs
    in_two = drawn[:, 1][whole[:, 1] == 1]
    assert [(in_two == times).mean() for times in range(3)] == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.04)


def test_halves_compare_within_and_across_tasks() -> None:
    """Two people, one in each half. Expression points left for one and right for the other; identity always left."""
    left, right = np.array([[1.0, 0, 0]]), np.array([[0, 0, 1.0]])
    maps = np.zeros((4, 1, 2, 1, 3))
    maps[EXPRESSION, 0], maps[IDENTITY, 0] = [left, right], [left, left]
    found = table(people_of(maps), quantile=0.9, top=0.1, resamples=40).query("quantity == 'iou_halves'")
    for rule in ("published", "top"):
        got = [numbers(found, rule=rule, tested_on=task) for task in ("expression", "identity", "both")]
        assert [set(one[3]) for one in got] == [{0}, {1}, {0.5}]  # across: left with left, and right with left
    maps[IDENTITY, 0] = [right, left]
    found = table(people_of(maps), quantile=0.9, top=0.1, resamples=40).query("quantity == 'iou_halves'")
    assert found.groupby("tested_on")["number"].agg(set).to_dict() == {"expression": {0}, "identity": {0}, "both": {1}}


def test_halves_against_a_slow_reference() -> None:
    """Splits and draws one by one, means by hand, torch's interpolation, masks as sets."""
    draw, size, rules = generator(6), (17, 11), {"quantile": 0.8, "top": 0.3}
    cells, count = draw.random((4, 2, 5, 3, 4)), draw.integers(1, 9, size=(4, 2, 5))
    found = table(people_of(cells, count=count, size=size), resamples=7, seed=8)
    weights = draw_halves(5, draws=7, generator=generator(8).spawn(2)[1])
    expected = {}
    for kind, resample, seed in np.ndindex(2, 7, 2):
        images = [count[:, seed] * half for half in weights[kind, resample]]
        means = [np.einsum("tphw,tp->thw", cells[:, seed], n) / n.sum(axis=1)[:, None, None] for n in images]
        one, two = (enlarged(mean, size) for mean in means)
        for rule in ("published", "top"):
            iou = {(a, b): slow_iou(one[a], two[b], rule, **rules) for a in (2, 3) for b in (2, 3)}
            expected[kind, rule, "expression", seed, resample] = iou[2, 2]
            expected[kind, rule, "identity", seed, resample] = iou[3, 3]
            expected[kind, rule, "both", seed, resample] = (iou[2, 3] + iou[3, 2]) / 2
    for rule in ("published", "top"):
        for task in ("expression", "identity", "both"):
            got = numbers(found, quantity="iou_halves", rule=rule, tested_on=task).to_numpy().T
            for seed in (0, 1):
                plain, within = ([expected[kind, rule, task, seed, r] for r in range(7)] for kind in (0, 1))
                assert got[seed].tolist() == pytest.approx([np.mean(plain), *within])


def test_draws_within_halves_understate_the_overlap_within_a_task() -> None:
    """As documented: a bootstrap adds noise to both halves."""
    draw = generator(4)
    pattern = np.broadcast_to(draw.random((4, 5, 1, 9, 9)), (4, 5, 20, 9, 9))
    found = table(people_of(0.4 * pattern + 0.6 * draw.random(pattern.shape)), resamples=100)
    for task in ("expression", "identity"):
        got = numbers(found, quantity="iou_halves", rule="top", tested_on=task).mean(axis=1)
        assert 0.3 < got.loc[0:].mean() < got.loc[-1] - 0.05


# --- the table


def test_rows() -> None:
    found = table(people_of(generator(1).random((4, 2, 3, 2, 3))), resamples=4)
    assert list(found.columns) == list(OVERLAP.columns)
    assert set(found["source"]) == {"embedded faces"}
    assert not found["number"].isna().any()
    names = ["figure", "quantity", "trained_on", "tested_on", "rule"]
    cells = found.groupby(names)[["seed", "resample"]].agg(list)
    assert len(cells) == 4 * 5 + 6 + 7 + 6
    for _, cell in cells.iterrows():
        assert cell.to_dict() == {"seed": [3, 5] * 5, "resample": [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3]}


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = people_of(generator(1).random((4, 2, 3, 2, 3)), size=(5, 7))
    whole = table(maps, resamples=11)
    for pixels in (1, 4 * 2 * 35 * 2 * 3 + 1):  # one draw at a time; three halves, or six draws
        monkeypatch.setattr(module, "AT_ONCE", pixels)
        pd.testing.assert_frame_equal(table(maps, resamples=11), whole)


def test_more_resamples_continue_the_draws_and_masks_do_not_shift_them() -> None:
    maps = people_of(generator(1).random((4, 1, 6, 2, 3)))
    few, many = table(maps, resamples=4), table(maps, resamples=9, quantile=0.6, top=0.2)
    boxes = [found.query("figure == '2B' and resample < 4").reset_index(drop=True) for found in (few, many)]
    pd.testing.assert_frame_equal(*boxes)


def test_blank_maps_are_missing_and_nothing_else() -> None:
    """The joint network's identity maps of the second seed are all blank."""
    maps, count = generator(1).random((4, 2, 4, 2, 3)), np.full((4, 2, 4), 3)
    full = table(people_of(maps, count=count), resamples=5)
    count[IDENTITY, 1] = 0
    found = table(people_of(maps, count=count), resamples=5)
    missing = found["number"].isna()
    about = (found["seed"] == 5) & (found["trained_on"] == "joint") & (found["tested_on"] != "expression")
    about |= (found["seed"] == 5) & (found["rule"] == "published") & (found["quantity"] != "iou_halves")
    pd.testing.assert_series_equal(missing, about, check_names=False)
    pd.testing.assert_frame_equal(found[~missing], full[~missing])


def test_a_draw_of_people_without_maps_is_missing() -> None:
    maps, count = generator(1).random((4, 1, 2, 2, 3)), np.ones((4, 1, 2))
    count[:, :, 0] = 0
    found = table(people_of(maps, count=count), resamples=400)
    medians = numbers(found, quantity="median", trained_on="joint", tested_on="identity")[3]
    assert not np.isnan(medians[-1])
    assert medians[0:].isna().mean() == pytest.approx(1 / 4, abs=0.09)  # the person without maps, drawn twice
    assert medians.dropna().nunique() == 1
    halves = found[found["quantity"] == "iou_halves"]["number"]
    assert halves.isna().all()  # one of the halves never has a map


def test_splits_without_a_map_are_left_out_of_the_mean() -> None:
    """Of 3 people two have no maps: where both are alone in a half, there is nothing to compare."""
    maps, count = np.broadcast_to([[0.0, 0.5, 1.0]], (4, 1, 4, 1, 3)), np.ones((4, 1, 4))
    count[:, :, :2] = 0
    halves = table(people_of(maps, count=count), resamples=60).query("quantity == 'iou_halves'")
    assert (halves.query("resample == -1")["number"] == 1).all()
    assert 0 < halves["number"].isna().mean() < 1


def test_nobody() -> None:
    with pytest.raises(StudyError) as caught:
        table(people_of(np.zeros((4, 1, 0, 2, 3))))
    assert str(caught.value) == "nothing to resample: got 0 units, at least 1 is needed."
