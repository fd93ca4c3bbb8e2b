"""Which single faces does Figure 2D show, and with which heatmaps?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.study.vocabulary import EXPRESSIONS, View


@dataclass(frozen=True, eq=False)
class Example:
    """One image of Figure 2D, uint8 (H, W) grey or (H, W, 3) RGB, and maps (h, w) of its expression in [0, 1].

    `joint` is the joint network's map, `single` the expression network's, `untrained` that of the untrained network,
    which the published figure does not have; a map that is NaN is blank.
    """

    image: np.ndarray
    joint: np.ndarray
    single: np.ndarray
    untrained: np.ndarray | None = None


def choose_examples(labels: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Row numbers of a LABELS table: one image per expression it contains, in frontal view.

    People are spread evenly over their names: of all names in order, expression i of k takes the one in the middle of
    the i-th k-th part, or the next one with that expression. The choice depends on the labels alone. If no face is seen
    from the front, all views count.
    """
    frontal = labels["view"] == View.STRAIGHT
    candidates = labels.assign(position=np.arange(len(labels)))[frontal | (not frontal.any())]
    people = pd.Index(sorted(candidates["identity"].unique()))
    expressions = [name for name in EXPRESSIONS if (candidates["expression"] == name).any()]
    rows = []
    for i, name in enumerate(expressions):
        images = candidates[candidates["expression"] == name]
        middle = (2 * i + 1) * len(people) // (2 * len(expressions))
        steps = (people.get_indexer(pd.Index(images["identity"])) - middle) % len(people)
        rows.append(images.assign(steps=steps).sort_values(["steps", "stimulus"])["position"].iloc[0])
    return np.array(rows, dtype=np.int64)
