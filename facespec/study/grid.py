"""Which networks does a grid of `params.yaml` ask for? Each of them once, whichever questions it answers.

A single-task network does not depend on where a joint one branches, or on how its losses are weighted, and the identity
network does not depend on the images of expression: cells of the grid share such networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from facespec.study.params import GridPart, Params
from facespec.study.vocabulary import NETWORKS, Network, Task


@dataclass(frozen=True)
class Cell:
    """What the networks of one cell of the grid share: their settings but tasks and seed.

    `width` is a factor of the units of every layer, `branch_after` the last layer that the tasks share (empty: all but
    the heads), `weight` that of the loss of expression, and `images` how many training images of expression there are
    at most (0: all).
    """

    epochs: int
    width: float = 1.0
    branch_after: str = ""
    weight: float = 1.0
    images: int = 0


@dataclass(frozen=True)
class GridFit:
    """One network of the grid: what it is trained on, its settings, and its seed."""

    network: Network
    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """The fit as the name of a file and of a stage, from which no other fit has its name.

        >>> GridFit(Network.JOINT, Cell(8, width=0.5, branch_after="conv2"), seed=3).name
        'joint-epochs8-width50-conv2-3'
        """
        cell = self.cell
        parts = [
            f"epochs{cell.epochs}",
            *([f"width{_format_percent(cell.width)}"] if cell.width != 1 else []),
            *([cell.branch_after] if cell.branch_after else []),
            *([f"weight{_format_percent(cell.weight)}"] if cell.weight != 1 else []),
            *([f"images{cell.images}"] if cell.images else []),
        ]
        return "-".join([self.network.value, *parts, str(self.seed)])


def list_cells(params: Params) -> list[tuple[Cell, int]]:
    """The cells of the grid, each with a seed, in the order of the grid; none of them twice."""
    return list(dict.fromkeys(pair for part in params.sharing.grid for pair in _combine(part, params)))


def list_fits(params: Params) -> dict[str, GridFit]:
    """The networks of the grid by name, in the order of the grid."""
    fits = [find_fit(network, *pair) for pair in list_cells(params) for network in NETWORKS]
    return {fit.name: fit for fit in fits}


def find_fit(network: Network, cell: Cell, seed: int) -> GridFit:
    """The network of a cell, with only those of the cell's settings that it depends on."""
    if network is not Network.JOINT:
        cell = replace(cell, branch_after="", weight=1.0)
    if Task.EXPRESSION not in network.tasks:
        cell = replace(cell, images=0)
    return GridFit(network, cell, seed)


def apply_cell(params: Params, cell: Cell) -> Params:
    """The parameters with the settings of a cell in their places; the number of images has none."""
    network = {
        "channels": [max(1, round(units * cell.width)) for units in params.network.channels],
        "branch_after": cell.branch_after or None,
    }
    train = {"epochs": cell.epochs}
    values = params.model_dump()
    values["network"] |= network
    values["train"] |= train | {"weights": {"expression": cell.weight, "identity": 1.0}}
    return Params.model_validate(values)


def _combine(part: GridPart, params: Params) -> Iterator[tuple[Cell, int]]:
    """Every cell and seed of a part; seeds vary slowest, so that a part that is interrupted has whole seeds."""
    branches = part.branch_after or [params.network.branch_after or ""]
    settings = part.epochs or [params.train.epochs], part.width, branches, part.weight, part.images or [0]
    for seed, values in itertools.product(part.seeds or params.seeds, itertools.product(*settings)):
        yield Cell(*values), seed


def _format_percent(factor: float) -> str:
    return f"{100 * factor:g}"
