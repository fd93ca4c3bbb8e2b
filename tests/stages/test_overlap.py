from __future__ import annotations

import numpy as np
import pandas as pd

from facespec.analyses.overlap import measure_overlap
from facespec.stages import overlap
from facespec.stages.person_maps import average_person_maps
from facespec.study.maps import MapSet, scale_maps, upsample_maps
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import OVERLAP
from facespec.study.vocabulary import PAIRS
from toys import change_params


def test_the_medians_are_those_of_the_mean_scaled_maps(analysed: Paths) -> None:
    """From the raw maps of the study, by the definition of Figure 2B."""
    table, maps = OVERLAP.read(analysed.table("overlap")), MapSet.open(analysed.heatmaps)
    assert set(table["source"]) == {"embedded faces"} and set(table["resample"]) == set(range(-1, 100))
    medians = table.query("quantity == 'median' and resample == -1").set_index(["trained_on", "tested_on", "seed"])
    assert sorted(medians.index) == sorted((*pair, seed) for pair in PAIRS for seed in (5, 6))
    for pair in PAIRS:
        mean = np.nanmean(scale_maps(maps.maps(*pair, 6)), axis=0)
        expected = np.median(upsample_maps(mean, (32, 32)))
        np.testing.assert_allclose(medians["number"][(*pair, 6)], expected, atol=1e-12)


def test_parameters_reach_the_analysis(analysed_copy: Paths, params: Params) -> None:
    before = OVERLAP.read(analysed_copy.table("overlap"))
    overlap.run(analysed_copy, change_params(params, "overlap", quantile=0.5, top=0.4, resamples=101, seed=9))
    table = OVERLAP.read(analysed_copy.table("overlap"))
    maps, stream = MapSet.open(analysed_copy.heatmaps), generator(9, "overlap")
    by_expression = [average_person_maps(maps, expression=name) for name in sorted(set(maps.labels["expression"]))]
    assert len(by_expression) == 7
    expected = measure_overlap(
        average_person_maps(maps), by_expression, quantile=0.5, top=0.4, resamples=101, generator=stream
    )
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert not table.equals(before)


def test_maps_of_expressions_sum_up_to_those_of_people(fitted: Paths) -> None:
    maps = MapSet.open(fitted.heatmaps)
    whole = average_person_maps(maps)
    parts = {name: average_person_maps(maps, expression=name) for name in set(maps.labels["expression"])}
    assert {part.people for part in parts.values()} == {whole.people}
    np.testing.assert_array_equal(sum(part.count for part in parts.values()), whole.count)
    np.testing.assert_allclose(sum(part.total for part in parts.values()), whole.total, atol=1e-12)
    rows = (maps.labels["expression"] == "sad") & (maps.labels["identity"] == whole.people[1])
    expected = np.nansum(scale_maps(maps.maps("joint", "identity", 6)[rows.to_numpy()]), axis=0)
    np.testing.assert_allclose(parts["sad"].total[PAIRS.index(("joint", "identity")), 1, 1], expected, atol=1e-12)
