from __future__ import annotations

import numpy as np
import pandas as pd

from facespec.analyses.contrasts import contrast_maps
from facespec.stages import contrasts
from facespec.stages.person_maps import average_person_maps
from facespec.study.maps import MapSet, scale_maps
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import CONTRASTS
from toys import change_params


def test_differences_are_those_of_the_peoples_mean_maps(analysed: Paths) -> None:
    """From the raw maps of the study: every person counts the same, and every seed does."""
    table, map_set = CONTRASTS.read(analysed.table("contrasts")), MapSet.open(analysed.heatmaps)
    sound = table.query("style == 'sound' and first_tested_on == 'expression' and second_trained_on == 'expression'")
    sound = sound.sort_values(["row", "column"])
    identities = map_set.labels["identity"].to_numpy()
    means = {}
    for network in ("joint", "expression"):
        maps = [scale_maps(map_set.maps(network, "expression", seed)) for seed in map_set.seeds]
        people = [[np.nanmean(one[identities == person], axis=0) for person in np.unique(identities)] for one in maps]
        means[network] = np.array(people)
    expected = (means["joint"] - means["expression"]).mean(axis=(0, 1))
    assert len(sound) == 16 * 16 and set(sound["n"]) == {3} and sound["seed"].isna().all()
    np.testing.assert_allclose(sound["difference"].to_numpy().reshape(16, 16), expected, atol=1e-12)
    published = table[table["style"] == "published"]
    assert len(published) == 6 * 2 and set(published["n"]) == {32 * 32} and set(published["seed"]) == {5, 6}


def test_parameters_reach_the_analysis(analysed_copy: Paths, params: Params) -> None:
    before = CONTRASTS.read(analysed_copy.table("contrasts"))
    contrasts.run(analysed_copy, change_params(params, "contrasts", permutations=150, draws=140, seed=9))
    table = CONTRASTS.read(analysed_copy.table("contrasts"))
    maps, stream = average_person_maps(MapSet.open(analysed_copy.heatmaps)), generator(9, "contrasts")
    expected = contrast_maps(maps, permutations=150, draws=140, generator=stream)
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert not table.equals(before)
