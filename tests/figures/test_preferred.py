"""Images are read back from the sheets that they are pasted on, and compared with the given ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from facespec.figures.preferred import EMPTY, UnitLayer, collect_unit_layers, draw_figure_3, draw_unit_page
from facespec.figures.style import LOOKS
from facespec.published.export import PAGES
from facespec.study.artefacts import digest_files, write_document
from facespec.study.errors import StudyError
from facespec.study.preferred import HEADER_FILE, PreferredSet
from facespec.study.tables import PREFERRED, UNIT_CLASSES, UNITS
from facespec.study.vocabulary import NETWORKS, TASKS, Network
from toys import combine, make_table, read_texts

SIDE = 11
UNIT_COUNTS = {"trunk.relu1": 5, "trunk.relu2": 7, "trunk.relu3": 3}


def make_layer(units: int = 5, depth: int = 1, name: str = "", seed: int = 0) -> UnitLayer:
    """Every unit has other images and is specific to nothing."""
    rng = np.random.default_rng(seed)
    properties = {"specific": "", "lead": 0.0, "task": "both", "eta": 0.25, "driven": True}
    return UnitLayer(
        Network.JOINT,
        3,
        "painted faces",
        name or f"trunk.relu{depth}",
        depth,
        rng.random((units, SIDE, SIDE), dtype=np.float32),
        rng.integers(0, 256, (units, SIDE, SIDE), np.uint8),
        pd.DataFrame(properties, index=range(units)),
    )


def make_specific(layer: UnitLayer, task: str, leads: dict[int, float]) -> UnitLayer:
    properties = layer.properties.copy()
    for unit, lead in leads.items():
        properties.loc[unit, ["specific", "task", "lead"]] = [task, task, lead]
    return replace(layer, properties=properties)


def get_labels(axes: Axes) -> list[Text]:
    """The texts that begin with a unit's number."""
    return [text for text in axes.texts if re.search(r"\d+ [EIB-] ", text.get_text())]


def read_labels(axes: Axes) -> list[str]:
    return read_texts(get_labels(axes))


def read_sheet(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def locate(axes: Axes, image: np.ndarray) -> list[tuple[int, int]]:
    """Upper left corners (top, left) of all occurrences of a grey image uint8 (SIDE, SIDE) on the sheet."""
    red = np.ascontiguousarray(read_sheet(axes)[..., 0])
    corners = np.argwhere(red[: 1 - SIDE, : 1 - SIDE] == image[0, 0])
    is_here = [(read_sheet(axes)[y : y + SIDE, x : x + SIDE] == image[..., None]).all() for y, x in corners]
    return [(int(top), int(left)) for top, left in corners[is_here]]


def convert_to_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def test_every_unit_has_its_optimised_beside_its_best_image_below_its_label() -> None:
    layer = make_layer(units=35, depth=2)  # eight in a row
    figure = draw_unit_page(layer)
    assert figure.get_suptitle() == "joint network, trunk.relu2 (depth 2), seed 3: 35 units (painted faces)"
    (axes,) = figure.axes
    assert read_labels(axes) == [f"{unit} B 0.25" for unit in range(35)]
    corners = []
    for unit, label in enumerate(get_labels(axes)):
        ((top, left),) = locate(axes, convert_to_uint8(layer.optimised[unit]))
        assert locate(axes, layer.best[unit]) == [(top, left + SIDE + 1)]
        x, y = label.get_position()
        assert x == left and top - SIDE < y < top
        corners.append((top, left))
    assert corners == sorted(corners)
    assert len({top for top, _ in corners}) == 5 and len({left for _, left in corners}) == 8


@pytest.mark.parametrize(("units", "columns"), [(1, 4), (32, 4), (33, 8), (128, 8), (129, 16), (512, 16), (513, 32)])
def test_wider_layers_have_smaller_cells(units: int, columns: int) -> None:
    (axes,) = draw_unit_page(make_layer(units)).axes
    lefts = {text.get_position()[0] for text in get_labels(axes)}
    assert len(get_labels(axes)) == units and len(lefts) == min(columns, units)


def test_labels_have_the_colour_of_the_task_that_moves_a_unit() -> None:
    layer = make_layer()
    layer.properties["task"] = ["expression", "identity", "both", "neither", ""]
    layer.properties["eta"] = [0.126, 0.994, 0.5, 0.0, np.nan]
    (axes,) = draw_unit_page(layer).axes
    assert read_labels(axes) == ["0 E 0.13", "1 I 0.99", "2 B 0.50", "3 - 0.00", "4 - -"]
    colours = [to_rgb(text.get_color()) for text in get_labels(axes)]
    assert colours[:3] == [to_rgb(LOOKS[name].colour) for name in ("expression", "identity", "joint")]
    assert colours[3] == colours[4] not in colours[:3]


def test_missing_images_are_labelled() -> None:
    layer = make_layer()
    layer.optimised[2] = np.nan
    layer.best[4] = 0
    layer.properties.loc[4, "driven"] = False
    (axes,) = draw_unit_page(layer).axes
    words = [text for text in axes.texts if text not in get_labels(axes)]
    assert read_texts(words) == ["dead", "none"]
    for text in words:
        left, top = (round(centre - SIDE / 2) for centre in text.get_position())
        assert (read_sheet(axes)[top : top + SIDE, left : left + SIDE] == EMPTY).all()
    assert len(locate(axes, layer.best[2])) == 1  # an image may drive a unit for which optimisation failed
    assert len(locate(axes, convert_to_uint8(layer.optimised[4]))) == 1
    assert not locate(axes, layer.best[4])


def test_colours_and_sizes_may_differ_between_optimised_and_best_images() -> None:
    layer = make_layer()
    best = np.zeros((5, 22, 11, 3), np.uint8)  # twice as high as wide
    best[..., 0] = 200
    (axes,) = draw_unit_page(replace(layer, best=best)).axes
    ((top, left),) = locate(axes, convert_to_uint8(layer.optimised[0]))
    box = read_sheet(axes)[top : top + SIDE, left + SIDE + 1 : left + 2 * SIDE + 1]
    is_red = (box == (200, 0, 0)).all(axis=2)
    assert is_red.all(axis=0).sum() in (5, 6) and is_red.any(axis=0).sum() in (5, 6)
    assert (box[~is_red] == 255).all()


def read_layers(figure: Figure) -> list[str]:
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [text for text in texts if text.startswith("trunk")]


def test_figure_3_shows_the_most_specific_units_of_three_depths() -> None:
    leads = {7: 0.7, 1: 0.8, 4: 0.8, 0: 0.6, 5: 0.9, 8: 0.5}
    first = make_specific(make_layer(depth=1), "identity", {1: -0.6, 3: -0.9})
    skipped = make_specific(make_layer(depth=2, seed=2), "identity", {0: -1.0})
    middle = make_layer(depth=3, seed=3)
    last = make_specific(make_layer(units=9, depth=4, seed=4), "expression", leads)
    figure = draw_figure_3([first, skipped, middle, last])
    grid = np.array(figure.axes).reshape(3, 2)
    empty = [["none" in read_texts(axes.texts) for axes in row] for row in grid]
    assert empty == [[True, False], [True, True], [False, True]]
    assert read_labels(grid[0, 1]) == ["3 I 0.25", "1 I 0.25"]
    assert read_labels(grid[2, 0]) == ["5 E 0.25", "1 E 0.25", "4 E 0.25", "7 E 0.25"]
    for axes, layer, units in ((grid[0, 1], first, [3, 1]), (grid[2, 0], last, [5, 1, 4, 7])):
        lefts = []
        for unit in units:
            ((top, left),) = locate(axes, convert_to_uint8(layer.optimised[unit]))
            assert locate(axes, layer.best[unit]) == [(top + SIDE + 1, left)]
            lefts.append(left)
        assert lefts == sorted(lefts)
    assert [axes.get_title() for axes in grid[0]] == ["most specific to expression", "most specific to identity"]
    assert read_layers(figure) == ["trunk.relu1", "trunk.relu3", "trunk.relu4"]
    title = "Figure 3. What the most task-specific units of the joint network prefer\n(painted faces; seed 3)"
    assert figure.get_suptitle() == title


def test_figure_3_ends_with_the_last_layer_of_the_control() -> None:
    layers = [make_layer(depth=depth) for depth in (1, 2)]
    control = [replace(layer, network=Network.UNTRAINED) for layer in layers]
    control[1] = make_specific(control[1], "identity", {2: -0.9})
    figure = draw_figure_3(layers, control)
    assert len(figure.axes) == 6 and read_layers(figure) == ["trunk.relu1", "trunk.relu2"]
    assert [text.get_text() for text in figure.axes[4].texts if "network" in text.get_text()] == [
        "untrained network:\ntrunk.relu2"
    ]
    assert read_labels(figure.axes[5]) == ["2 I 0.25"]
    assert figure.get_suptitle().startswith("Figure 3. What the most task-specific units of the joint network prefer")


@pytest.mark.parametrize(("depths", "drawn"), [([1], [1]), ([1, 2], [1, 2]), ([1, 2, 3, 4, 5], [1, 3, 5])])
def test_shallow_networks_have_fewer_rows(depths: list[int], drawn: list[int]) -> None:
    assert read_layers(draw_figure_3([make_layer(depth=depth) for depth in depths])) == [
        f"trunk.relu{depth}" for depth in drawn
    ]


def test_branches_of_equal_depth_are_pooled() -> None:
    one, other = (make_layer(depth=2, name=f"branches.{task}.relu2", seed=8) for task in TASKS)
    one, other = make_specific(one, "expression", {1: 0.6, 2: 0.9}), make_specific(other, "expression", {3: 0.8})
    axes = draw_figure_3([make_layer(), one, other]).axes[2]
    assert read_labels(axes) == ["expression 2 E 0.25", "identity 3 E 0.25", "expression 1 E 0.25"]
    assert len(locate(axes, convert_to_uint8(other.optimised[3]))) == 1


def make_tables() -> dict[str, pd.DataFrame]:
    """The units of all networks and two seeds, shuffled; only the first seed has images."""
    images, classes, effects = [], [], []
    for key in combine(trained_on=NETWORKS, layer=UNIT_COUNTS, seed=[3, 8], unit=range(7)):
        unit, first_seed = key["unit"], key["seed"] == 3
        if unit >= UNIT_COUNTS[key["layer"]]:
            continue
        key |= {"trained_on": key["trained_on"].value, "depth": int(key["layer"][-1])}
        specific = {1: "expression", 2: "identity"}.get(unit, "") if first_seed else ""
        classes.append(key | {"class": "both", "selectivity": 0.0, "specific": specific})
        etas, epsilons = (0.3, 0.4 + 0.01 * key["seed"]), (0.5 - 0.1 * unit, -0.1 if first_seed else 0.2)
        for factor, eta, epsilon in zip(TASKS, etas, epsilons, strict=True):
            effects.append(key | {"factor": factor, "people": 3, "eta": eta, "epsilon": epsilon})
        responses = {"optimised": 2.0, "image": float(unit != 0), "start": 0.5, "random": 0.0} if first_seed else {}
        images += [key | {"kind": kind, "response": response} for kind, response in responses.items()]
    tables = {"table": (PREFERRED, images), "classes": (UNIT_CLASSES, classes), "units": (UNITS, effects)}
    return {
        name: make_table(schema, rows).sample(frac=1, random_state=5, ignore_index=True)
        for name, (schema, rows) in tables.items()
    }


@pytest.fixture
def pictures(tmp_path: Path) -> PreferredSet:
    rng = np.random.default_rng(6)
    for network in NETWORKS:
        for name, units in UNIT_COUNTS.items():
            optimised = rng.random((units, SIDE, SIDE), dtype=np.float32)
            np.save(tmp_path / f"{network.value}-{name}-optimised.npy", optimised)
            np.save(tmp_path / f"{network.value}-{name}-best.npy", convert_to_uint8(optimised[:, :7, :5]))
    layers = [{"name": name, "depth": int(name[-1]), "units": units} for name, units in UNIT_COUNTS.items()]
    sizes = {"height": 7, "width": 5, "channels": 1, "size": SIDE, "input_channels": 1}
    header = {"version": 2, "source": "painted faces", "seed": 3, **sizes}
    header |= {"layers": {network.value: layers for network in NETWORKS}, "digests": digest_files(tmp_path)}
    write_document(tmp_path / HEADER_FILE, header)
    return PreferredSet.open(tmp_path)


def test_layers_join_images_with_the_properties_of_their_units(pictures: PreferredSet) -> None:
    layers = collect_unit_layers(pictures, Network.IDENTITY, **make_tables())
    names = [(layer.layer, layer.depth, len(layer.properties)) for layer in layers]
    assert names == [("trunk.relu1", 1, 5), ("trunk.relu2", 2, 7), ("trunk.relu3", 3, 3)]
    layer, properties = layers[1], layers[1].properties
    assert (layer.network, layer.seed, layer.source) == (Network.IDENTITY, 3, "painted faces")
    np.testing.assert_array_equal(layer.best, convert_to_uint8(layer.optimised[:, :7, :5]))
    assert properties.index.tolist() == list(range(7))
    assert properties["specific"].tolist() == ["", "expression", "identity", *[""] * 4]
    assert properties["task"].tolist() == ["both", "expression", "identity", *["both"] * 4]
    np.testing.assert_allclose(properties["eta"], [0.43, 0.3, *[0.43] * 5])  # of the specific task, though smaller
    np.testing.assert_allclose(properties["lead"], 0.6 - 0.1 * np.arange(7), atol=1e-12)
    assert properties["driven"].tolist() == [False, *[True] * 6]


def test_units_of_equal_selectivity_are_ordered_by_their_lead(pictures: PreferredSet) -> None:
    """Selectivity is 1 wherever the other task has no effect, whatever the size of the effect of the first task."""
    tables = make_tables()
    # unit -> epsilon of expression, epsilon of identity, selectivity, specific
    units = {
        0: (-0.05, 0.3, -1.0, "identity"),
        1: (0.45, 0.0, 1.0, "expression"),
        2: (0.4, -0.1, 1.0, "expression"),
        3: (0.1, -0.2, 1.0, "expression"),
        4: (0.8, 0.2, 0.6, "expression"),
        5: (0.99, 0.0, 1.0, ""),
        6: (-0.4, 0.1, -1.0, "identity"),
    }
    for name in ("classes", "units"):
        rows = tables[name].eval("trained_on == 'joint' and layer == 'trunk.relu2' and seed == 3")
        numbers = tables[name].loc[rows, "unit"].map(units)
        if name == "classes":
            tables[name].loc[rows, ["selectivity", "specific"]] = [number[2:] for number in numbers]
        else:
            is_identity = tables[name].loc[rows, "factor"] == "identity"
            tables[name].loc[rows, "epsilon"] = [n[i] for n, i in zip(numbers, is_identity, strict=True)]
    axes = draw_figure_3(collect_unit_layers(pictures, Network.JOINT, **tables)[1:2]).axes
    expression, identity = ([label.split()[0] for label in read_labels(panel)] for panel in axes)
    assert expression == ["4", "2", "1", "3"]  # leads 0.6, 0.5, 0.45, 0.3
    assert identity == ["6", "0"]  # leads 0.5, 0.35


@pytest.mark.parametrize(("name", "rows", "expected"), [("table", 6, 7), ("classes", 6, 7), ("units", 12, 14)])
def test_units_without_properties_are_refused(pictures: PreferredSet, name: str, rows: int, expected: int) -> None:
    tables = make_tables()
    tables[name] = tables[name].query("not (trained_on == 'joint' and layer == 'trunk.relu2' and unit == 4)")
    message = rf"layer 'trunk.relu2': .* 7 units, and {rows} rows about them instead of {expected}\. `dvc repro"
    with pytest.raises(StudyError, match=message):
        collect_unit_layers(pictures, Network.JOINT, **tables)


@pytest.mark.parametrize("units", [5, 35, 130])
def test_figures_are_legible(units: int, legible: Callable[[Figure], None]) -> None:
    layer = make_layer(units)
    layer.optimised[:2] = np.nan
    legible(draw_unit_page(layer))
    legible(draw_figure_3([make_specific(layer, "identity", dict.fromkeys(range(units), -1.0))]))


def test_names_of_many_branches_are_legible(legible: Callable[[Figure], None]) -> None:
    names = [f"trunk.branch{number}.relu" for number in range(4)]
    figure = draw_figure_3([make_layer(name=name) for name in names])
    legible(figure)
    (label,) = (text for text in figure.axes[0].texts if text.get_text() == "\n".join(names))
    assert label.get_window_extent().x1 <= figure.axes[0].get_window_extent().x0


def test_files_have_the_published_names() -> None:
    assert {network.value: name for network, name in PAGES.items()} == {
        "joint": "Fig3_and_S_Fig2_merged_SPLITConv2d.pdf",
        "expression": "Fig3_and_S_Fig2_merged_expConv2d.pdf",
        "identity": "Fig3_and_S_Fig2_merged_idConv2d.pdf",
    }
