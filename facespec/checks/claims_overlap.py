"""Does the joint network look at different places for the two tasks? Claim C6 about heatmaps.

That two masks overlap little says nothing by itself: masks of any two mean maps do, and so do those of an untrained
network with linear readouts. C6 is therefore judged against other differences than that of tasks, each measured by the
IoU of equally many pixels of maps of equally many images (rule ``top``, and quantities, of `analyses.overlap`) [O]. The
masks for the two tasks must overlap less than

- ``<task> networks``: those of two joint networks of different seeds for one task;
- ``<task> single``: those of two single-task networks of different seeds for their task;
- ``<task> classes``: the joint network's for two classes of one task, where the two tasks are compared class by class;

and ``<task> untrained``: by more, in the comparison of classes, than in the untrained network. (Not in that of
networks: random trunks differ from seed to seed in other ways than trained networks do.) Every part is a difference
with a direction; its interval is that of `checks.intervals`, and it is *reproduced* if that lies above 0.

The overlap of two networks is a mean over pairs of seeds, and pairs that share a seed are no independent values: seeds
count by their jackknife pseudo-values (`make_pseudo_values`).

A part is *not testable on this data* if
- one of its cells is missing, or they are no pairs: other faces, seeds or resamples;
- a number is NaN: all heatmaps that would go into it are blank, or there are fewer than two people;
- it is about pairs of networks, and there are fewer than three seeds: one pair says nothing of how pairs differ;
- no number varies over resamples.

For C6 the study gives the overlap of the two tasks' masks, and nothing to compare it with [P]. What overlaps were first
compared with is another half of the people; halves differ by noise alone, so that nearly everything passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from facespec.checks.claims_heatmaps import CELL, HeatmapClaimPart
from facespec.checks.intervals import (
    NotTestable,
    Rule,
    Side,
    describe_difference,
    judge_parts,
    pair_values,
    pivot_values,
    refuse_doubled,
    require_pairs,
    require_same_faces,
    select_cells,
)
from facespec.published.reference import read_reference_heatmaps
from facespec.study.tables import OVERLAP
from facespec.study.vocabulary import TASKS, Network, Task

TASK_IOU, NETWORKS, CLASSES, CLASS_TASKS = "iou", "iou_networks", "iou_classes", "iou_tasks"
QUANTITIES = {
    TASK_IOU: "the IoU of masks",
    NETWORKS: "the IoU of masks of networks of two seeds",
    CLASSES: "the IoU of masks of two classes",
    CLASS_TASKS: "the IoU of masks of the two tasks, class by class",
}
CLASS_NOUNS = {Task.EXPRESSION: ("expression", "expressions"), Task.IDENTITY: ("person", "people")}
MIN_SEEDS = 3  # for an interval over pairs of seeds


@dataclass(frozen=True)
class OverlapClaimPart(HeatmapClaimPart):
    """The overlap `quantity` of `more` minus the overlap of tasks, `task_quantity` of `less`.

    With a `control`, the same difference of that network is subtracted.
    """

    task_quantity: str = TASK_IOU
    control: Network | None = None

    @property
    def cells(self) -> list[tuple[str, Side]]:
        """Quantity and side of every cell: minuend and subtrahend, then those of the control."""
        cells = [(self.quantity, self.more), (self.task_quantity, self.less)]
        if self.control is not None:
            cells += [(quantity, Side(self.control, side.tested_on)) for quantity, side in cells]
        return cells

    def select(self, table: pd.DataFrame) -> list[pd.DataFrame]:
        return [
            select_cells(
                table,
                {
                    "figure": self.figure,
                    "quantity": quantity,
                    "rule": self.masks,
                    "trained_on": str(side.trained_on),
                    "tested_on": side.tested_on,
                },
            )
            for quantity, side in self.cells
        ]

    def describe(self) -> dict[str, Any]:
        numbers = read_reference_heatmaps(self.figure).set_index(["quantity", "trained_on", "tested_on"])["number"]
        iou = float(numbers[TASK_IOU, Network.JOINT.value, "both"])
        compared = f"{iou:.3f} for the two tasks, nothing to compare it with"
        return {"published": np.nan, "statement": f"{self.words} (Figure {self.figure}; published: {compared})"}

    def describe_rule(self, rule: Rule, seeds: int) -> str:
        (more, of_more), (less, of_less) = ((QUANTITIES[quantity], side) for quantity, side in self.cells[:2])
        difference = f"{more}, {of_more}, minus {less}, {of_less}"
        if self.control is not None:
            difference += f", and minus the same of the {self.control.value} network"
        if self.quantity == NETWORKS:
            difference += f" (seeds by their jackknife pseudo-values, {MIN_SEEDS} or more)"
        return describe_difference(rule, difference, "0", "people", seeds=seeds)

    def read_values(self, cells: list[pd.DataFrame]) -> np.ndarray:
        for (quantity, side), cell in zip(self.cells, cells, strict=True):
            if cell.empty:
                missing = f"{QUANTITIES[quantity]} of the {side}"
                raise NotTestable(f"Figure {self.figure} lacks {missing}", "a table that has it")
        require_same_faces(cells, ("source",))
        if self.quantity == NETWORKS and (seeds := cells[0]["seed"].nunique()) < MIN_SEEDS:
            raise NotTestable(f"pairs of {seeds} seed{'s' * (seeds > 1)} have no spread", f"{MIN_SEEDS} seeds")
        for (quantity, side), cell in zip(self.cells, cells, strict=True):
            if undefined := int(cell["number"].isna().sum()):
                raise NotTestable(
                    f"{QUANTITIES[quantity]} of the {side} is not defined in {undefined} of {len(cell)} rows: too few "
                    "people, or no heatmap but blank ones",
                    "more people, and networks whose heatmaps are not blank",
                )
        values = pair_values(cells[:2], "number", "all people")
        if self.quantity == NETWORKS:
            values[0] = make_pseudo_values(values[0])
        if self.control is None:
            return values
        require_pairs(pivot_values(cells[0], "number"), pivot_values(cells[2], "number"), "all people")
        more, less = pair_values(cells[2:], "number", "all people")
        return np.stack([values[0] - values[1], more - less])


def make_pseudo_values(means: np.ndarray) -> np.ndarray:
    """Jackknife pseudo-values of a mean over pairs of seeds, in the shape of `means` (n_seeds, ...), three or more.

    `means` holds each seed's mean over its pairs with the others. Pseudo-values have the same mean over seeds, but
    spread as independent values with that standard error would: the mean of pairs without one seed, subtracted from
    that of all by the jackknife's weights, leaves each seed 2 (n - 1) / (n - 2) times as far from it as its pairs are.

    References
    ----------
    Arvesen (1969). Jackknifing U-statistics. Annals of Mathematical Statistics 40:2076-2100.

    Examples
    --------
    Pairs (1, 2), (1, 3), (2, 3) of three seeds overlap by .1, .2 and .6.

    >>> make_pseudo_values(np.array([0.15, 0.35, 0.4])).round(3)
    array([-0.3,  0.5,  0.7])
    """
    n, mean = len(means), means.mean(axis=0)
    return mean + 2 * (n - 1) / (n - 2) * (means - mean)


def _make_network_part(kind: str, network: Network, task: Task) -> OverlapClaimPart:
    words = (
        "the joint network looks at different places for the two tasks: its masks for them overlap less than those of "
        f"two {network.value} networks for {task.value} do"
    )
    yardstick, tasks = Side(network, task.value), Side(Network.JOINT, "both")
    return OverlapClaimPart("C6", f"{task} {kind}", "2C", yardstick, tasks, words, NETWORKS, masks="top")


def _make_class_part(kind: str, task: Task, control: Network | None = None) -> OverlapClaimPart:
    (one, more), joint = CLASS_NOUNS[task], Side(Network.JOINT, task.value)
    words = (
        f"the joint network's masks for the two tasks, on the faces of one {one}, overlap less than its masks for "
        f"{task.value} on the faces of two {more} do"
    )
    if control is not None:
        words += f", by more than those of the {control.value} network"
    return OverlapClaimPart(
        "C6",
        f"{task} {kind}",
        "2C",
        joint,
        joint,
        words,
        CLASSES,
        masks="top",
        task_quantity=CLASS_TASKS,
        control=control,
    )


PARTS = (
    *(_make_network_part("networks", Network.JOINT, task) for task in TASKS),
    *(_make_network_part("single", Network(task.value), task) for task in TASKS),
    *(_make_class_part("classes", task) for task in TASKS),
    *(_make_class_part("untrained", task, Network.UNTRAINED) for task in TASKS),
)


def judge_overlap_claims(
    table: pd.DataFrame, *, level: float, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The VERDICTS table of claim C6, one row per part, from an OVERLAP table.

    `number` is the mean over seeds of the difference for all people, `low` and `high` bound its interval at `level`.
    Raises `StudyError` if a number, seed and resample has two rows.
    """
    table = OVERLAP.check(table)
    refuse_doubled(table, "overlap", CELL, number="number")
    return judge_parts(PARTS, table, Rule(level, draws), generator)
