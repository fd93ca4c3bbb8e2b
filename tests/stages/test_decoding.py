from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facespec.data.faceset import FaceSet
from facespec.stages import decoding, train
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY
from facespec.study.vocabulary import Network


@pytest.fixture(scope="module")
def made(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    import shutil

    paths = Paths(tmp_path_factory.mktemp("decoding") / "study")
    shutil.copytree(tiny_study, paths.root)
    params = read_params(paths.params)
    for network in (Network.EXPRESSION, Network.IDENTITY):
        for seed in params.seeds:
            train.run(paths, params, network=network, seed=seed, device="cpu")
    decoding.run(paths, params, device="cpu")
    return paths


def test_every_cell_seed_and_resample_has_its_row(made: Paths) -> None:
    table = ACCURACY.read(made.table("decoding"))
    keys = ["figure", "trained_on", "tested_on", "seed"]
    assert table.groupby(keys)["resample"].apply(list).map(lambda r: r == list(range(-1, 100))).all()
    assert len(table.groupby(keys)) == 2 * 2 * 2 * 2
    sizes = table.groupby(["figure", "tested_on"])[["n", "chance"]].first()
    # by hand: 3 people x 7 expressions; 7 x 1 and 4 people x 2
    assert sizes["n"].to_dict() == {
        ("1B", "expression"): 21,
        ("1B", "identity"): 21,
        ("S1A", "expression"): 7,
        ("S1A", "identity"): 8,
    }
    assert sizes["chance"].tolist() == pytest.approx([1 / 7, 1 / 3, 1 / 7, 1 / 4])
    assert set(table["source"]) == {"embedded faces"}
    role = table.groupby(["figure", "tested_on"])["role"].unique().map(list).to_dict()
    assert role[("1B", "identity")] == ["probe"] and role[("S1A", "identity")] == ["identity"]


def test_resamples_are_paired_between_networks(made: Paths) -> None:
    """Equal images are drawn for all: where two networks answer alike on the images, they do on every resample."""
    table = ACCURACY.read(made.table("decoding")).query("figure == '1B'")
    wide = table.pivot_table(index="resample", columns=["trained_on", "tested_on", "seed"], values="accuracy")
    counts = wide * 21
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    # perfect decoders stay perfect; of imperfect ones, some pair must covary as independent draws would not
    varying = wide.loc[0:, wide.std() > 0]
    assert varying.corr().to_numpy()[np.triu_indices(varying.shape[1], 1)].max() > 0.3


def test_running_again_gives_the_same_bytes(made: Paths) -> None:
    before = made.table("decoding").read_bytes()
    decoding.run(made, read_params(made.params), device="cpu")
    assert made.table("decoding").read_bytes() == before


def test_fit_and_test_images_are_apart(made: Paths) -> None:
    params = read_params(made.params)
    readings = [*decoding._probe_readings(made, params), *decoding._role_readings(made, params)]
    assert [(r.figure, r.task.value) for r in readings] == [
        ("1B", "expression"),
        ("1B", "identity"),
        ("S1A", "expression"),
        ("S1A", "identity"),
    ]
    for reading in readings:
        assert not set(reading.fit) & set(reading.test)
    own = FaceSet.open(made.faces("identity")).labels
    assert set(own["split"].iloc[readings[3].test]) == {"test"} and set(own["split"].iloc[readings[3].fit]) == {"train"}
