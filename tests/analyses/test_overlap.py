"""Overlap of heatmaps: boxes as matplotlib's, masks by hand and as sets, halves of people, missing maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.cbook import boxplot_stats

from facespec.analyses import overlap as module
from facespec.analyses.overlap import compare_all_masks, compare_masks, draw_halves, measure_overlap
from facespec.analyses.resampling import draw_weights
from facespec.study.errors import StudyError
from facespec.study.maps import PersonMaps
from facespec.study.seeds import generator
from facespec.study.tables import OVERLAP
from facespec.study.vocabulary import PAIRS
from toys import make_person_maps

BOX = ["whisker_low", "q1", "median", "q3", "whisker_high"]
EXPRESSION, IDENTITY = 2, 3  # indices of the joint network in PAIRS
pixel_values = st.integers(0, 1000).map(lambda n: n / 1000)


def measure(
    maps: PersonMaps,
    by_expression: Sequence[PersonMaps] = (),
    *,
    quantile: float = 0.8,
    top: float = 0.3,
    resamples: int = 2,
    seed: int = 0,
) -> pd.DataFrame:
    """Without `by_expression`, people show the same maps with each of two expressions."""
    groups = by_expression or [maps, maps]
    return measure_overlap(maps, groups, quantile=quantile, top=top, resamples=resamples, generator=generator(seed))


def pivot_numbers(table: pd.DataFrame, **labels: object) -> pd.DataFrame:
    """(resamples, seeds) of the quantity with these labels."""
    rows = table[np.logical_and.reduce([table[name] == value for name, value in labels.items()])]
    return rows.pivot(index="resample", columns="seed", values="number")


def interpolate(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (k, h, w) at image size by torch, (k, pixels)."""
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)
    return large.reshape(len(maps), -1).numpy()


def make_mask(pixels: np.ndarray, threshold: float) -> set[int]:
    return {index for index, value in enumerate(pixels.tolist()) if value >= threshold}


def compute_iou_slowly(first: np.ndarray, second: np.ndarray, rule: str, *, level: float) -> float:
    thresholds = [np.quantile(first, level), np.quantile(second, level)]
    if rule == "published":
        thresholds = [min(thresholds)] * 2
    one, other = make_mask(first, thresholds[0]), make_mask(second, thresholds[1])
    return len(one & other) / len(one | other)


@settings(max_examples=20)
@given(st.lists(pixel_values, min_size=1, max_size=14))
def test_boxes_are_matplotlibs(pixels: list[float]) -> None:
    """Also if a quartile lies between pixels, so that a whisker has no pixels."""
    maps = make_person_maps(np.broadcast_to(np.array(pixels), (6, 1, 1, 1, len(pixels))))
    expected = boxplot_stats(pixels)[0]
    table = measure(maps, resamples=1).query("figure == '2B'")
    for quantity, name in zip(BOX, ["whislo", "q1", "med", "q3", "whishi"], strict=True):
        assert set(table[table["quantity"] == quantity]["number"]) == {expected[name]}, quantity


def test_boxes_are_about_mean_maps_at_image_size() -> None:
    random = generator(1)
    cells, count = random.random((6, 2, 5, 3, 4)) ** 4, random.integers(1, 9, size=(6, 2, 5))
    table = measure(make_person_maps(cells, count=count, size=(17, 11)))
    means = (cells * count[..., None, None]).sum(axis=2) / count.sum(axis=2)[..., None, None]
    for pair, (network, task) in enumerate(PAIRS):
        expected = boxplot_stats(interpolate(means[pair], (17, 11)).T)
        for quantity, name in zip(BOX, ["whislo", "q1", "med", "q3", "whishi"], strict=True):
            values = pivot_numbers(
                table, figure="2B", quantity=quantity, trained_on=network, tested_on=task, rule=""
            ).loc[-1]
            assert values.index.tolist() == [3, 5]
            np.testing.assert_allclose(values, [one[name] for one in expected], rtol=1e-12, err_msg=quantity)


def test_resamples_are_bootstrap_draws_of_people() -> None:
    """3 of 7 people have a map, the others zeros: the median of a draw counts how many of the three were drawn."""
    level = np.array([1, 1, 1, 0, 0, 0, 0])[:, None, None]
    ramp = np.linspace(0, 1, 15).reshape(3, 5)
    table = measure(make_person_maps(np.broadcast_to(level * ramp, (6, 2, 7, 3, 5))), resamples=2000)
    medians = table[table["quantity"] == "median"].pivot(
        index="resample", columns=["trained_on", "tested_on", "seed"], values="number"
    )
    counts = medians.to_numpy() / 0.5 * 7
    assert counts[0] == pytest.approx(3)  # all people
    assert (counts == counts[:, :1]).all()  # the same draws for every network, task and seed
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    assert counts[1:].mean() == pytest.approx(3, abs=4 * np.sqrt(7 * 3 / 7 * 4 / 7 / 2000))
    assert counts[1:, 0].var() == pytest.approx(7 * 3 / 7 * 4 / 7, rel=0.15)  # binomial


def test_masks_by_hand() -> None:
    maps = np.zeros((6, 1, 1, 1, 5))
    maps[EXPRESSION] = [0, 0.25, 0.5, 0.75, 1]
    maps[IDENTITY] = [1, 0.9, 0.1, 0.2, 0.8]
    table = measure(make_person_maps(maps), quantile=0.75, top=0.5, resamples=1).query(
        "figure == '2C' and resample == -1 and quantity not in ('iou_networks', 'iou_classes', 'iou_tasks')"
    )
    assert set(table["trained_on"]) == {"joint", "untrained"}
    table = table[table["trained_on"] == "joint"]
    numbers_by_key = table.set_index(["rule", "quantity", "tested_on"])["number"]
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
    assert numbers_by_key.to_dict() == pytest.approx(expected | halves, nan_ok=True)


two_maps = st.integers(1, 30).flatmap(lambda n: st.tuples(*[arrays(float, n, elements=pixel_values)] * 2))
level = st.integers(1, 19).map(lambda n: n / 20)


@settings(max_examples=40)
@given(two_maps, level, st.sampled_from(["published", "top"]))
def test_laws_of_masks(maps: tuple[np.ndarray, np.ndarray], level: float, rule: str) -> None:
    first, second = maps
    thresholds, quantities = compare_masks(first, second, level=level, rule=rule)
    areas = [float(quantities["first_area"]), float(quantities["second_area"])]
    assert 0 < min(areas) <= max(areas) <= 1
    assert min(areas) > 1 - level - 1 / len(first)  # a share of n pixels is exact up to one of them
    assert quantities["intersection"] <= min(areas)
    assert quantities["dice"] == pytest.approx(2 * quantities["iou"] / (1 + quantities["iou"]))
    assert quantities["iou"] == pytest.approx(compute_iou_slowly(first, second, rule, level=level))
    assert areas[0] == len(make_mask(first, float(thresholds[0]))) / len(first)
    swapped = compare_masks(second, first, level=level, rule=rule)[1]
    assert swapped["iou"] == quantities["iou"] and swapped["first_area"] == areas[1]
    assert compare_masks(first, first, level=level, rule=rule)[1]["iou"] == 1
    assert compare_masks(first / 4, second / 4, level=level, rule=rule)[1] == quantities  # a quarter: exact in binary
    if rule == "top":
        assert compare_masks(first / 4, second, level=level, rule=rule)[1] == quantities


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(0, 5))
def test_halves_are_disjoint_and_bootstrapped_within(people: int, seed: int) -> None:
    split, resampled = draw_halves(people, draws=6, generator=generator(seed))
    assert split.shape == resampled.shape == (6, 2, people)
    np.testing.assert_array_equal(split.sum(axis=1), 1)  # everybody is in one half
    sizes = [people - people // 2, people // 2]
    np.testing.assert_array_equal(split.sum(axis=2), [sizes] * 6)
    np.testing.assert_array_equal(resampled.sum(axis=2), [sizes] * 6)
    assert (resampled[split == 0] == 0).all()
    np.testing.assert_array_equal(resampled, resampled.round())


def test_halves_are_random() -> None:
    split, resampled = draw_halves(5, draws=4000, generator=generator(2))
    assert split[:, 0].mean(axis=0) == pytest.approx(3 / 5, abs=0.04)
    same_half = (split[:, 0, 0] == split[:, 0, 1]).mean()
    assert same_half == pytest.approx((3 + 1) / 10, abs=0.04)  # pairs within a half, of 10 pairs
    counts = resampled[:, 1][split[:, 1] == 1]
    assert [(counts == n).mean() for n in range(3)] == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.04)


def test_halves_compare_within_and_across_tasks() -> None:
    """Two people, one in each half. Expression is left for one and right for the other; identity is always left."""
    left, right = np.array([[1.0, 0, 0]]), np.array([[0, 0, 1.0]])
    maps = np.zeros((6, 1, 2, 1, 3))
    maps[EXPRESSION, 0], maps[IDENTITY, 0] = [left, right], [left, left]
    halves = "quantity == 'iou_halves' and trained_on == 'joint'"
    table = measure(make_person_maps(maps), quantile=0.9, top=0.1, resamples=40).query(halves)
    for rule in ("published", "top"):
        ious = [pivot_numbers(table, rule=rule, tested_on=task) for task in ("expression", "identity", "both")]
        assert [set(values[3]) for values in ious] == [{0}, {1}, {0.5}]  # across: left with left, and right with left
    maps[IDENTITY, 0] = [right, left]
    table = measure(make_person_maps(maps), quantile=0.9, top=0.1, resamples=40).query(halves)
    assert table.groupby("tested_on")["number"].agg(set).to_dict() == {"expression": {0}, "identity": {0}, "both": {1}}


def test_halves_against_a_slow_reference() -> None:
    """Draws one by one, means by hand, torch's interpolation, masks as sets."""
    random, size, levels = generator(6), (8, 11), {"published": 0.8, "top": 1 - 0.3}
    cells, count = random.random((6, 2, 5, 3, 4)), random.integers(1, 9, size=(6, 2, 5))
    table = measure(make_person_maps(cells, count=count, size=size), resamples=7, seed=8)
    weights = draw_halves(5, draws=7, generator=generator(8).spawn(2)[1])
    expected = {}
    for kind, resample, seed in np.ndindex(2, 7, 2):
        images = [count[:, seed] * half for half in weights[kind, resample]]
        means = [np.einsum("tphw,tp->thw", cells[:, seed], n) / n.sum(axis=1)[:, None, None] for n in images]
        one, two = (interpolate(mean, size) for mean in means)
        for rule, level in levels.items():
            for network, e, i in (("joint", 2, 3), ("untrained", 4, 5)):
                iou = {(a, b): compute_iou_slowly(one[a], two[b], rule, level=level) for a in (e, i) for b in (e, i)}
                across = (iou[e, i] + iou[i, e]) / 2
                for task, number in (("expression", iou[e, e]), ("identity", iou[i, i]), ("both", across)):
                    expected[kind, network, rule, task, seed, resample] = number
    for network, rule in itertools.product(("joint", "untrained"), ("published", "top")):
        for task in ("expression", "identity", "both"):
            labels = {"trained_on": network, "quantity": "iou_halves", "rule": rule, "tested_on": task}
            values = pivot_numbers(table, **labels).to_numpy().T
            for seed in (0, 1):
                split, resampled = ([expected[kind, network, rule, task, seed, r] for r in range(7)] for kind in (0, 1))
                assert values[seed].tolist() == pytest.approx([np.mean(split), *resampled])


def test_draws_within_halves_understate_the_overlap_within_a_task() -> None:
    """As documented: a bootstrap adds noise to both halves."""
    random = generator(4)
    pattern = np.broadcast_to(random.random((6, 5, 1, 9, 9)), (6, 5, 20, 9, 9))
    table = measure(make_person_maps(0.4 * pattern + 0.6 * random.random(pattern.shape)), resamples=100)
    for task in ("expression", "identity"):
        labels = {"trained_on": "joint", "quantity": "iou_halves", "rule": "top", "tested_on": task}
        means = pivot_numbers(table, **labels).mean(axis=1)
        assert 0.3 < means.loc[0:].mean() < means.loc[-1] - 0.05


def test_the_table_has_a_row_per_quantity_seed_and_resample() -> None:
    table = measure(make_person_maps(generator(1).random((6, 2, 7, 2, 3))), resamples=4)
    assert list(table.columns) == list(OVERLAP.columns)
    assert set(table["source"]) == {"embedded faces"}
    assert not table["number"].isna().any()
    names = ["figure", "quantity", "trained_on", "tested_on", "rule"]
    cells = table.groupby(names)[["seed", "resample"]].agg(list)
    assert len(cells) == 6 * 5 + 2 * (6 + 7 + 6) + 6 + 2 * 4  # boxes; two tasks and halves; networks; classes
    for _, cell in cells.iterrows():
        assert cell.to_dict() == {"seed": [3, 5] * 5, "resample": [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3]}


def test_numbers_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = make_person_maps(generator(1).random((6, 2, 3, 2, 3)), size=(5, 7))
    expected = measure(maps, resamples=11)
    for pixels in (1, 6 * 2 * 35 * 2 * 3 + 1):  # one draw at a time; three halves, or six draws
        monkeypatch.setattr(module, "AT_ONCE", pixels)
        pd.testing.assert_frame_equal(measure(maps, resamples=11), expected)


def test_more_resamples_continue_the_stream_and_masks_do_not_shift_it() -> None:
    maps = make_person_maps(generator(1).random((6, 1, 6, 2, 3)))
    few, many = measure(maps, resamples=4), measure(maps, resamples=9, quantile=0.6, top=0.2)
    boxes = [table.query("figure == '2B' and resample < 4").reset_index(drop=True) for table in (few, many)]
    pd.testing.assert_frame_equal(*boxes)


def test_only_numbers_of_blank_maps_are_missing() -> None:
    """The joint network's identity maps of the second seed are all blank."""
    maps, count = generator(1).random((6, 2, 4, 2, 3)), np.full((6, 2, 4), 3)
    full = measure(make_person_maps(maps, count=count), resamples=5)
    count[IDENTITY, 1] = 0
    table = measure(make_person_maps(maps, count=count), resamples=5)
    missing, joint = table["number"].isna(), table["trained_on"] == "joint"
    affected = (table["seed"] == 5) & joint & (table["tested_on"] != "expression")
    affected |= (table["seed"] == 5) & joint & (table["rule"] == "published") & (table["quantity"] != "iou_halves")
    affected |= (table["seed"] == 5) & joint & (table["quantity"] == "iou_tasks")
    # of two seeds, neither has another one's map for identity to be compared with
    affected |= joint & (table["quantity"] == "iou_networks") & (table["tested_on"] == "identity")
    pd.testing.assert_series_equal(missing, affected, check_names=False)
    pd.testing.assert_frame_equal(table[~missing], full[~missing])


def test_a_draw_of_people_without_maps_is_missing() -> None:
    maps, count = generator(1).random((6, 1, 2, 2, 3)), np.ones((6, 1, 2))
    count[:, :, 0] = 0
    table = measure(make_person_maps(maps, count=count), resamples=400)
    medians = pivot_numbers(table, quantity="median", trained_on="joint", tested_on="identity")[3]
    assert not np.isnan(medians[-1])
    assert medians[0:].isna().mean() == pytest.approx(1 / 4, abs=0.09)  # the person without maps, drawn twice
    assert medians.dropna().nunique() == 1
    halves = table[table["quantity"] == "iou_halves"]["number"]
    assert halves.isna().all()  # one of the halves never has a map


def test_splits_without_a_map_are_left_out_of_the_mean() -> None:
    """Two of four people have no maps: if they are a half, there is nothing to compare."""
    maps, count = np.broadcast_to([[0.0, 0.5, 1.0]], (6, 1, 4, 1, 3)), np.ones((6, 1, 4))
    count[:, :, :2] = 0
    halves = measure(make_person_maps(maps, count=count), resamples=60).query("quantity == 'iou_halves'")
    assert (halves.query("resample == -1")["number"] == 1).all()
    assert 0 < halves["number"].isna().mean() < 1


def test_maps_of_no_people_are_refused() -> None:
    with pytest.raises(StudyError, match="nothing to resample: got 0 units, at least 1 is needed"):
        measure(make_person_maps(np.zeros((6, 1, 0, 2, 3))))


def average_slowly(numbers: list[float]) -> float:
    defined = [number for number in numbers if not np.isnan(number)]
    return sum(defined) / len(defined) if defined else np.nan


def compute_top_iou(first: np.ndarray, second: np.ndarray, top: float) -> float:
    if np.isnan(first).any() or np.isnan(second).any():
        return np.nan
    return compute_iou_slowly(first, second, "top", level=1 - top)


def test_networks_and_classes_against_a_slow_reference() -> None:
    """Draws one by one, people as often as they are drawn, means and IoU by hand; blank maps are left out."""
    random, size, top = generator(16), (8, 11), 0.3
    groups = [random.random((6, 3, 4, 3, 5)) for _ in range(3)]
    counts = [random.integers(0, 3, size=(6, 3, 4)) for _ in range(3)]
    counts[1][3, 1] = 0  # the joint network of seed 5 has no map of identity for the second expression
    for count in counts:
        count[5, 2] = 0  # the untrained network of seed 7 has none at all
    by_expression = [make_person_maps(maps, count=n, size=size) for maps, n in zip(groups, counts, strict=True)]
    total, count = sum(maps.total for maps in by_expression), sum(counts)
    with np.errstate(invalid="ignore"):
        whole = make_person_maps(np.nan_to_num(total / count[..., None, None]), count=count, size=size)
    table = measure(whole, by_expression, top=top, resamples=5, seed=9)
    weights = draw_weights(4, draws=5, generator=generator(9).spawn(2)[0])
    quantities = ("iou_networks", "iou_classes", "iou_tasks")
    rows = table[table["quantity"].isin(quantities)]
    assert set(rows["rule"]) == {"top"} and len(rows) == (6 + 2 * 4) * 3 * 6
    keys = ["quantity", "trained_on", "tested_on", "seed", "resample"]
    numbers = rows.set_index(keys)["number"]

    def enlarge(maps: PersonMaps, drawn: list[int]) -> np.ndarray:
        """Mean maps of the drawn people's images at image size, (pairs, seeds, pixels)."""
        total, n = maps.total[:, :, drawn].sum(axis=2), maps.count[:, :, drawn].sum(axis=2)
        with np.errstate(invalid="ignore"):
            means = total / n[..., None, None]
        return np.array([interpolate(by_seed, size) for by_seed in means])

    iou = lambda first, second: compute_top_iou(first, second, top)  # noqa: E731
    people = [enlarge(whole, [person]) for person in range(4)]
    for resample in range(-1, 5):
        drawn = list(range(4)) if resample < 0 else np.repeat(np.arange(4), weights[resample].astype(int)).tolist()
        everyone = enlarge(whole, drawn)
        expressions = [enlarge(maps, drawn) for maps in by_expression]
        for seed, name in enumerate((3, 5, 7)):
            for pair, (network, task) in enumerate(PAIRS):
                others = [iou(everyone[pair, seed], everyone[pair, other]) for other in range(3) if other != seed]
                found = numbers["iou_networks", network, task, name, resample]
                assert found == pytest.approx(average_slowly(others), nan_ok=True)
            for network, pairs in (("joint", (2, 3)), ("untrained", (4, 5))):
                found = {
                    key: numbers[(*key, name, resample)]
                    for key in [
                        (quantity, network, task) for quantity in quantities[1:] for task in ("expression", "identity")
                    ]
                }
                couples = itertools.combinations(expressions, 2)
                drawn_couples = [(a, b) for a, b in itertools.product(drawn, repeat=2) if a != b]
                expected = {
                    "classes of expression": [iou(a[pairs[0], seed], b[pairs[0], seed]) for a, b in couples],
                    "classes of identity": [
                        iou(people[a][pairs[1], seed], people[b][pairs[1], seed]) for a, b in drawn_couples
                    ],
                    "tasks, by expression": [iou(*maps[list(pairs), seed]) for maps in expressions],
                    "tasks, by person": [iou(*people[person][list(pairs), seed]) for person in drawn],
                }
                for (key, number), (label, values) in zip(found.items(), expected.items(), strict=True):
                    assert number == pytest.approx(average_slowly(values), nan_ok=True), (key, label, name, resample)


def test_tasks_or_classes_may_be_what_differs() -> None:
    """One network has a place for each task; the other a place for each class, the same for both tasks."""
    places = np.eye(6).reshape(6, 1, 6)  # of a map of six cells, one is 1
    by_task = np.stack([places[[0, 0]], places[[1, 1]]])  # (tasks, people, h, w)
    by_class = np.stack([places[[2, 3]], places[[2, 3]]])
    maps = np.zeros((6, 1, 2, 1, 6))
    maps[[2, 3], 0], maps[[4, 5], 0] = by_task, by_class  # the joint, and the untrained network
    other = maps.copy()
    other[[4, 5], 0] = places[[4, 5]]  # with another expression, untrained maps are elsewhere
    groups = [make_person_maps(each) for each in (maps, other)]
    table = measure(groups[0], groups, top=0.1, resamples=1).query("resample == -1")
    numbers = table.set_index(["quantity", "trained_on", "tested_on"])["number"]
    for task in ("expression", "identity"):
        assert [numbers[q, "joint", task] for q in ("iou_classes", "iou_tasks")] == [1, 0]
        assert [numbers[q, "untrained", task] for q in ("iou_classes", "iou_tasks")] == [0, 1]
        assert np.isnan(numbers["iou_networks", "joint", task])  # there is one seed


@settings(max_examples=20)
@given(arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 30)), elements=pixel_values), level)
def test_laws_of_all_masks(pixels: np.ndarray, level: float) -> None:
    ious = compare_all_masks(pixels, level=level)
    np.testing.assert_array_equal(np.diagonal(ious), 1)
    np.testing.assert_array_equal(ious, ious.T)
    expected = [[compare_masks(a, b, level=level, rule="top")[1]["iou"] for b in pixels] for a in pixels]
    np.testing.assert_array_equal(ious, expected)
    with_blank = np.vstack([pixels, np.full(pixels.shape[1], np.nan)])
    missing = np.isnan(compare_all_masks(with_blank, level=level))
    assert missing[-1].all() and missing[:, -1].all() and not missing[:-1, :-1].any()
