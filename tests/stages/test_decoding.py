from __future__ import annotations

import numpy as np

from facespec.data.faceset import FaceSet
from facespec.stages import decoding
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY


def test_every_cell_seed_and_resample_has_its_row(analysed: Paths) -> None:
    table = ACCURACY.read(analysed.table("decoding"))
    cells = table.groupby(["figure", "trained_on", "tested_on", "seed"])["resample"].apply(list)
    assert len(cells) == 2 * 2 * 2 * 2 and all(resamples == list(range(-1, 100)) for resamples in cells)
    # by hand: 3 people x 7 expressions; 7 x 1 and 4 people x 2
    assert set(table[["figure", "tested_on", "role", "n"]].itertuples(index=False, name=None)) == {
        ("1B", "expression", "probe", 21),
        ("1B", "identity", "probe", 21),
        ("S1A", "expression", "expression", 7),
        ("S1A", "identity", "identity", 8),
    }
    chances = table.groupby(["figure", "tested_on"])["chance"].agg(["min", "max"]).T
    np.testing.assert_allclose(chances, [[1 / 7, 1 / 3, 1 / 7, 1 / 4]] * 2)
    assert set(table["source"]) == {"embedded faces"}


def test_resamples_are_paired_between_networks(analysed: Paths) -> None:
    """Equal images are drawn for all: networks that are right on the same images are so on every resample."""
    table = ACCURACY.read(analysed.table("decoding")).query("figure == '1B'")
    wide = table.pivot_table(index="resample", columns=["trained_on", "tested_on", "seed"], values="accuracy")
    counts = wide * 21
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    # perfect decoders stay perfect; of imperfect ones, some pair must covary as independent draws would not
    varying = wide.loc[0:, wide.std() > 0]
    assert varying.corr().to_numpy()[np.triu_indices(varying.shape[1], 1)].max() > 0.3


def test_no_image_is_both_fitted_and_tested(analysed: Paths, params: Params) -> None:
    tasks = list(decoding.list_decoding_tasks(analysed, params))
    assert [(task.figure, task.task.value) for task in tasks] == [
        ("1B", "expression"),
        ("1B", "identity"),
        ("S1A", "expression"),
        ("S1A", "identity"),
    ]
    for task in tasks:
        assert not set(task.fit_rows) & set(task.test_rows)
    split = FaceSet.open(analysed.faces("identity")).labels["split"]
    assert set(split[tasks[3].test_rows]) == {"test"} and set(split[tasks[3].fit_rows]) == {"train"}
