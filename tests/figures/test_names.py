"""Whatever letters users' names have, every figure is drawn and written, and shows them as they are."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from facespec.figures import style
from facespec.figures.accuracy import draw_figure_1, draw_panels
from facespec.figures.boxes import draw_figure_2B
from facespec.figures.contrasts import draw_figure_contrasts
from facespec.figures.depth import draw_figure_depth
from facespec.figures.driven import draw_figure_S2B
from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.heatmaps import draw_figure_2, draw_figure_2A, draw_figure_2C, draw_figure_2D
from facespec.figures.labels import ELLIPSIS, make_printable
from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.preferred import draw_figure_3, draw_unit_page
from facespec.figures.regions import draw_figure_regions
from facespec.figures.style import save_figure, save_pages, use_study_style
from facespec.published.reference import read_reference_heatmaps

Tables = Callable[[str], ModuleType]
ODD = "$$ \\frac{ x^2_{ $% {0}\n\t\x00\ud800 表😀"
LONG = "n" * 300


@pytest.fixture(scope="module")
def tables(load_script: Callable[[str], ModuleType]) -> Tables:
    """Tests of figures by the name of their family, for the toy tables that they hold."""
    return lambda family: load_script(f"tests/figures/test_{family}.py")


def accuracies(tables: Tables, name: str) -> list[Figure]:
    toys = tables("accuracy")
    panel = replace(toys.DECODING, bars=tuple(replace(bar, source=name) for bar in toys.DECODING.bars))
    return [draw_panels({name: panel, "reproduced": panel}), draw_figure_1([panel, toys.HEADS])]


def heatmaps(tables: Tables, name: str) -> list[Figure]:
    toys = tables("heatmaps")
    table = toys.heatmaps_table().assign(source=name, layer=name)
    overlap = toys.overlap_table({9: 0.5, 4: 0.5}).assign(source=name)
    both: dict[str, Any] = {"reference": read_reference_heatmaps(), "face": np.zeros((16, 16))}
    return [
        draw_figure_2A(table, both["face"]),
        draw_figure_2B(overlap, both["reference"]),
        draw_figure_2C(table, overlap, **both),
        draw_figure_2D(toys.examples(), name, seed=9),
        draw_figure_2(table, overlap, **both, examples=toys.examples()),
    ]


def beyond(tables: Tables, name: str) -> list[Figure]:
    contrasts, depth, regions = tables("contrasts"), tables("depth"), tables("regions")
    shown = regions.regions_table().assign(source=name)
    return [
        draw_figure_contrasts(contrasts.contrasts_table().assign(source=name), contrasts.FACE),
        draw_figure_depth(**{key: own.assign(source=name, layer=name) for key, own in depth.tables().items()}),
        draw_figure_groundtruth(tables("groundtruth").scores_table().assign(source=name)),
        draw_figure_regions(shown.replace({"region": {"moustache": name}})),
    ]


def lesions(tables: Tables, name: str) -> list[Figure]:
    """Names of the network, of one of two tasks and of one of two layers."""
    toys, tasks = tables("lesion_classes"), ("identity", name)
    changed: Any = {"trained_on": name, "source": name}
    layers = {"layer": {"trunk.relu1": name}}
    tested = toys.lesions(tasks).assign(**changed).replace(layers)
    index = tables("lesions").SEGREGATION_TABLE.assign(**changed).replace(layers)
    return [
        draw_figure_lesions(tested, index),
        draw_figure_lesion_classes(toys.classes(tasks).assign(**changed).replace(layers), tested),
    ]


def preferred(tables: Tables, name: str) -> list[Figure]:
    toys = tables("preferred")
    one, other = (replace(toys.layer(seed=seed, name=f"{name}{seed}"), source=name) for seed in range(2))
    one, other = (toys.specific(layer, "expression", {1: 0.5}) for layer in (one, other))
    return [
        draw_unit_page(one),
        draw_figure_3([one]),
        draw_figure_3([one, other]),
        draw_figure_S2B(tables("driven").table().replace({"layer": {"trunk.relu1": name}}).assign(source=name)),
    ]


FAMILIES = [accuracies, heatmaps, beyond, lesions, preferred]


@pytest.mark.parametrize("name", [ODD, LONG], ids=["odd", "long"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_figure_is_legible_and_shows_names_as_they_are(
    family: Callable[[Tables, str], list[Figure]], name: str, tables: Tables, legible: Callable[[Figure], None]
) -> None:
    for figure in family(tables, name):
        with use_study_style():
            legible(figure)
        texts = [text.get_text() for text in figure.findobj(Text)]
        shown = [text for text in texts if name[:3] in text]
        assert any(make_printable(name) in text or ELLIPSIS in text for text in shown)


@pytest.mark.parametrize("family", [accuracies, lesions, preferred])
def test_figures_are_written(
    family: Callable[[Tables, str], list[Figure]], tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "DPI", 30)
    figure, *more = family(tables, ODD)
    for path in save_figure(figure, tmp_path / "first"):
        assert path.stat().st_size
    save_pages(more, tmp_path / "pages.pdf")


@settings(max_examples=12)
@given(name=st.text(st.characters() | st.sampled_from("$\\^_{}%\n"), max_size=20))
@example("$\\frac{$")
def test_any_text_is_drawn_wherever_matplotlib_draws_text(name: str) -> None:
    """Titles, labels, ticks, legends, notes and colour bars, in both formats; nothing is read as mathematics."""
    name = make_printable(name)
    with use_study_style():
        figure = Figure(figsize=(4, 3))
        axes = figure.add_subplot()
        (line,) = axes.plot([0, 1], label=f"_{name}")
        shown = axes.imshow(np.zeros((2, 2)))
        axes.set_xticks([0, 1], [f"${name}$", name])
        axes.set(title=name, xlabel=name, ylabel=f"$${name}")
        axes.annotate(name, (0, 0), xytext=(5, 5), textcoords="offset points")
        figure.colorbar(shown, label=name)
        figure.suptitle(f"${name}$")
        figure.legend([line], [name], title=name)
        style.settle_layout(figure)
        for kind in ("png", "pdf"):
            figure.savefig(io.BytesIO(), format=kind, dpi=20)
    texts = figure.findobj(Text)
    assert f"${name}$" in [text.get_text() for text in texts] and not any(text.get_parse_math() for text in texts)


def test_powers_of_ten_are_the_only_mathematics(tables: Tables) -> None:
    *others, figure = preferred(tables, "$x$")
    with use_study_style():
        assert not [text for one in others for text in one.findobj(Text) if text.get_parse_math()]
        figure.draw_without_rendering()
        parsed = {text.get_text() for text in figure.findobj(Text) if text.get_parse_math()} - {""}
    assert {"$\\mathdefault{0}$", "$\\mathdefault{10^{1}}$"} < parsed
    assert all(re.fullmatch(r"\$\\mathdefault\{(0|10\^\{-?\d\})\}\$", text) for text in parsed)
