"""Facial biomarkers: masses planted by hand, laws, the template against label maps, means and pairs by a slow road."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
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


def test_columns_follow_the_order_of_the_names() -> None:
    turned = dict(reversed(NAMES.items()))
    maps = np.arange(15.0).reshape(1, 3, 5)
    for found in (
        lambda codes: measure_region_shares(maps, LABELS[None], codes),
        lambda codes: measure_region_areas(LABELS[None], codes),
    ):
        np.testing.assert_array_equal(found(turned), found(NAMES)[:, ::-1])


def test_small_maps_are_brought_to_the_size_of_the_image() -> None:
    """By another road: torch's bilinear interpolation."""
    maps = np.random.default_rng(5).random((2, 2, 3)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (3, 5), mode="bilinear")[0].numpy()
    expected = [one[LABELS == 6].sum() / one.sum() for one in large]
    np.testing.assert_allclose(
        measure_region_shares(maps, np.stack([LABELS] * 2), NAMES)[:, 1], expected, rtol=1e-6
    )  # float32


def test_a_map_without_mass_has_no_shares() -> None:
    found = measure_region_shares(np.stack([np.zeros((2, 3)), np.ones((2, 3))]), np.stack([LABELS] * 2), NAMES)
    assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()


def test_a_code_without_a_name_is_refused() -> None:
    with pytest.raises(StudyError) as caught:
        measure_region_areas(LABELS[None], {"background": 0, "nose": 5})
    assert str(caught.value) == "a region map holds code 6; allowed: {'background': 0, 'nose': 5}."


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_shares_are_a_whole_and_know_no_scale(seed: int, factor: float) -> None:
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


# --- the template ---

BOX = FaceBox(top=0.1, bottom=0.9, left=0.2, right=0.7)


def centre(mask: np.ndarray) -> np.ndarray:
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
    where = {name: codes == code for name, code in names.items()}
    eyes = where["eyes"]
    np.testing.assert_allclose(centre(eyes), [437.5, 450], atol=1.5)
    assert np.flatnonzero(np.diff(eyes.any(axis=0).astype(int))).tolist() == [299, 399, 499, 599]
    assert np.flatnonzero(where["nose"].any(axis=1))[-1] == pytest.approx(587.5, abs=1.5)
    assert np.flatnonzero(where["nose"].any(axis=0))[[0, -1]] == pytest.approx([400, 500], abs=1.5)
    np.testing.assert_allclose(centre(where["mouth"]), [587.5 + 200 / 3, 450], atol=1.5)
    assert np.flatnonzero(where["mouth"].any(axis=0))[[0, -1]] == pytest.approx([375, 525], abs=1.5)
    assert np.flatnonzero(where["brows"].any(axis=1))[-1] == pytest.approx(387.5, abs=1.5)
    assert np.flatnonzero(where["outline"].any(axis=1))[0] == pytest.approx(187.5, abs=1.5)
    assert np.flatnonzero(where["hair"].any(axis=1))[-1] <= 437.5


def test_the_template_is_symmetric_in_its_box() -> None:
    codes, _ = make_region_template((31, 47), FaceBox(top=0.0, bottom=1.0, left=0.1, right=0.9))
    np.testing.assert_array_equal(codes, codes[:, ::-1])


@cache
def label_maps() -> np.ndarray:
    block = Data(
        seed=3,
        size=48,
        channels=1,
        tolerated=0.0,
        expression=ExpressionFaces(source="embedded", train=7, test=7),
        identity=IdentityFaces(source="embedded", people=2, train=1, test=1),
        probe=ProbeFaces(source="embedded", people=9),
    )
    stimuli = draw_role(Role.PROBE, block, generator(3, "faces"))
    chosen = stimuli.labels.query("view == 'straight' and session == 'A'").index.to_numpy()
    return render(stimuli, chosen, size=48, channels=1)[1]


def test_the_template_is_anatomically_sane() -> None:
    """Eyes and chin of 63 embedded faces place the box; the other parts must then lie where faces have them."""
    shown = {name: (label_maps() == CODES[name]).mean(axis=0) for name in CODES}
    grid = np.mgrid[:48, :48] + 0.5

    def middle(part: np.ndarray) -> np.ndarray:
        return (grid * part).sum(axis=(1, 2)) / part.sum()

    chin = np.flatnonzero((shown["outline"] >= 0.5).any(axis=1))[-1] + 1
    eye = middle(shown["eyes"] * (grid[1] < 24))
    height, width = 2 * (chin - eye[0]), (24 - eye[1]) / 0.2
    box = FaceBox(top=(chin - height) / 48, bottom=chin / 48, left=0.5 - width / 96, right=0.5 + width / 96)
    codes, names = make_region_template((48, 48), box)
    for name, least in {"brows": 0.3, "eyes": 0.5, "nose": 0.5, "mouth": 0.5, "background": 0.7}.items():
        ours, theirs = codes == names[name], shown[name] >= 0.5
        assert (ours & theirs).sum() / (ours | theirs).sum() > least, name
        assert np.abs(centre(ours) - middle(shown[name])).max() < 0.05 * height, name


# --- the table ---

PEOPLE = ["b", "a", "b", "c", "a", "b"]
SHOWN = ["happy", "happy", "sad", "happy", "sad", "sad"]


def found(share: np.ndarray, area: np.ndarray | None = None) -> RegionShares:
    area = np.tile([0.5, 0.3, 0.2], (len(share), 1)) if area is None else area
    labels = pd.DataFrame({"identity": PEOPLE, "expression": SHOWN})
    return RegionShares(share, area, labels, tuple(NAMES), "toy faces", "template")


def random_shares() -> np.ndarray:
    """(6 images, 2 seeds, 4 pairs, 3 regions), each image's a whole."""
    return np.random.default_rng(8).dirichlet([1, 2, 3], (6, 2, 4))


def rows(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]


def one(table: pd.DataFrame, **wanted: str) -> pd.Series:
    (row,) = (row for _, row in rows(table, **wanted).iterrows())
    return row


JOINT = {"trained_on": "joint", "tested_on": "identity"}


def test_every_row_is_there_once() -> None:
    table = tabulate_regions(found(random_shares()), draws=100, generator=np.random.default_rng(1))
    keys = ["trained_on", "tested_on", "expression", "region", "measure", "against"]
    assert len(table) == 6 * 8 * 3 * 2 and not table.duplicated(keys).any()
    assert set(table["trained_on"][table["against"] == "single"]) == {"joint"}
    assert (
        (table["seeds"] == 2).all() and set(table["source"]) == {"toy faces"} and set(table["regions"]) == {"template"}
    )


def test_images_are_averaged_within_people_first() -> None:
    """By hand: b's three images count as much as c's one."""
    share = np.zeros((6, 1, 4, 3))
    share[..., 0] = np.array([0.1, 0.4, 0.3, 0.9, 0.6, 0.5])[:, None, None]
    table = tabulate_regions(found(share), draws=100, generator=np.random.default_rng(1))
    row = one(table, **JOINT, expression="all", region="background", measure="share", against="")
    assert row["number"] == pytest.approx((0.3 + 0.5 + 0.9) / 3, rel=1e-12)
    assert (row["people"], row["n"], row["blank"], row["reason"]) == (3, 6, 0, "")
    sad = one(table, **JOINT, expression="sad", region="background", measure="density", against="")
    assert sad["number"] == pytest.approx((0.6 + 0.4) / 2 / 0.5, rel=1e-12) and (sad["people"], sad["n"]) == (2, 3)


def slow(share: np.ndarray, pair: int, region: int, expression: str) -> np.ndarray:
    """Means of people, (seeds, people a b c)."""
    means = np.full((2, 3), np.nan)
    for seed in range(2):
        for place, who in enumerate("abc"):
            own = [
                share[i, seed, pair, region]
                for i in range(6)
                if PEOPLE[i] == who and expression in ("all", SHOWN[i]) and not np.isnan(share[i, seed, pair, region])
            ]
            if own:
                means[seed, place] = sum(own) / len(own)
    return means


@pytest.mark.parametrize(("group", "place"), [("all", 0), ("happy", 1 + EXPRESSIONS.index("happy"))])
def test_intervals_are_over_seeds_and_people_with_draws_shared_by_all(group: str, place: int) -> None:
    share = random_shares()
    share[3, 1] = np.nan  # c has no map of the second seed
    share[0, 0, 3] = np.nan
    table = tabulate_regions(found(share), draws=150, generator=np.random.default_rng(4))
    for side, (trained_on, tested_on) in enumerate(PAIRS):
        difference = share[:, :, [side]] - share[:, :, [side - 2]]
        for against, values in (("", slow(share, side, 1, group)), ("single", slow(difference, 0, 1, group))):
            if against and trained_on != "joint":
                continue
            stream = np.random.default_rng(4).spawn(8)[place]
            expected = estimate_interval(values, draws=150, generator=stream)
            row = one(
                table,
                trained_on=trained_on,
                tested_on=tested_on,
                expression=group,
                region="mouth",
                measure="share",
                against=against,
            )
            np.testing.assert_allclose(row[["number", "low", "high"]].astype(float), expected, rtol=1e-9)
            assert row["low"] < row["number"] < row["high"]


def test_a_blank_map_takes_its_image_from_both_sides_of_a_difference() -> None:
    """Two networks that agree wherever both have a map do not differ, though their own means do."""
    share = np.random.default_rng(2).random((6, 2, 4, 3)) / 4
    share[:, :, 2] = share[:, :, 0]
    share[2:4, :, 2] = np.nan
    table = tabulate_regions(found(share), draws=100, generator=np.random.default_rng(1))
    own = rows(table, against="single", tested_on="expression", measure="share", expression="all")
    np.testing.assert_array_equal(own[["number", "low", "high"]], 0)
    assert (own["n"] == 4).all()


def test_joint_minus_single_is_paired() -> None:
    """Networks that differ by the same in every image leave no doubt about the difference."""
    share = np.random.default_rng(2).random((6, 2, 4, 3)) / 4
    share[:, :, 2] = share[:, :, 0] + 0.25
    share[:, :, 3] = share[:, :, 1] - 0.125
    table = tabulate_regions(found(share), draws=100, generator=np.random.default_rng(1))
    for task, difference in (("expression", 0.25), ("identity", -0.125)):
        some = rows(table, against="single", tested_on=task, measure="share")
        some = some[some["expression"].isin(["all", "happy", "sad"])]
        np.testing.assert_allclose(some[["number", "low", "high"]], difference, rtol=1e-9)


def test_blank_maps_are_counted_and_left_out() -> None:
    share = random_shares()
    share[[1, 4], :, 3] = np.nan  # everything of a
    share[2, 0, 3] = np.nan
    share[5, 1, 1] = np.nan
    table = tabulate_regions(found(share), draws=100, generator=np.random.default_rng(1))
    kept = one(table, **JOINT, expression="all", region="mouth", measure="share", against="")
    assert (kept["n"], kept["people"], kept["blank"]) == (4, 2, 5)
    assert kept["number"] == pytest.approx(np.nanmean(np.nanmean(slow(share, 3, 1, "all"), axis=1)), rel=1e-12)
    both = one(table, **JOINT, expression="all", region="mouth", measure="share", against="single")
    assert (both["n"], both["people"], both["blank"]) == (4, 2, 6)
    sad = one(table, **JOINT, expression="sad", region="mouth", measure="share", against="")
    assert (sad["n"], sad["people"], sad["blank"]) == (2, 1, 3)


def test_what_is_missing_has_a_reason() -> None:
    share = random_shares()
    share[:, :, 1] = np.nan  # the identity network sees nothing
    share[..., 2] = np.where(np.isnan(share[..., 2]), np.nan, 0)
    area = np.tile([0.7, 0.3, 0.0], (6, 1))  # no occluder anywhere
    table = tabulate_regions(found(share, area), draws=100, generator=np.random.default_rng(1))
    nothing = rows(table, expression="all", reason="no heatmap has any mass")
    assert set(zip(nothing["trained_on"], nothing["tested_on"], nothing["against"], strict=True)) == {
        ("identity", "identity", ""),
        ("joint", "identity", "single"),
    }
    assert len(nothing) == 2 * 3 * 2 and nothing[["number", "low", "high"]].isna().all(axis=None)
    assert nothing["blank"].tolist() == [12] * 12 and set(nothing["n"]) == set(nothing["people"]) == {0}
    absent = rows(table, expression="all", reason="no image shows this region")
    assert set(absent["region"]) == {"occluder"} and set(absent["measure"]) == {"density"} and len(absent) == 4
    shared = one(table, **JOINT, expression="all", region="occluder", measure="share", against="")
    assert (shared["number"], shared["n"]) == (0, 6)
    assert set(rows(table, expression="fear")["reason"]) == {"no image shows fear"}
    assert table["number"].isna().eq(table["reason"] != "").all()


def test_a_region_that_some_images_show_has_their_density() -> None:
    share, area = random_shares(), np.tile([0.6, 0.4, 0.0], (6, 1))
    share[..., 2] = 0
    share[3, ..., 2], area[3, 2] = 0.5, 0.25  # c's only image
    table = tabulate_regions(found(share, area), draws=100, generator=np.random.default_rng(1))
    row = one(table, **JOINT, expression="all", region="occluder", measure="density", against="")
    assert (row["number"], row["n"], row["people"]) == (2, 1, 1)


def test_the_order_of_images_does_not_matter() -> None:
    share = random_shares()
    share[2, 1, 0] = np.nan
    before = found(share)
    order = np.array([4, 2, 0, 5, 1, 3])
    labels = before.labels.iloc[order].reset_index(drop=True)
    after = RegionShares(share[order], before.area[order], labels, before.names, before.source, before.regions)
    tables = [tabulate_regions(this, draws=100, generator=np.random.default_rng(6)) for this in (before, after)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-12)
