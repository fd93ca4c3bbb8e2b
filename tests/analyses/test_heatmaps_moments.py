"""Means and spreads of heatmaps per group: as numpy finds them with all maps in memory, however they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.analyses.heatmaps import Moments
from facespec.study.errors import StudyError
from facespec.study.maps import scale_maps


def noise(n: int, shape: tuple[int, int] = (3, 5), seed: int = 1) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).random((n, *shape), dtype=np.float32)


def streamed(maps: np.ndarray, groups: np.ndarray, batch_size: int, n_groups: int = 3) -> Moments:
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


@given(st.lists(st.integers(0, 2), min_size=1, max_size=23), st.integers(1, 9), st.integers(0, 3))
def test_streamed_moments_are_those_of_all_maps_at_once(codes: list[int], batch_size: int, seed: int) -> None:
    groups, maps = np.array(codes), noise(len(codes), seed=seed)
    moments = streamed(maps, groups, batch_size)
    for group in range(3):
        own = maps[groups == group].astype(np.float64)
        assert moments.count[group] == len(own)
        if len(own):
            np.testing.assert_allclose(moments.mean[group], own.mean(axis=0), rtol=1e-13)
            # squares of numbers up to 1 are kept to 1e-16, so that sds are sure to about its root
            np.testing.assert_allclose(moments.sd[group], own.std(axis=0), rtol=1e-9, atol=3e-8)
        else:
            assert np.isnan(moments.mean[group]).all() and np.isnan(moments.sd[group]).all()


def test_float32_maps_are_summed_in_float64() -> None:
    """A hundred million and a hundred ones: in float32, the ones would vanish."""
    maps = np.ones((101, 1, 1), dtype=np.float32)
    maps[0] = 1e8
    moments = streamed(maps, np.zeros(101, dtype=int), 1, n_groups=1)
    assert moments.total.tolist() == [[[100000100.0]]] and moments.mean[0, 0, 0] == 100000100 / 101


def test_blank_maps_are_counted_and_left_out() -> None:
    """Once scaled, maps without contrast are NaN; raw, they count as the zeros they are."""
    maps, groups = noise(8), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    maps[[1, 4]] = 0
    maps[5] = 0.25
    moments = streamed(scale_maps(maps), groups, 3)
    assert moments.count.tolist() == [2, 1, 2] and moments.blank.tolist() == [1, 1, 1]
    np.testing.assert_allclose(moments.mean[0], scale_maps(maps[[0, 2]]).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.mean[1], scale_maps(maps[[3]])[0], rtol=1e-13)
    np.testing.assert_allclose(moments.sd[2], scale_maps(maps[[6, 7]]).std(axis=0), rtol=1e-9, atol=3e-8)
    raw = streamed(maps, groups, 3)
    assert raw.count.tolist() == [3, 2, 3] and not raw.blank.any()
    np.testing.assert_allclose(raw.mean[1], maps[3] / 2, rtol=1e-6)


def test_a_group_of_blank_maps_alone_has_no_mean() -> None:
    moments = Moments(1, (3, 5))
    moments.add(scale_maps(np.zeros((4, 3, 5))), np.zeros(4, dtype=int))
    assert (moments.count[0], moments.blank[0]) == (0, 4)
    assert np.isnan(moments.mean).all() and np.isnan(moments.sd).all()


def test_one_odd_cell_makes_a_map_blank_as_a_whole() -> None:
    maps = np.ones((2, 3, 5))
    maps[1, 2, 4] = np.nan
    moments = Moments(1, (3, 5))
    moments.add(maps, np.zeros(2, dtype=int))
    assert (moments.count[0], moments.blank[0]) == (1, 1) and (moments.mean == 1).all()


def test_groups_are_joined_as_if_they_had_been_one() -> None:
    maps, groups, onto = scale_maps(noise(17)), np.arange(17) % 5, np.array([1, 0, 1, 1, 0])
    maps[3] = np.nan
    joined, wanted = streamed(maps, groups, 4, n_groups=5).merge(onto), streamed(maps, onto[groups], 17, n_groups=2)
    assert joined.count.tolist() == wanted.count.tolist() == [7, 9]
    assert joined.blank.tolist() == wanted.blank.tolist() == [0, 1]
    np.testing.assert_allclose(joined.mean, wanted.mean, rtol=1e-13)
    np.testing.assert_allclose(joined.sd, wanted.sd, rtol=1e-12)


def test_no_map_is_kept() -> None:
    """What is held does not grow with the number of maps."""
    sizes = []
    for n in (1, 1000):
        moments = streamed(noise(n), np.zeros(n, dtype=int), 100)
        sizes.append(sum(array.nbytes for array in vars(moments).values()))
    assert sizes == [2 * 3 * 8 + 2 * 3 * 15 * 8] * 2


@pytest.mark.parametrize(("codes", "span"), [([0, -1], "-1 ... 0"), ([3, 2], "2 ... 3")])
def test_a_group_that_is_not_there_is_refused(codes: list[int], span: str) -> None:
    """-1 stands for "unknown" in pandas; as an index, it would mean the last group."""
    moments = Moments(3, (3, 5))
    with pytest.raises(StudyError) as caught:
        moments.add(noise(2), np.array(codes))
    assert str(caught.value) == f"groups lie in {span}; there are 3, from 0."
    assert not moments.total.any() and not moments.count.any()
