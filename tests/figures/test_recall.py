"""The figure of recalls, read back from its artists."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from facespec.figures.recall import draw_figure_recall
from facespec.study.errors import StudyError
from facespec.study.tables import RECALL
from facespec.study.vocabulary import EXPRESSIONS
from toys import combine, make_table, read_legend, read_texts

FIGURES = ("1C", "1C zero-shot", "S1B")


def make_recalls() -> pd.DataFrame:
    """Two networks (on the probe an untrained one, too), two seeds; nobody shows disgust in S1B."""
    networks = ("joint", "expression")
    rows = combine(figure=FIGURES, trained_on=networks, seed=(7, 3), **{"class": ("", *EXPRESSIONS)})
    rows += combine(figure=("1C",), trained_on=("untrained",), seed=(7, 3), **{"class": ("", *EXPRESSIONS)})
    rows += combine(figure=("1C",), trained_on=("identity",), tested_on=("identity",), **{"class": ("", "ann")})
    table = make_table(RECALL, rows, source="embedded faces", n=35, tested_on="expression")
    table = table.assign(recall=np.random.default_rng(5).uniform(0.2, 0.8, len(table)))
    table = table.assign(low=table["recall"] - 0.1, high=table["recall"] + 0.05)
    absent = (table["figure"] == "S1B") & (table["class"] == "disgust")
    table.loc[absent, ["recall", "low", "high"]] = np.nan
    return table.assign(n=table["n"].mask(absent, 0), reason=np.where(absent, "no test image shows this class", ""))


def test_bars_are_means_over_seeds() -> None:
    table = make_recalls().query("tested_on == 'expression'")
    means = table.groupby(["figure", "trained_on", "class"])[["recall", "low", "high"]].mean()
    panels = draw_figure_recall(make_recalls()).axes
    assert [axes.get_title() for axes in panels] == [
        "S1B: training role",
        "probe, not fine-tuned",
        "1C: probe, fine-tuned",
    ]
    for axes, figure in zip(panels, ("S1B", "1C zero-shot", "1C"), strict=True):
        heights = {patch.get_gid(): patch.get_height() for patch in axes.patches}
        expected = {f"{key[1]} {key[2]}": mean for key, mean in means["recall"].dropna().items() if key[0] == figure}
        assert heights == pytest.approx(expected) and len(heights) == {"S1B": 14, "1C zero-shot": 16, "1C": 24}[figure]
        errors = [c.lines[2][0].get_segments()[0][:, 1] for c in axes.containers if hasattr(c, "has_yerr")]
        assert sorted(low for low, _ in errors) == pytest.approx(sorted(means.loc[figure, "low"].dropna()))
        for patch in axes.patches:
            assert round(patch.get_x() + patch.get_width() / 2) == ["", *EXPRESSIONS].index(
                patch.get_gid().split(" ")[1]
            )


def test_classes_counts_and_the_constant_answer_are_named() -> None:
    figure = draw_figure_recall(make_recalls())
    ticks = read_texts(figure.axes[0].get_xticklabels())
    assert ticks[:3] == ["mean of all\nn = 35", "angry\nn = 35", "disgust\nn = 0"] and len(ticks) == 8
    levels = [
        line.get_segments()[0][0, 1]
        for axes in figure.axes
        for line in axes.collections
        if line.get_label() == "one constant answer"
    ]
    assert levels == pytest.approx([1 / 6, 1 / 7, 1 / 7])  # of the classes that are tested
    assert figure.get_suptitle() == "Recall of every expression (embedded faces)"
    assert {"expression network", "joint network", "untrained network", "one seed", "one constant answer"} < set(
        read_legend(figure)
    )


def test_the_figure_is_legible(legible: Callable[[Figure], None]) -> None:
    legible(draw_figure_recall(make_recalls()))
    legible(draw_figure_recall(make_recalls().query("figure == '1C' and seed == 3").assign(source="n" * 300)))


def test_a_table_without_expressions_is_refused() -> None:
    with pytest.raises(StudyError, match="the table has no recall of expressions"):
        draw_figure_recall(make_recalls().query("tested_on == 'identity'"))
