"""Means and standard deviations of maps per group are those of all maps in memory, in whatever batches they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.analyses.moments import Moments
from facespec.study.errors import StudyError
from facespec.study.maps import scale_maps


def make_maps(n: int, shape: tuple[int, int] = (3, 5), seed: int = 1) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).random((n, *shape), dtype=np.float32)


def add_in_batches(maps: np.ndarray, groups: np.ndarray, batch_size: int, n_groups: int = 3) -> Moments:
    moments = Moments(n_groups, maps.shape[1:])
    for start in range(0, len(maps), batch_size):
        moments.add(maps[start : start + batch_size], groups[start : start + batch_size])
    return moments


def test_moments_by_hand() -> None:
    """Group 0 has maps (1, 3) and (5, 3), group 2 the map (2, 8), group 1 none."""
    moments = Moments(3, (1, 2))
    moments.add(np.array([[[1, 3]], [[2, 8]]]), np.array([0, 2]))
    moments.add(np.array([[[5, 3]]]), np.array([0]))
    assert moments.count.tolist() == [2, 0, 1] and moments.blank.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(moments.mean, [[[3, 3]], [[np.nan, np.nan]], [[2, 8]]])
    np.testing.assert_array_equal(moments.sd, [[[2, 0]], [[np.nan, np.nan]], [[0, 0]]])


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=23), st.integers(1, 9), st.integers(0, 3))
def test_moments_are_those_of_all_maps_at_once(codes: list[int], batch_size: int, seed: int) -> None:
    groups, maps = np.array(codes), make_maps(len(codes), seed=seed)
    moments = add_in_batches(maps, groups, batch_size)
    for group in range(3):
        members = maps[groups == group].astype(np.float64)
        assert moments.count[group] == len(members)
        if len(members):
            np.testing.assert_allclose(moments.mean[group], members.mean(axis=0), rtol=1e-13)
            # squares of numbers up to 1 are rounded to 1e-16, so that errors of sds are about its root
            np.testing.assert_allclose(moments.sd[group], members.std(axis=0), rtol=1e-9, atol=3e-8)
        else:
            assert np.isnan(moments.mean[group]).all() and np.isnan(moments.sd[group]).all()


def test_float32_maps_are_summed_in_float64() -> None:
    """A hundred million and a hundred ones: in float32, the ones would vanish."""
    maps = np.ones((101, 1, 1), dtype=np.float32)
    maps[0] = 1e8
    moments = add_in_batches(maps, np.zeros(101, dtype=int), 1, n_groups=1)
    assert moments.total.tolist() == [[[100000100.0]]] and moments.mean[0, 0, 0] == 100000100 / 101


def test_blank_maps_are_counted_and_left_out() -> None:
    """Once scaled, maps without contrast are NaN; raw, they are zeros that count."""
    maps, groups = make_maps(8), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    maps[[1, 4]] = 0
    maps[5] = 0.25
    moments = add_in_batches(scale_maps(maps), groups, 3)
    assert moments.count.tolist() == [2, 1, 2] and moments.blank.tolist() == [1, 1, 1]
    np.testing.assert_allclose(moments.mean[0], scale_maps(maps[[0, 2]]).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.mean[1], scale_maps(maps[[3]])[0], rtol=1e-13)
    np.testing.assert_allclose(moments.sd[2], scale_maps(maps[[6, 7]]).std(axis=0), rtol=1e-9, atol=3e-8)
    raw = add_in_batches(maps, groups, 3)
    assert raw.count.tolist() == [3, 2, 3] and not raw.blank.any()
    np.testing.assert_allclose(raw.mean[1], maps[3] / 2, rtol=1e-6)


def test_a_map_with_one_nan_is_blank_and_a_group_of_blank_maps_has_no_mean() -> None:
    maps = np.ones((4, 3, 5))
    maps[1, 2, 4] = maps[2:] = np.nan
    moments = Moments(2, (3, 5))
    moments.add(maps, np.array([0, 0, 1, 1]))
    assert moments.count.tolist() == [1, 0] and moments.blank.tolist() == [1, 2]
    assert (moments.mean[0] == 1).all() and np.isnan(moments.mean[1]).all() and np.isnan(moments.sd[1]).all()


def test_merged_groups_are_as_if_they_had_been_one() -> None:
    maps, groups, new_groups = scale_maps(make_maps(17)), np.arange(17) % 5, np.array([1, 0, 1, 1, 0])
    maps[3] = np.nan
    merged = add_in_batches(maps, groups, 4, n_groups=5).merge(new_groups)
    expected = add_in_batches(maps, new_groups[groups], 17, n_groups=2)
    assert merged.count.tolist() == expected.count.tolist() == [7, 9]
    assert merged.blank.tolist() == expected.blank.tolist() == [0, 1]
    np.testing.assert_allclose(merged.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.sd, expected.sd, rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_maps() -> None:
    sizes = []
    for n in (1, 1000):
        moments = add_in_batches(make_maps(n), np.zeros(n, dtype=int), 100)
        sizes.append(sum(array.nbytes for array in vars(moments).values()))
    assert sizes == [2 * 3 * 8 + 2 * 3 * 15 * 8] * 2


@pytest.mark.parametrize(("codes", "span"), [([0, -1], "-1 ... 0"), ([3, 2], "2 ... 3")])
def test_a_group_that_does_not_exist_is_refused(codes: list[int], span: str) -> None:
    """-1 stands for "unknown" in pandas; as an index, it would mean the last group."""
    moments = Moments(3, (3, 5))
    with pytest.raises(StudyError, match=f"groups lie in {span}; there are 3, from 0"):
        moments.add(make_maps(2), np.array(codes))
    assert not moments.total.any() and not moments.count.any()
