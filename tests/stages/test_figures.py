from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from facespec.stages import figures as stage
from facespec.study.errors import StudyError
from facespec.study.paths import Paths
from facespec.study.storage import write_table

BARS = {
    "1B": [
        ("expression", "expression"),
        ("identity", "expression"),
        ("expression", "identity"),
        ("identity", "identity"),
    ],
    "1C": [("expression", "expression"), ("joint", "expression"), ("identity", "identity"), ("joint", "identity")],
}
BARS |= {"S1A": BARS["1B"], "S1B": BARS["1C"]}
NAMES = [f"figure_{name}" for name in ("1", "1B", "1C", "S1A", "S1B")]


def results(root: Path) -> dict[tuple[str, str, str], float]:
    """Both tables of two seeds; returns the height every bar should have."""
    heights, rows = {}, []
    for place, (figure, cells) in enumerate(BARS.items()):
        for slot, (trained_on, tested_on) in enumerate(cells):
            heights[figure, trained_on, tested_on] = 0.2 + 0.03 * (4 * place + slot)
            for seed, shift in ((1, -0.01), (2, 0.01)):
                for resample in range(-1, 110):
                    accuracy = (
                        0.2 + 0.03 * (4 * place + slot) + shift + (0.0005 * (resample % 7) if resample >= 0 else 0)
                    )
                    rows.append({"figure": figure, "trained_on": trained_on, "tested_on": tested_on, "role": "probe",
                                 "source": "embedded faces", "seed": seed, "resample": resample, "n": 35, "chance": 0.1,
                                 "accuracy": accuracy})  # fmt: skip
    table = pd.DataFrame(rows)
    decoding = table["figure"].isin(["1B", "S1A"])
    write_table(root / "Results" / "decoding.csv", table[decoding])
    write_table(root / "Results" / "accuracy.csv", table[~decoding])
    return heights


def test_every_figure_is_written_twice_with_the_same_bytes(tmp_path: Path) -> None:
    results(tmp_path)
    stage.run(Paths(tmp_path))
    where = tmp_path / "Results" / "figures"
    first = {path.name: path.read_bytes() for path in where.iterdir()}
    assert sorted(first) == sorted(f"{name}.{suffix}" for name in NAMES for suffix in ("pdf", "png"))
    stage.run(Paths(tmp_path))
    assert {path.name: path.read_bytes() for path in where.iterdir()} == first


def test_figures_show_the_tables_beside_the_published_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heights = results(tmp_path)
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(stage, "save", lambda figure, stem: drawn.update({stem.name: figure}))
    stage.run(Paths(tmp_path))
    assert sorted(drawn) == sorted(NAMES)
    for figure, cells in BARS.items():
        published, reproduced = drawn[f"figure_{figure}"].axes
        assert published.get_title().startswith("published\n")
        assert reproduced.get_title() == "reproduced\nembedded faces"
        expected = [heights[figure, *cell] for cell in cells]
        np.testing.assert_allclose([patch.get_height() for patch in reproduced.patches], expected)
        assert [patch.get_height() for patch in published.patches] != [
            patch.get_height() for patch in reproduced.patches
        ]
    # by hand, from the paper: the identity network reads .967 of identities, the joint network .558 of FER2013
    assert round(drawn["figure_1B"].axes[0].patches[3].get_height(), 3) == 0.967
    assert round(drawn["figure_S1B"].axes[0].patches[1].get_height(), 3) == 0.558
    assert [len(axes.patches) for axes in drawn["figure_1"].axes] == [4] * 4


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    results(tmp_path)
    (tmp_path / "Results" / "accuracy.csv").unlink()
    with pytest.raises(StudyError) as caught:
        stage.run(Paths(tmp_path))
    assert str(caught.value) == f"{tmp_path / 'Results' / 'accuracy.csv'}: no such file. `dvc repro` makes it."
    assert not (tmp_path / "Results" / "figures").exists()
