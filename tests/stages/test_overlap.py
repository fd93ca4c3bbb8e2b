from __future__ import annotations

import numpy as np
import pytest

from facespec.stages import overlap
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, scale_maps, upsample_maps
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.tables import OVERLAP
from facespec.study.vocabulary import PAIRS


def test_the_medians_are_those_of_the_mean_scaled_maps(explained: Paths) -> None:
    """From the raw maps of the study, by the definition of Figure 2B."""
    overlap.run(explained, read_params(explained.params))
    table, made = OVERLAP.read(explained.table("overlap")), MapSet.open(explained.heatmaps)
    assert set(table["source"]) == {"embedded faces"} and set(table["seed"]) == {5, 6}
    assert set(table["resample"]) == set(range(-1, 100))
    own = table[(table["quantity"] == "median") & (table["resample"] == -1)]
    assert len(own) == len(PAIRS) * 2
    for network, task in PAIRS:
        mean = np.nanmean(scale_maps(made.maps(network, task, 6)), axis=0)
        row = own[(own["trained_on"] == network) & (own["tested_on"] == task) & (own["seed"] == 6)]
        np.testing.assert_allclose(row["number"].item(), np.median(upsample_maps(mean, (32, 32))), atol=1e-12)


def test_the_same_bytes_twice(explained: Paths) -> None:
    written = []
    for _ in range(2):
        overlap.run(explained, read_params(explained.params))
        written.append(explained.table("overlap").read_bytes())
    assert written[0] == written[1]


def test_the_parameters_reach_the_analysis(explained: Paths) -> None:
    params = read_params(explained.params)
    overlap.run(explained, params)
    before = OVERLAP.read(explained.table("overlap"))
    for name, changed in (("quantile", 0.5), ("top", 0.5), ("seed", 9), ("resamples", 101)):
        block = params.overlap.model_copy(update={name: changed})
        overlap.run(explained, params.model_copy(update={"overlap": block}))
        assert not OVERLAP.read(explained.table("overlap")).equals(before), name


def test_heatmaps_that_are_not_there_are_named(explained: Paths) -> None:
    (explained.heatmaps / "heatmaps.json").unlink()
    with pytest.raises(StudyError) as caught:
        overlap.run(explained, read_params(explained.params))
    assert str(caught.value) == (
        f"{explained.heatmaps}: no heatmaps here (no heatmaps.json in it). `dvc repro heatmaps` makes them."
    )
