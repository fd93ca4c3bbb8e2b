from __future__ import annotations

import numpy as np

from facespec.stages import contrasts
from facespec.study.maps import MapSet, scale_maps
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.tables import CONTRASTS


def test_differences_are_those_of_the_peoples_mean_maps(explained: Paths) -> None:
    """From the raw maps of the study: people count alike, and seeds do."""
    contrasts.run(explained, read_params(explained.params))
    table, made = CONTRASTS.read(explained.table("contrasts")), MapSet.open(explained.heatmaps)
    sound = table[
        (table["style"] == "sound")
        & (table["first_tested_on"] == "identity")
        & (table["second_trained_on"] == "identity")
    ].sort_values(["row", "column"])
    people = sorted(set(made.labels["identity"]))
    shown = made.labels["identity"].to_numpy()
    each = {}
    for network in ("joint", "identity"):
        maps = [scale_maps(made.maps(network, "identity", seed)) for seed in made.seeds]
        each[network] = np.array([[np.nanmean(own[shown == who], axis=0) for who in people] for own in maps])
    expected = (each["joint"] - each["identity"]).mean(axis=(0, 1))
    assert len(sound) == 16 * 16 and set(sound["n"]) == {3} and sound["seed"].isna().all()
    np.testing.assert_allclose(sound["difference"].to_numpy().reshape(16, 16), expected, atol=1e-12)
    published = table[table["style"] == "published"]
    assert len(published) == 3 * 2 and set(published["n"]) == {32 * 32} and set(published["seed"]) == {5, 6}


def test_the_same_bytes_twice(explained: Paths) -> None:
    written = []
    for _ in range(2):
        contrasts.run(explained, read_params(explained.params))
        written.append(explained.table("contrasts").read_bytes())
    assert written[0] == written[1]


def test_the_parameters_reach_the_analysis(explained: Paths) -> None:
    params = read_params(explained.params)
    contrasts.run(explained, params)
    before = CONTRASTS.read(explained.table("contrasts"))
    for name, changed in (("permutations", 150), ("draws", 150), ("seed", 9)):
        block = params.contrasts.model_copy(update={name: changed})
        contrasts.run(explained, params.model_copy(update={"contrasts": block}))
        assert not CONTRASTS.read(explained.table("contrasts")).equals(before), name
