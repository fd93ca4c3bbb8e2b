"""Grids of networks: each network once, under a name of its own, with the settings of its cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.study.errors import StudyError
from facespec.study.grid import Cell, GridFit, apply_cell, find_fit, list_cells, list_fits
from facespec.study.params import Params, Weights, merge_params, read_params, validate_params
from facespec.study.vocabulary import NETWORKS, Network

cells = st.builds(
    Cell,
    epochs=st.integers(1, 99),
    width=st.sampled_from([0.25, 0.5, 0.7, 1.0, 2.0, 7.0]),
    branch_after=st.sampled_from(["", "conv1", "conv2"]),
    weight=st.sampled_from([0.5, 1.0, 2.0]),
    images=st.sampled_from([0, 5, 50]),
)
fits = st.builds(GridFit, st.sampled_from(NETWORKS), cells, st.integers(0, 99))


@pytest.fixture(scope="module")
def params(project: Path) -> Params:
    return read_params(project / "params.yaml")


def set_grid(params: Params, *parts: dict[str, object]) -> Params:
    values = merge_params(params.model_dump(), {"seeds": [1, 2], "sharing": {"grid": list(parts)}})
    return validate_params(values, name="params")


@given(fits, fits)
def test_a_name_belongs_to_one_network(first: GridFit, second: GridFit) -> None:
    assert (first.name == second.name) == (first == second)


def test_the_grid_is_a_product_and_cells_share_networks(params: Params) -> None:
    """Two seeds of: 8 epochs whole; branched; weighted (the same single networks); and fewer images of expression."""
    study = set_grid(params, {"branch_after": ["conv1"], "weight": [1.0, 2.0]}, {"images": [50]}, {"seeds": [2]})
    assert list_cells(study) == [
        (Cell(8, branch_after="conv1"), 1),
        (Cell(8, branch_after="conv1", weight=2.0), 1),
        (Cell(8, branch_after="conv1"), 2),
        (Cell(8, branch_after="conv1", weight=2.0), 2),
        (Cell(8, images=50), 1),
        (Cell(8, images=50), 2),
        (Cell(8), 2),
    ]
    assert list(list_fits(study)) == [
        "expression-epochs8-1",
        "identity-epochs8-1",
        "joint-epochs8-conv1-1",
        "joint-epochs8-conv1-weight200-1",
        "expression-epochs8-2",
        "identity-epochs8-2",
        "joint-epochs8-conv1-2",
        "joint-epochs8-conv1-weight200-2",
        "expression-epochs8-images50-1",
        "joint-epochs8-images50-1",
        "expression-epochs8-images50-2",
        "joint-epochs8-images50-2",
        "joint-epochs8-2",
    ]


@given(cells)
def test_networks_keep_only_what_they_depend_on(cell: Cell) -> None:
    assert find_fit(Network.JOINT, cell, 1).cell == cell
    assert find_fit(Network.EXPRESSION, cell, 1).cell == Cell(cell.epochs, cell.width, images=cell.images)
    assert find_fit(Network.IDENTITY, cell, 1).cell == Cell(cell.epochs, cell.width)


def test_a_cell_changes_its_own_settings_only(params: Params) -> None:
    changed = apply_cell(params, Cell(3, width=0.7, branch_after="conv2", weight=4.0, images=9))
    assert changed.network.channels == [11, 22, 45, 90] and changed.network.branch_after == "conv2"
    assert changed.train.epochs == 3 and changed.train.weights == Weights(expression=4.0, identity=1.0)
    kept = {"network": params.network, "train": params.train}
    assert changed.model_copy(update=kept) == params
    assert apply_cell(params, Cell(params.train.epochs)) == params


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"depth": [3]}, "sharing.grid.0: unknown key 'depth'"),
        ({"epochs": []}, r"sharing\.grid\.0\.epochs: got \[\]"),
        ({"width": [0.0]}, r"sharing\.grid\.0\.width\.0: got 0\.0"),
        ({"epochs": 8}, r"sharing\.grid\.0\.epochs: got 8"),
    ],
)
def test_wrong_grids_are_refused(params: Params, part: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        set_grid(params, part)
