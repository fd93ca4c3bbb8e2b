"""Pictures are read back from the sheets they are pasted on, and compared with those given."""

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
from facespec.figures.style import LOOKS, save_pages
from facespec.published.export_pages import PAGES
from facespec.study.artefacts import digest_files, write_document
from facespec.study.errors import StudyError
from facespec.study.preferred import HEADER_FILE, PreferredSet
from facespec.study.tables import PREFERRED, UNIT_CLASSES, UNITS
from facespec.study.vocabulary import TASKS, Network

SIDE = 11
UNIT_COUNT = {"trunk.relu1": 5, "trunk.relu2": 7, "trunk.relu3": 3}


def layer(units: int = 5, depth: int = 1, name: str = "", seed: int = 0) -> UnitLayer:
    """Every unit with its own pictures; specific to nothing."""
    rng = np.random.default_rng(seed)
    about = pd.DataFrame({"specific": "", "lead": 0.0, "task": "both", "eta": 0.25, "driven": True}, index=range(units))
    return UnitLayer(
        Network.JOINT,
        3,
        "painted faces",
        name or f"trunk.relu{depth}",
        depth,
        rng.random((units, SIDE, SIDE), dtype=np.float32),
        rng.integers(0, 256, (units, SIDE, SIDE), np.uint8),
        about,
    )


def specific(of: UnitLayer, task: str, lead: dict[int, float]) -> UnitLayer:
    about = of.about.copy()
    for unit, value in lead.items():
        about.loc[unit, ["specific", "task", "lead"]] = [task, task, value]
    return replace(of, about=about)


def labels(axes: Axes) -> list[Text]:
    """The texts that begin with a unit's number."""
    return [text for text in axes.texts if re.search(r"\d+ [EIB-] ", text.get_text())]


def found_at(axes: Axes, picture: np.ndarray) -> list[tuple[int, int]]:
    """Upper left corners (top, left) of all places where a grey picture uint8 (SIDE, SIDE) lies on the sheet."""
    sheet = np.asarray(axes.images[0].get_array())
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (SIDE, SIDE), axis=(0, 1))
    return [tuple(place) for place in np.argwhere((windows == picture).all(axis=(2, 3, 4))).tolist()]


def grey(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture * 255).astype(np.uint8)


def test_every_unit_has_its_picture_beside_its_best_image_below_its_label() -> None:
    own = layer(units=35)  # eight in a row
    (axes,) = draw_unit_page(own).axes
    assert [text.get_text() for text in labels(axes)] == [f"{unit} B 0.25" for unit in range(35)]
    corners = []
    for unit, text in enumerate(labels(axes)):
        ((top, left),) = found_at(axes, grey(own.optimised[unit]))
        ((best_top, best_left),) = found_at(axes, own.best[unit])
        assert best_top == top and best_left == left + SIDE + 1
        assert text.get_position()[0] == left and top - SIDE < text.get_position()[1] < top
        corners.append((top, left))
    assert corners == sorted(corners)
    assert len({top for top, _ in corners}) == 5 and len({left for _, left in corners}) == 8


@pytest.mark.parametrize(("units", "columns"), [(1, 4), (32, 4), (33, 8), (128, 8), (129, 16), (512, 16), (513, 32)])
def test_wider_layers_have_smaller_cells(units: int, columns: int) -> None:
    (axes,) = draw_unit_page(layer(units)).axes
    lefts = {text.get_position()[0] for text in labels(axes)}
    assert len(labels(axes)) == units and len(lefts) == min(columns, units)


def test_labels_say_what_moves_a_unit_in_the_tasks_colours() -> None:
    own = layer()
    own.about["task"] = ["expression", "identity", "both", "neither", ""]
    own.about["eta"] = [0.126, 0.994, 0.5, 0.0, np.nan]
    texts = labels(draw_unit_page(own).axes[0])
    assert [text.get_text() for text in texts] == ["0 E 0.13", "1 I 0.99", "2 B 0.50", "3 - 0.00", "4 - -"]
    colours = [to_rgb(text.get_color()) for text in texts]
    assert colours[:3] == [to_rgb(LOOKS[name].colour) for name in ("expression", "identity", "joint")]
    assert colours[3] == colours[4] not in colours[:3]


def test_dead_units_are_said_to_be_dead() -> None:
    own = layer()
    own.optimised[2] = np.nan
    own.best[4] = 0
    own.about.loc[4, "driven"] = False
    (axes,) = draw_unit_page(own).axes
    words = [text for text in axes.texts if text not in labels(axes)]
    assert [text.get_text() for text in words] == ["dead", "none"]
    for text in words:
        x, y = text.get_position()
        sheet = np.asarray(axes.images[0].get_array())
        box = sheet[int(y - SIDE / 2) : int(y + SIDE / 2), int(x - SIDE / 2) : int(x + SIDE / 2)]
        assert (box == EMPTY).all()
    assert len(found_at(axes, own.best[2])) == 1  # an image may drive a unit that no picture woke
    assert len(found_at(axes, grey(own.optimised[4]))) == 1
    assert not found_at(axes, own.best[4])


def test_colours_and_sizes_may_differ_between_pictures_and_images() -> None:
    own = layer()
    red = np.zeros((5, 22, 11, 3), np.uint8)  # twice as high as wide
    red[..., 0] = 200
    (axes,) = draw_unit_page(replace(own, best=red)).axes
    sheet = np.asarray(axes.images[0].get_array())
    ((top, left),) = found_at(axes, grey(own.optimised[0]))
    box = sheet[top : top + SIDE, left + SIDE + 1 : left + 2 * SIDE + 1]
    is_red = (box == (200, 0, 0)).all(axis=2)
    assert is_red.all(axis=0).sum() in (5, 6) and is_red.any(axis=0).sum() in (5, 6)
    assert (box[~is_red] == 255).all()


def test_a_page_names_network_layer_depth_data_and_seed() -> None:
    assert draw_unit_page(layer(depth=2)).get_suptitle() == (
        "joint network, trunk.relu2 (depth 2), seed 3: 5 units (painted faces)"
    )


def test_figure_3_shows_the_most_specific_units_of_three_depths() -> None:
    first = specific(layer(depth=1), "identity", {1: -0.6, 3: -0.9})
    passed = specific(layer(depth=2, seed=2), "identity", {0: -1.0})
    middle = layer(depth=3, seed=3)
    last = specific(layer(units=9, depth=4, seed=4), "expression", {7: 0.7, 1: 0.8, 4: 0.8, 0: 0.6, 5: 0.9, 8: 0.5})
    figure = draw_figure_3([first, passed, middle, last])
    grid = np.array(figure.axes).reshape(3, 2)
    assert [[text.get_text() for text in axes.texts if text.get_text() in ("none",)] for axes in grid.flat] == [
        ["none"],
        [],
        ["none"],
        ["none"],
        [],
        ["none"],
    ]
    assert [text.get_text() for text in labels(grid[0, 1])] == ["3 I 0.25", "1 I 0.25"]
    assert [text.get_text() for text in labels(grid[2, 0])] == ["5 E 0.25", "1 E 0.25", "4 E 0.25", "7 E 0.25"]
    for axes, own, units in ((grid[0, 1], first, [3, 1]), (grid[2, 0], last, [5, 1, 4, 7])):
        lefts = []
        for unit in units:
            ((top, left),) = found_at(axes, grey(own.optimised[unit]))
            assert found_at(axes, own.best[unit]) == [(top + SIDE + 1, left)]
            lefts.append(left)
        assert lefts == sorted(lefts)
    assert [axes.get_title() for axes in grid[0]] == ["most specific to expression", "most specific to identity"]
    texts = [text.get_text() for axes in grid[:, 0] for text in axes.texts]
    assert [text for text in texts if text.startswith("trunk")] == ["trunk.relu1", "trunk.relu3", "trunk.relu4"]
    assert figure.get_suptitle() == (
        "Figure 3. What the most task-specific units of the joint network prefer\n(painted faces; seed 3)"
    )


@pytest.mark.parametrize(("depths", "shown"), [([1], [1]), ([1, 2], [1, 2]), ([1, 2, 3, 4, 5], [1, 3, 5])])
def test_shallow_networks_have_fewer_rows(depths: list[int], shown: list[int]) -> None:
    figure = draw_figure_3([layer(depth=depth) for depth in depths])
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [text for text in texts if text.startswith("trunk")] == [f"trunk.relu{depth}" for depth in shown]


def test_branches_of_equal_depth_compete() -> None:
    first = specific(layer(depth=2, name="branches.expression.relu2"), "expression", {1: 0.6, 2: 0.9})
    second = specific(layer(depth=2, name="branches.identity.relu2", seed=8), "expression", {3: 0.8})
    axes = draw_figure_3([layer(), first, second]).axes[2]
    assert [text.get_text() for text in labels(axes)] == [
        "expression 2 E 0.25",
        "identity 3 E 0.25",
        "expression 1 E 0.25",
    ]
    assert len(found_at(axes, grey(second.optimised[3]))) == 1


def tables() -> dict[str, pd.DataFrame]:
    """About the units of all networks, shuffled. Of the first seed only there are pictures."""
    pictures, classes, effects = [], [], []
    for network in Network:
        for depth, (name, units) in enumerate(UNIT_COUNT.items(), start=1):
            for seed, unit in ((seed, unit) for seed in (3, 8) for unit in range(units)):
                place = {
                    "trained_on": network.value,
                    "source": "painted faces",
                    "seed": seed,
                    "layer": name,
                    "depth": depth,
                    "unit": unit,
                }
                called = "expression" if unit == 1 else "identity" if unit == 2 else "both"
                known = called if unit in (1, 2) else ""
                classes.append(
                    place | {"class": "both", "selectivity": 0.0, "specific": known if seed == 3 else "", "reason": ""}
                )
                epsilons = (0.5 - 0.1 * unit, -0.1 if seed == 3 else 0.2)
                effects += [
                    place
                    | {
                        "factor": factor,
                        "people": 3,
                        "eta": eta,
                        "partial_eta": 0.5,
                        "epsilon": epsilon,
                        "f": 1.0,
                        "p_parametric": 0.5,
                        "p": 0.5,
                        "p_fdr": 0.5,
                        "reason": "",
                    }
                    for factor, eta, epsilon in zip(TASKS, (0.3, 0.4 + 0.01 * seed), epsilons, strict=True)
                ]
                if seed == 3:
                    pictures += [
                        place
                        | {
                            "kind": kind,
                            "response": response,
                            "stimulus": "",
                            "row": np.nan,
                            "column": np.nan,
                            "reason": "",
                        }
                        for kind, response in (
                            ("optimised", 2.0),
                            ("image", float(unit != 0)),
                            ("start", 0.5),
                            ("random", 0.0),
                        )
                    ]
    made = {"table": (PREFERRED, pictures), "classes": (UNIT_CLASSES, classes), "units": (UNITS, effects)}
    return {
        name: schema.check(pd.DataFrame(rows).sample(frac=1, random_state=5, ignore_index=True))
        for name, (schema, rows) in made.items()
    }


@pytest.fixture
def pictures(tmp_path: Path) -> PreferredSet:
    rng = np.random.default_rng(6)
    for network in Network:
        for name, units in UNIT_COUNT.items():
            made = rng.random((units, SIDE, SIDE), dtype=np.float32)
            np.save(tmp_path / f"{network.value}-{name}-optimised.npy", made)
            np.save(tmp_path / f"{network.value}-{name}-best.npy", grey(made[:, :7, :5]))
    layers = [
        {"name": name, "depth": depth, "units": units}
        for depth, (name, units) in enumerate(UNIT_COUNT.items(), start=1)
    ]
    head = {
        "version": 2,
        "source": "painted faces",
        "seed": 3,
        "height": 7,
        "width": 5,
        "channels": 1,
        "size": SIDE,
        "input_channels": 1,
        "layers": {network.value: layers for network in Network},
        "digests": digest_files(tmp_path),
    }
    write_document(tmp_path / HEADER_FILE, head)
    return PreferredSet.open(tmp_path)


def test_layers_join_pictures_with_what_is_known_of_their_units(pictures: PreferredSet) -> None:
    found = collect_unit_layers(pictures, Network.IDENTITY, **tables())
    assert [(own.layer, own.depth, len(own.about)) for own in found] == [
        ("trunk.relu1", 1, 5),
        ("trunk.relu2", 2, 7),
        ("trunk.relu3", 3, 3),
    ]
    own = found[1]
    assert (own.network, own.seed, own.source) == (Network.IDENTITY, 3, "painted faces")
    np.testing.assert_array_equal(own.best, grey(own.optimised[:, :7, :5]))
    about = own.about
    assert about.index.tolist() == list(range(7))
    assert about["specific"].tolist() == ["", "expression", "identity", *[""] * 4]
    assert about["task"].tolist() == ["both", "expression", "identity", *["both"] * 4]
    np.testing.assert_allclose(about["eta"], [0.43, 0.3, *[0.43] * 5])  # the specific unit's own, though it is smaller
    np.testing.assert_allclose(about["lead"], 0.6 - 0.1 * np.arange(7), atol=1e-12)
    assert about["driven"].tolist() == [False, *[True] * 6]


def test_units_of_equal_selectivity_are_told_apart_by_their_unclipped_lead(pictures: PreferredSet) -> None:
    """Selectivity is 1 wherever the other task has no effect, and then says nothing of the size of the own one."""
    given = tables()
    # unit -> epsilon of expression, epsilon of identity, selectivity, specific
    told = {
        0: (-0.05, 0.3, -1.0, "identity"),
        1: (0.45, 0.0, 1.0, "expression"),
        2: (0.4, -0.1, 1.0, "expression"),
        3: (0.1, -0.2, 1.0, "expression"),
        4: (0.8, 0.2, 0.6, "expression"),
        5: (0.99, 0.0, 1.0, ""),
        6: (-0.4, 0.1, -1.0, "identity"),
    }
    here = "trained_on == 'joint' and layer == 'trunk.relu2' and seed == 3 and unit == @unit"
    for unit, (expression, identity, selectivity, task) in told.items():
        own = given["classes"].eval(here, local_dict={"unit": unit})
        given["classes"].loc[own, ["selectivity", "specific"]] = [selectivity, task]
        for factor, epsilon in zip(TASKS, (expression, identity), strict=True):
            own = given["units"].eval(f"{here} and factor == '{factor}'", local_dict={"unit": unit})
            given["units"].loc[own, "epsilon"] = epsilon
    axes = draw_figure_3(collect_unit_layers(pictures, Network.JOINT, **given)[1:2]).axes
    assert [[text.get_text().split()[0] for text in labels(each)] for each in axes] == [
        ["4", "2", "1", "3"],
        ["6", "0"],  # leads 0.6, 0.5, 0.45, 0.3; 0.5, 0.35
    ]


@pytest.mark.parametrize(("name", "got", "wanted"), [("table", 6, 7), ("classes", 6, 7), ("units", 12, 14)])
def test_units_of_which_nothing_is_known_are_refused(pictures: PreferredSet, name: str, got: int, wanted: int) -> None:
    given = tables()
    given[name] = given[name].query("not (trained_on == 'joint' and layer == 'trunk.relu2' and unit == 4)")
    with pytest.raises(StudyError) as caught:
        collect_unit_layers(pictures, Network.JOINT, **given)
    assert str(caught.value) == (
        f"joint network, seed 3, layer 'trunk.relu2': there are pictures of 7 units, and {got} rows about them instead "
        f"of {wanted}. `dvc repro depth preferred` makes both again."
    )


@pytest.mark.parametrize("units", [5, 35, 130])
def test_no_text_overlaps_another_or_leaves_the_page(units: int, legible: Callable[[Figure], None]) -> None:
    own = layer(units)
    own.optimised[:2] = np.nan
    for figure in (draw_unit_page(own), draw_figure_3([specific(own, "identity", dict.fromkeys(range(units), -1.0))])):
        legible(figure)


def test_pages_are_written_in_one_file_with_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.pdf", "again.pdf"):
        save_pages((draw_unit_page(layer(depth=depth)) for depth in (1, 2, 3)), tmp_path / name)
    pdf = (tmp_path / "one.pdf").read_bytes()
    assert pdf == (tmp_path / "again.pdf").read_bytes() and pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 3
    for word in (b"CreationDate", b"ModDate", b"Producer", b"Creator"):
        assert word not in pdf
    save_pages([draw_unit_page(layer(seed=1))], tmp_path / "other.pdf")
    assert len(re.findall(rb"/Type /Page\b", (tmp_path / "other.pdf").read_bytes())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pdf", "one.pdf", "other.pdf"]


def test_an_unfinished_file_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "pages.pdf"
    path.write_bytes(b"earlier")
    with pytest.raises(StudyError) as caught:
        save_pages([], path)
    assert str(caught.value) == f"{path}: a file of pages needs at least one."
    with pytest.raises(ZeroDivisionError):
        save_pages((Figure() for number in (1, 0) if 1 / number), path)
    assert path.read_bytes() == b"earlier" and [each.name for each in tmp_path.iterdir()] == ["pages.pdf"]


def test_files_have_the_published_names() -> None:
    assert {network.value: name for network, name in PAGES.items()} == {
        "joint": "Fig3_and_S_Fig2_merged_SPLITConv2d.pdf",
        "expression": "Fig3_and_S_Fig2_merged_expConv2d.pdf",
        "identity": "Fig3_and_S_Fig2_merged_idConv2d.pdf",
    }


def test_names_of_many_branches_stay_on_the_page() -> None:
    figure = draw_figure_3([layer(name=f"trunk.branch{number}.relu") for number in range(4)])
    figure.draw_without_rendering()
    (names,) = (text for text in figure.axes[0].texts if "\n" in text.get_text())
    assert names.get_text().split("\n") == [f"trunk.branch{number}.relu" for number in range(4)]
    box = names.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.axes[0].get_window_extent().x0
