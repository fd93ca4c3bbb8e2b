from __future__ import annotations

import pickle
from pathlib import Path

import pandas as pd
import pytest

from facespec.published.reference import published_bars
from facespec.stages import export
from facespec.study.errors import StudyError
from facespec.study.paths import Paths
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY

FIRST, SECOND = 7, 3  # the study's first seed need not be the smallest


@pytest.fixture
def study(tmp_path: Path) -> Paths:
    """Every figure, bar, seed and resample with a number of its own."""
    paths = Paths(tmp_path)
    for name, figures in {"decoding": ("1B", "S1A"), "accuracy": ("1C", "S1B")}.items():
        cells = [
            pd.DataFrame({
                "figure": bar.figure, "trained_on": bar.trained_on, "tested_on": bar.tested_on, "role": "probe",
                "source": "embedded faces", "seed": seed, "resample": range(-1, 103), "n": 9, "chance": 0.1,
                "accuracy": [(1000 * i + 200 * (seed == SECOND) + r) / 20000 for r in range(104)],
            })
            for seed in (FIRST, SECOND) for i, bar in enumerate(published_bars()) if bar.figure in figures
        ]  # fmt: skip
        write_table(paths.table(name), ACCURACY.check(pd.concat(cells, ignore_index=True)))
    return paths


def files(paths: Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.results.glob("*.pickle")}


def test_the_four_pickles_hold_the_first_seeds_first_hundred_resamples(study: Paths) -> None:
    export.run(study)
    bars = published_bars()
    assert files(study).keys() == {bar.file for bar in bars} and len(files(study)) == 4
    for i, bar in enumerate(bars):
        # plain pickle, as the original's own cells read them
        content = pickle.loads((study.results / bar.file).read_bytes())
        assert content[bar.key] == [(1000 * i + r) / 20000 for r in range(1, 101)]


def test_running_again_gives_the_same_bytes(study: Paths) -> None:
    export.run(study)
    first = files(study)
    export.run(study)
    assert files(study) == first


def test_nothing_is_written_where_one_cell_is_short(study: Paths) -> None:
    table = ACCURACY.read(study.table("accuracy"))
    short = table[
        ~table.eval("figure == 'S1B' and trained_on == 'joint' and tested_on == 'identity' and resample == 5")
    ]
    write_table(study.table("accuracy"), short)
    with pytest.raises(StudyError) as caught:
        export.run(study)
    assert str(caught.value) == (
        "figure S1B, joint network tested on identity, seed 7: "
        "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle needs resamples 0 to 99, each once; "
        "the table has 99 rows of them."
    )
    assert not files(study)


def test_a_missing_table_is_named(study: Paths) -> None:
    study.table("decoding").unlink()
    with pytest.raises(StudyError) as caught:
        export.run(study)
    assert str(caught.value) == f"{study.table('decoding')}: no such file. `dvc repro` makes it."
