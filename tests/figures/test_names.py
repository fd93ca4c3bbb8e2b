"""Whatever letters users' names have, every figure is drawn, and shows them as they are."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from facespec.figures.accuracy import draw_figure_1, draw_panels
from facespec.figures.battery import draw_figure_battery
from facespec.figures.boxes import draw_figure_2B
from facespec.figures.calibration import draw_figure_calibration
from facespec.figures.contrasts import draw_figure_contrasts
from facespec.figures.depth import draw_figure_depth
from facespec.figures.driven import draw_figure_S2B
from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.heatmaps import draw_figure_2, draw_figure_2A, draw_figure_2C, draw_figure_2D
from facespec.figures.labels import ELLIPSIS, make_printable
from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.preferred import draw_figure_3, draw_unit_page
from facespec.figures.recall import draw_figure_recall
from facespec.figures.regions import draw_figure_regions
from facespec.figures.style import settle_layout, use_study_style
from facespec.published.reference import read_reference_heatmaps
from toys import read_texts

Load = Callable[[str], ModuleType]
ODD = "$$ \\frac{ x^2_{ $% {0}\n\t\x00\ud800 表😀"
LONG = "n" * 300


@pytest.fixture(scope="module")
def load_toys(load_script: Load) -> Load:
    """Load the toy tables of a family of figures from its tests."""
    return lambda family: load_script(f"tests/figures/test_{family}.py")


def draw_accuracies(load_toys: Load, name: str) -> list[Figure]:
    toys = load_toys("accuracy")
    panel = replace(toys.DECODING, bars=tuple(replace(bar, source=name) for bar in toys.DECODING.bars))
    return [draw_panels({name: panel, "reproduced": panel}), draw_figure_1([panel, toys.HEADS])]


def draw_heatmaps(load_toys: Load, name: str) -> list[Figure]:
    toys = load_toys("heatmaps")
    table = toys.make_heatmaps().assign(source=name, layer=name)
    overlap = toys.make_overlap({9: 0.5, 4: 0.5}).assign(source=name)
    shared: dict[str, Any] = {"reference": read_reference_heatmaps(), "face": np.zeros((16, 16))}
    return [
        draw_figure_2A(table, shared["face"]),
        draw_figure_2B(overlap, shared["reference"]),
        draw_figure_2C(table, overlap, **shared),
        draw_figure_2D(toys.make_examples(), name, seed=9),
        draw_figure_2(table, overlap, **shared, examples=toys.make_examples()),
    ]


def draw_new_figures(load_toys: Load, name: str) -> list[Figure]:
    contrasts, depth, regions = load_toys("contrasts"), load_toys("depth"), load_toys("regions")
    truths, battery = load_toys("groundtruth"), load_toys("battery")
    truth_maps = truths.make_overlap(), truths.make_maps()
    region_table = regions.make_regions().assign(source=name).replace({"region": {"moustache": name}})
    toys = load_toys("calibration")
    tables = [table.assign(source=name) for table in (toys.make_cues(), toys.make_baselines(), toys.make_confusions())]
    depth_tables = {key: table.assign(source=name, layer=name) for key, table in depth.make_tables().items()}
    return [
        draw_figure_contrasts(contrasts.make_contrasts().assign(source=name), contrasts.FACE),
        draw_figure_calibration(tables[0].replace({"cue": {"hair": name}}), *tables[1:]),
        draw_figure_battery(*(table.assign(source=name) for table in battery.make_tables()), battery.make_examples()),
        draw_figure_depth(**depth_tables),
        draw_figure_groundtruth(truths.make_scores().assign(source=name), *truth_maps, truths.FACE),
        draw_figure_recall(load_toys("recall").make_recalls().assign(source=name)),
        draw_figure_regions(region_table),
    ]


def draw_lesions(load_toys: Load, name: str) -> list[Figure]:
    """Names of the network, of one of two tasks and of one of two layers."""
    toys, tasks = load_toys("lesion_classes"), ("identity", name)
    lesions, index, classes = (
        table.assign(trained_on=name, source=name).replace({"layer": {"trunk.relu1": name}})
        for table in (toys.make_lesions(tasks), load_toys("lesions").SEGREGATION_TABLE, toys.make_classes(tasks))
    )
    return [draw_figure_lesions(lesions, index), draw_figure_lesion_classes(classes, lesions)]


def draw_preferred(load_toys: Load, name: str) -> list[Figure]:
    toys = load_toys("preferred")
    layers = [replace(toys.make_layer(seed=seed, name=f"{name}{seed}"), source=name) for seed in range(2)]
    one, other = (toys.make_specific(layer, "expression", {1: 0.5}) for layer in layers)
    responses = load_toys("driven").make_responses().replace({"layer": {"trunk.relu1": name}}).assign(source=name)
    return [draw_unit_page(one), draw_figure_3([one]), draw_figure_3([one, other]), draw_figure_S2B(responses)]


@pytest.mark.parametrize("name", [ODD, LONG], ids=["odd", "long"])
@pytest.mark.parametrize("draw", [draw_accuracies, draw_heatmaps, draw_new_figures, draw_lesions, draw_preferred])
def test_every_figure_is_legible_and_shows_names_as_they_are(
    draw: Callable[[Load, str], list[Figure]], name: str, load_toys: Load, legible: Callable[[Figure], None]
) -> None:
    for figure in draw(load_toys, name):
        with use_study_style():
            legible(figure)
        texts = read_texts(figure.findobj(Text))
        assert any(make_printable(name) in text or ELLIPSIS in text for text in texts if name[:3] in text)


@settings(max_examples=4)
@given(name=st.text(st.characters() | st.sampled_from("$\\^_{}%\n"), max_size=20))
@example("$\\frac{$")
def test_no_text_is_read_as_mathematics(name: str) -> None:
    """Titles, labels, ticks, legends, notes and colour bars, in both formats."""
    name = make_printable(name)
    with use_study_style():
        figure = Figure(figsize=(4, 3))
        axes = figure.add_subplot()
        (line,) = axes.plot([0, 1], label=f"_{name}")
        image = axes.imshow(np.zeros((2, 2)))
        axes.set_xticks([0, 1], [f"${name}$", name])
        axes.set(title=name, xlabel=name, ylabel=f"$${name}")
        axes.annotate(name, (0, 0), xytext=(5, 5), textcoords="offset points")
        figure.colorbar(image, label=name)
        figure.suptitle(f"${name}$")
        figure.legend([line], [name], title=name)
        settle_layout(figure)
        for kind in ("png", "pdf"):
            figure.savefig(io.BytesIO(), format=kind, dpi=20)
    texts = figure.findobj(Text)
    assert f"${name}$" in read_texts(texts) and not any(text.get_parse_math() for text in texts)


def test_powers_of_ten_are_the_only_mathematics(load_toys: Load) -> None:
    *others, figure = draw_preferred(load_toys, "$x$")
    with use_study_style():
        assert not [text for other in others for text in other.findobj(Text) if text.get_parse_math()]
        figure.draw_without_rendering()
        parsed = {text.get_text() for text in figure.findobj(Text) if text.get_parse_math()} - {""}
    assert {"$\\mathdefault{0}$", "$\\mathdefault{10^{1}}$"} < parsed
    assert all(re.fullmatch(r"\$\\mathdefault\{(0|10\^\{-?\d\})\}\$", text) for text in parsed)
