"""Facial biomarkers: by hand, laws, the template against label maps, means and pairs with loops."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.analyses.regions import (
    RegionShares,
    make_region_template,
    measure_region_areas,
    measure_region_shares,
    tabulate_regions,
)
from facespec.analyses.resampling import estimate_interval
from facespec.data.embedded.canvas import REGIONS as CODES
from facespec.data.embedded.production import render
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.scenes import COLUMNS
from facespec.study.errors import StudyError
from facespec.study.params import Data, ExpressionFaces, FaceBox, IdentityFaces, ProbeFaces
from facespec.study.seeds import generator
from facespec.study.vocabulary import EXPRESSIONS, PAIRS, Role

NAMES = {"background": 0, "mouth": 6, "occluder": 11}
# 3x5 px: ten of background, five of mouth
LABELS = np.array([[0, 0, 0, 0, 0], [0, 6, 6, 6, 0], [0, 6, 6, 0, 0]], np.uint8)


def test_shares_and_areas_by_hand() -> None:
    maps = np.zeros((3, 3, 5), np.float32)
    maps[0, 1, 1], maps[0, 0, 4] = 3, 1  # three quarters on the mouth
    maps[1, 2, 2] = 7
    regions = np.stack([LABELS, LABELS, np.zeros_like(LABELS)])
    np.testing.assert_array_equal(measure_region_shares(maps[:2], regions[:2], NAMES), [[0.25, 0.75, 0], [0, 1, 0]])
    np.testing.assert_array_equal(measure_region_areas(regions, NAMES) * 15, [[10, 5, 0], [10, 5, 0], [15, 0, 0]])


def test_columns_are_in_the_order_of_the_names() -> None:
    reordered = dict(reversed(NAMES.items()))
    maps = np.arange(15.0).reshape(1, 3, 5)
    for measure in (partial(measure_region_shares, maps, LABELS[None]), partial(measure_region_areas, LABELS[None])):
        np.testing.assert_array_equal(measure(reordered), measure(NAMES)[:, ::-1])


def test_small_maps_are_brought_to_the_size_of_the_image() -> None:
    """By torch's bilinear interpolation."""
    maps = np.random.default_rng(5).random((2, 2, 3)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (3, 5), mode="bilinear")[0].numpy()
    expected = [one[LABELS == 6].sum() / one.sum() for one in large]
    np.testing.assert_allclose(
        measure_region_shares(maps, np.stack([LABELS] * 2), NAMES)[:, 1], expected, rtol=1e-6
    )  # float32


def test_a_map_without_mass_has_no_shares() -> None:
    shares = measure_region_shares(np.stack([np.zeros((2, 3)), np.ones((2, 3))]), np.stack([LABELS] * 2), NAMES)
    assert np.isnan(shares[0]).all() and not np.isnan(shares[1]).any()


def test_a_code_without_a_name_is_refused() -> None:
    with pytest.raises(StudyError, match=r"code 6; allowed: \{'background': 0, 'nose': 5\}"):
        measure_region_areas(LABELS[None], {"background": 0, "nose": 5})


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_shares_sum_to_one_and_do_not_depend_on_scale(seed: int, factor: float) -> None:
    random = np.random.default_rng(seed)
    maps = random.random((3, 4, 3)) * (random.random((3, 4, 3)) < 0.6) + np.eye(4, 3) * 0.01
    regions = random.choice([0, 6, 11], (3, 7, 11)).astype(np.uint8)
    shares = measure_region_shares(maps, regions, NAMES)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)
    assert (shares >= 0).all()
    np.testing.assert_allclose(measure_region_shares(maps * factor, regions, NAMES), shares, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(
        measure_region_shares(np.ones((3, 4, 3)), regions, NAMES), measure_region_areas(regions, NAMES)
    )


BOX = FaceBox(top=0.1, bottom=0.9, left=0.2, right=0.7)


def find_centre(mask: np.ndarray) -> np.ndarray:
    """Mean row and column of a mask, in pixels from the upper left corner."""
    return np.argwhere(mask).mean(axis=0) + 0.5


def test_the_template_follows_the_canon() -> None:
    """A head of 700 rows (half a unit is 100) and 500 columns (an eye is 100), from row 87.5 and column 200."""
    codes, names = make_region_template((875, 1000), BOX)
    assert list(names) == ["background", "hair", "outline", "brows", "eyes", "nose", "mouth"]
    assert {name: CODES[name] for name in names} == names and codes.dtype == np.uint8
    head = codes != names["background"]
    rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
    np.testing.assert_allclose([rows[0], rows[-1], columns[0], columns[-1]], [87.5, 787.5, 200, 700], atol=1.5)
    masks = {name: codes == code for name, code in names.items()}
    eyes = masks["eyes"]
    np.testing.assert_allclose(find_centre(eyes), [437.5, 450], atol=1.5)
    assert np.flatnonzero(np.diff(eyes.any(axis=0).astype(int))).tolist() == [299, 399, 499, 599]
    assert np.flatnonzero(masks["nose"].any(axis=1))[-1] == pytest.approx(587.5, abs=1.5)
    assert np.flatnonzero(masks["nose"].any(axis=0))[[0, -1]] == pytest.approx([400, 500], abs=1.5)
    np.testing.assert_allclose(find_centre(masks["mouth"]), [587.5 + 200 / 3, 450], atol=1.5)
    assert np.flatnonzero(masks["mouth"].any(axis=0))[[0, -1]] == pytest.approx([375, 525], abs=1.5)
    assert np.flatnonzero(masks["brows"].any(axis=1))[-1] == pytest.approx(387.5, abs=1.5)
    assert np.flatnonzero(masks["outline"].any(axis=1))[0] == pytest.approx(187.5, abs=1.5)
    assert np.flatnonzero(masks["hair"].any(axis=1))[-1] <= 437.5


def test_the_template_is_symmetric_in_its_box() -> None:
    codes, _ = make_region_template((31, 47), FaceBox(top=0.0, bottom=1.0, left=0.1, right=0.9))
    np.testing.assert_array_equal(codes, codes[:, ::-1])


@cache
def render_label_maps() -> np.ndarray:
    block = Data(
        seed=3,
        size=48,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(source="embedded", train=7, test=7, scenes="web"),
        identity=IdentityFaces(source="embedded", people=2, train=1, test=1, scenes="video"),
        probe=ProbeFaces(source="embedded", people=9, hair="own"),
    )
    stimuli = draw_role(Role.PROBE, block, generator(3, "faces"))
    stimuli.scene[:, COLUMNS.index("scale")] = 1.16  # the whole head is in the picture, as in the template
    stimuli.scene[:, COLUMNS.index("shift_y")] = 0.0
    rows = stimuli.labels.query("view == 'straight' and session == 'A'").index.to_numpy()
    return render(stimuli, rows, size=48, channels=1)[1]


def test_the_template_overlaps_the_label_maps_of_embedded_faces() -> None:
    """Eyes and chin of 63 faces give the box; the other parts must then overlap those of the faces."""
    frequency = {name: (render_label_maps() == CODES[name]).mean(axis=0) for name in CODES}
    grid = np.mgrid[:48, :48] + 0.5

    def find_mean(weights: np.ndarray) -> np.ndarray:
        return (grid * weights).sum(axis=(1, 2)) / weights.sum()

    chin = np.flatnonzero((frequency["outline"] >= 0.5).any(axis=1))[-1] + 1
    eye = find_mean(frequency["eyes"] * (grid[1] < 24))
    height, width = 2 * (chin - eye[0]), (24 - eye[1]) / 0.2
    box = FaceBox(top=(chin - height) / 48, bottom=chin / 48, left=0.5 - width / 96, right=0.5 + width / 96)
    codes, names = make_region_template((48, 48), box)
    for name, least in {"brows": 0.3, "eyes": 0.5, "nose": 0.5, "mouth": 0.5, "background": 0.7}.items():
        often = 0.3 if name == "brows" else 0.5  # brows are thin, and at different heights
        template, faces = codes == names[name], frequency[name] >= often
        assert (template & faces).sum() / (template | faces).sum() > least, name
        assert np.abs(find_centre(template) - find_mean(frequency[name])).max() < 0.05 * height, name


PEOPLE = ["b", "a", "b", "c", "a", "b"]
EXPRESSION = ["happy", "happy", "sad", "happy", "sad", "sad"]


def make_shares(share: np.ndarray, area: np.ndarray | None = None) -> RegionShares:
    area = np.tile([0.5, 0.3, 0.2], (len(share), 1)) if area is None else area
    labels = pd.DataFrame({"identity": PEOPLE, "expression": EXPRESSION})
    return RegionShares(share, area, labels, tuple(NAMES), "toy faces", "template")


def draw_shares() -> np.ndarray:
    """(6 images, 2 seeds, 6 pairs, 3 regions), which sum to 1 over regions."""
    return np.random.default_rng(8).dirichlet([1, 2, 3], (6, 2, 6))


def tabulate(share: np.ndarray, area: np.ndarray | None = None, *, draws: int = 100, seed: int = 1) -> pd.DataFrame:
    return tabulate_regions(make_shares(share, area), draws=draws, generator=np.random.default_rng(seed))


def select_rows(table: pd.DataFrame, **labels: str) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[name] == value for name, value in labels.items()])]


def find_row(table: pd.DataFrame, **labels: str) -> pd.Series:
    return select_rows(table, **labels).squeeze(axis=0)


JOINT = {"trained_on": "joint", "tested_on": "identity"}


def test_every_combination_has_one_row() -> None:
    table = tabulate(draw_shares())
    keys = ["trained_on", "tested_on", "expression", "region", "measure", "against"]
    assert len(table) == 8 * 8 * 3 * 2 and not table.duplicated(keys).any()
    assert set(table["trained_on"][table["against"] == "single"]) == {"joint"}
    assert (table["seeds"] == 2).all()
    assert set(table["source"]) == {"toy faces"} and set(table["regions"]) == {"template"}


def test_images_are_averaged_within_people_first() -> None:
    """By hand: the three images of b count as much as the one of c."""
    share = np.zeros((6, 1, 6, 3))
    share[..., 0] = np.array([0.1, 0.4, 0.3, 0.9, 0.6, 0.5])[:, None, None]
    table = tabulate(share)
    row = find_row(table, **JOINT, expression="all", region="background", measure="share", against="")
    assert row["number"] == pytest.approx((0.3 + 0.5 + 0.9) / 3, rel=1e-12)
    assert (row["people"], row["n"], row["blank"], row["reason"]) == (3, 6, 0, "")
    sad = find_row(table, **JOINT, expression="sad", region="background", measure="density", against="")
    assert sad["number"] == pytest.approx((0.6 + 0.4) / 2 / 0.5, rel=1e-12) and (sad["people"], sad["n"]) == (2, 3)


def average_slowly(share: np.ndarray, pair: int, region: int, expression: str) -> np.ndarray:
    """Means of people, (seeds, people a b c)."""
    means = np.full((2, 3), np.nan)
    for seed in range(2):
        for index, person in enumerate("abc"):
            values = [
                share[i, seed, pair, region]
                for i in range(6)
                if PEOPLE[i] == person
                and expression in ("all", EXPRESSION[i])
                and not np.isnan(share[i, seed, pair, region])
            ]
            if values:
                means[seed, index] = sum(values) / len(values)
    return means


@pytest.mark.parametrize(("group", "stream"), [("all", 0), ("happy", 1 + EXPRESSIONS.index("happy"))])
def test_intervals_are_over_seeds_and_people_with_draws_shared_by_all(group: str, stream: int) -> None:
    share = draw_shares()
    share[3, 1] = np.nan  # c has no map of the second seed
    share[0, 0, 3] = np.nan
    table = tabulate(share, draws=150, seed=4)
    for side, (trained_on, tested_on) in enumerate(PAIRS):
        difference = share[:, :, [side]] - share[:, :, [side - 2]]
        for against, values in (
            ("", average_slowly(share, side, 1, group)),
            ("single", average_slowly(difference, 0, 1, group)),
        ):
            if against and trained_on != "joint":
                continue
            group_stream = np.random.default_rng(4).spawn(8)[stream]
            expected = estimate_interval(values, draws=150, generator=group_stream)
            labels = {"trained_on": trained_on, "tested_on": tested_on, "expression": group, "against": against}
            row = find_row(table, **labels, region="mouth", measure="share")
            np.testing.assert_allclose(row[["number", "low", "high"]].astype(float), expected, rtol=1e-9)
            assert row["low"] < row["number"] < row["high"]


def test_an_image_with_a_blank_map_counts_for_neither_side_of_a_difference() -> None:
    """Two networks that agree in all images in which both have a map do not differ, although their means do."""
    share = np.random.default_rng(2).random((6, 2, 6, 3)) / 4
    share[:, :, 2] = share[:, :, 0]
    share[2:4, :, 2] = np.nan
    table = tabulate(share)
    differences = select_rows(table, against="single", tested_on="expression", measure="share", expression="all")
    np.testing.assert_array_equal(differences[["number", "low", "high"]], 0)
    assert (differences["n"] == 4).all()


def test_joint_minus_single_is_paired() -> None:
    """Networks with an equal difference in every image have an interval without width."""
    share = np.random.default_rng(2).random((6, 2, 6, 3)) / 4
    share[:, :, 2] = share[:, :, 0] + 0.25
    share[:, :, 3] = share[:, :, 1] - 0.125
    table = tabulate(share)
    for task, difference in (("expression", 0.25), ("identity", -0.125)):
        differences = select_rows(table, against="single", tested_on=task, measure="share")
        differences = differences[differences["expression"].isin(["all", "happy", "sad"])]
        np.testing.assert_allclose(differences[["number", "low", "high"]], difference, rtol=1e-9)


def test_blank_maps_are_counted_and_left_out() -> None:
    share = draw_shares()
    share[[1, 4], :, 3] = np.nan  # everything of a
    share[2, 0, 3] = np.nan
    share[5, 1, 1] = np.nan
    table = tabulate(share)
    row = find_row(table, **JOINT, expression="all", region="mouth", measure="share", against="")
    assert (row["n"], row["people"], row["blank"]) == (4, 2, 5)
    assert row["number"] == pytest.approx(np.nanmean(np.nanmean(average_slowly(share, 3, 1, "all"), axis=1)), rel=1e-12)
    both = find_row(table, **JOINT, expression="all", region="mouth", measure="share", against="single")
    assert (both["n"], both["people"], both["blank"]) == (4, 2, 6)
    sad = find_row(table, **JOINT, expression="sad", region="mouth", measure="share", against="")
    assert (sad["n"], sad["people"], sad["blank"]) == (2, 1, 3)


def test_missing_numbers_have_a_reason() -> None:
    share = draw_shares()
    share[:, :, 1] = np.nan  # the identity network has blank maps
    share[..., 2] = np.where(np.isnan(share[..., 2]), np.nan, 0)
    area = np.tile([0.7, 0.3, 0.0], (6, 1))  # no occluder anywhere
    table = tabulate(share, area)
    nothing = select_rows(table, expression="all", reason="no heatmap has any mass")
    assert set(zip(nothing["trained_on"], nothing["tested_on"], nothing["against"], strict=True)) == {
        ("identity", "identity", ""),
        ("joint", "identity", "single"),
    }
    assert len(nothing) == 2 * 3 * 2 and nothing[["number", "low", "high"]].isna().all(axis=None)
    assert nothing["blank"].tolist() == [12] * 12 and set(nothing["n"]) == set(nothing["people"]) == {0}
    absent = select_rows(table, expression="all", reason="no image shows this region")
    assert set(absent["region"]) == {"occluder"} and set(absent["measure"]) == {"density"} and len(absent) == 6
    shared = find_row(table, **JOINT, expression="all", region="occluder", measure="share", against="")
    assert (shared["number"], shared["n"]) == (0, 6)
    assert set(select_rows(table, expression="fear")["reason"]) == {"no image shows fear"}
    assert table["number"].isna().eq(table["reason"] != "").all()


def test_the_density_of_a_region_is_that_of_the_images_that_show_it() -> None:
    share, area = draw_shares(), np.tile([0.6, 0.4, 0.0], (6, 1))
    share[..., 2] = 0
    share[3, ..., 2], area[3, 2] = 0.5, 0.25  # the only image of c
    table = tabulate(share, area)
    row = find_row(table, **JOINT, expression="all", region="occluder", measure="density", against="")
    assert (row["number"], row["n"], row["people"]) == (2, 1, 1)


def test_the_order_of_images_does_not_matter() -> None:
    share = draw_shares()
    share[2, 1, 0] = np.nan
    ordered, order = make_shares(share), np.array([4, 2, 0, 5, 1, 3])
    labels = ordered.labels.iloc[order].reset_index(drop=True)
    shuffled = replace(ordered, share=share[order], area=ordered.area[order], labels=labels)
    tables = [tabulate_regions(each, draws=100, generator=np.random.default_rng(6)) for each in (ordered, shuffled)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-12)
