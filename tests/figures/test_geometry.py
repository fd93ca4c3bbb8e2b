"""The figure of geometry, read back from its artists."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facespec.figures.geometry import draw_figure_geometry
from facespec.figures.style import LOOKS
from facespec.study.errors import StudyError
from facespec.study.tables_geometry import GEOMETRY
from facespec.study.vocabulary import Network
from toys import combine, make_table, read_legend

NETWORKS = ("expression", "identity", "joint", "untrained")


def make_geometry() -> pd.DataFrame:
    """Two seeds, three convolutions, four networks; ten resamples."""
    columns = {"trained_on": NETWORKS, "seed": (3, 1), "depth": (1, 2, 3), "of": ("expression", "identity")}
    rows = combine(**columns, inside=("other",), resample=range(-1, 10))
    rows += combine(**columns, inside=("shuffled",), resample=(-1,))
    for row in rows:
        row["inside"] = row["inside"].replace("other", {"expression": "identity"}.get(row["of"], "expression"))  # type: ignore
    table = make_table(GEOMETRY, rows, source="embedded faces", layer="x", directions=20, dimensions=2, chance=0.1)
    draw = np.random.default_rng(2)
    return table.assign(
        number=draw.uniform(0.1, 0.9, len(table)),
        chance=0.3 / table["depth"],
        layer="trunk.relu" + table["depth"].astype(str),
    )


@pytest.mark.parametrize(("panel", "task", "other"), [(0, "expression", "identity"), (1, "identity", "expression")])
def test_curves_are_means_over_seeds(panel: int, task: str, other: str) -> None:
    table = make_geometry()
    axes = draw_figure_geometry(table).axes[panel]
    assert axes.get_title() == f"{task} inside the subspace of {other}"
    whole = table[(table["resample"] == -1) & (table["of"] == task)]
    for name in NETWORKS:
        curves = [line for line in axes.lines if line.get_color() == LOOKS[Network(name)].colour]
        for inside, line in zip((other, "shuffled"), curves, strict=True):
            rows = whole[(whole["inside"] == inside) & (whole["trained_on"] == name)]
            np.testing.assert_allclose(line.get_ydata(), rows.groupby("depth")["number"].mean())
            assert np.abs(np.asarray(line.get_xdata()) - [1, 2, 3]).max() < 0.15
    chance = next(line for line in axes.lines if "all directions" in str(line.get_label()))
    np.testing.assert_allclose(chance.get_ydata(), [0.3, 0.15, 0.1])


def test_error_bars_are_percentiles_of_means_over_seeds() -> None:
    table = make_geometry()
    axes = draw_figure_geometry(table).axes[0]
    bars = sorted(
        (round(float(segment[0, 0])), *segment[:, 1])
        for container in axes.containers
        for segment in container.lines[2][0].get_segments()  # type: ignore[attr-defined]
    )
    drawn = table[(table["of"] == "expression") & (table["inside"] == "identity") & (table["resample"] >= 0)]
    means = drawn.groupby(["depth", "trained_on", "resample"])["number"].mean()
    bounds = means.groupby(["depth", "trained_on"]).agg(
        [lambda v: np.percentile(v, 2.5), lambda v: np.percentile(v, 97.5)]
    )
    expected = sorted((depth, low, high) for (depth, _), low, high in bounds.itertuples(name=None))
    np.testing.assert_allclose(bars, expected, rtol=1e-6)


def test_the_legend_names_networks_and_baselines() -> None:
    legend = set(read_legend(draw_figure_geometry(make_geometry())))
    assert {
        "joint network",
        "untrained network",
        "classes drawn at random",
        "equal variance in all directions",
    } <= legend


def test_strange_tables_are_refused() -> None:
    with pytest.raises(StudyError, match="lacks column 'inside'"):
        draw_figure_geometry(make_geometry().drop(columns="inside"))
