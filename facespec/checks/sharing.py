"""What does it cost that two tasks share a network, cell by cell of a grid? Joint less single-task accuracies.

The difference is within a seed and on the same test images; its interval is that of the claims (`checks.crossed`):
t with the variance between seeds and that of the test images, which all networks share. Beside networks of the same
width stand those of other widths that the grid has with the same epochs: two of .7 of the width have together as many
weights as a joint network, and are its honest rivals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from facespec.checks.crossed import bound_mean, bound_over_seeds
from facespec.study.errors import StudyError
from facespec.study.tables_sharing import CELL, FITS, SHARING
from facespec.study.vocabulary import TASKS, TEST, Network, Task


def tabulate_sharing(
    fits: pd.DataFrame, *, level: float, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The SHARING table of all cells of which the networks are there, seed by seed and in the mean.

    Parameters
    ----------
    fits : DataFrame with the schema `study.tables_sharing.FITS`
        A seed for which a cell lacks the joint or the single-task network is left out.
    level : float
        Of the intervals.
    resamples : int
        Bootstrap draws of the test images, the same for all cells of a task.
    generator : numpy.random.Generator

    Returns
    -------
    DataFrame with the schema `study.tables_sharing.SHARING`

    Raises
    ------
    StudyError
        If two rows are about the same network, or networks were tested on different images.
    """
    fits = FITS.check(fits)
    _check_fits(fits)
    draws = {
        task.value: _draw_images(fits, task, resamples, stream)
        for task, stream in zip(TASKS, generator.spawn(len(TASKS)), strict=True)
    }
    rows: list[dict[str, Any]] = []
    about = [*CELL, "width_single", "tested_on", "source", "split"]
    for values, pairs in _pair_networks(fits).groupby(about, sort=False):
        cell: dict[str, Any] = dict(zip(about, values, strict=True))
        rows += _compare(cell, pairs.sort_values("seed"), draws[str(cell["tested_on"])], level=level)
    table = pd.DataFrame(rows).rename(columns={"width_single": "single_width"})
    return SHARING.check(table if rows else pd.DataFrame(columns=list(SHARING.columns)))


def decode_correct(digits: str, n: int) -> np.ndarray:
    """The booleans (n,) of the column `correct`.

    >>> decode_correct("a0", 3).tolist()
    [True, False, True]
    """
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=n).astype(bool)


def _check_fits(fits: pd.DataFrame) -> None:
    doubled = fits[fits.duplicated(["trained_on", "seed", *CELL, "tested_on", "split"])]
    if len(doubled):
        raise StudyError(f"fits: two rows are about the same network: {doubled.iloc[0].drop('correct').to_dict()}.")
    for task, tested in fits[fits["split"] == TEST].groupby("tested_on"):
        for column in ("n", "source"):
            if tested[column].nunique() > 1:
                raise StudyError(
                    f"fits: networks were tested on different faces for {task}: {column} is "
                    f"{' and '.join(map(str, tested[column].unique()))}. Remove fits/, and make them again."
                )


def _draw_images(fits: pd.DataFrame, task: Task, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """The test images of a task in each bootstrap resample: positions (resamples, n)."""
    tested = fits[(fits["tested_on"] == task.value) & (fits["split"] == TEST)]
    n = int(tested["n"].iloc[0]) if len(tested) else 1
    return generator.integers(n, size=(resamples, n))


def _pair_networks(fits: pd.DataFrame) -> pd.DataFrame:
    """A row for every joint network, task, split, and width of single-task networks: columns of both, and weights."""
    is_joint = fits["trained_on"] == Network.JOINT.value
    # the identity network does not depend on the images of expression
    images = fits["images"].where(fits["tested_on"] == Task.EXPRESSION.value, 0)
    fits = fits.assign(shared_images=images)
    keys = ["tested_on", "source", "split", "epochs", "seed", "shared_images"]
    joint, single = fits[is_joint], fits[~is_joint]
    sums = single.drop_duplicates(["trained_on", "width"]).groupby("width")["parameters"].agg(["sum", "size"])
    pair_weights = sums["sum"][sums["size"] == len(TASKS)]
    columns = [*keys, "width", "parameters", "accuracy", "correct"]
    pairs = joint.merge(single[columns], on=keys, suffixes=("", "_single"))
    pairs = pairs[pairs["width_single"].isin(pair_weights.index)]
    return pairs.assign(single_parameters=pairs["width_single"].map(pair_weights))


def _compare(cell: dict[str, Any], pairs: pd.DataFrame, draws: np.ndarray, *, level: float) -> list[dict[str, Any]]:
    """The rows of one cell, task and split: a row per seed, then the mean with its interval."""
    n, seeds = int(pairs["n"].iloc[0]), len(pairs)
    differences = (pairs["accuracy"] - pairs["accuracy_single"]).to_numpy()
    common = {
        **cell,
        "n": n,
        "joint_parameters": int(pairs["parameters"].iloc[0]),
        "single_parameters": int(pairs["single_parameters"].iloc[0]),
    }
    low, high = np.nan, np.nan
    if cell["split"] == TEST:
        joint, single = (
            np.stack([decode_correct(digits, n) for digits in pairs[column]]).astype(np.float64)
            for column in ("correct", "correct_single")
        )
        resampled = np.stack([(joint - single)[:, images].mean(axis=1) for images in draws], axis=1)
        if seeds > 1:
            low, high = map(float, bound_mean(differences, resampled, level=level))
        else:
            low, high = np.quantile(resampled[0], [(1 - level) / 2, (1 + level) / 2]).tolist()
    elif seeds > 1:
        low, high = map(float, bound_over_seeds(differences, level=level))
    each = [
        {"seed": row.seed, "seeds": 1, "joint": row.accuracy, "single": row.accuracy_single, "difference": difference}
        for row, difference in zip(pairs.itertuples(), differences, strict=True)
    ]
    mean = {
        "seed": np.nan,
        "seeds": seeds,
        "joint": pairs["accuracy"].mean(),
        "single": pairs["accuracy_single"].mean(),
        "difference": differences.mean(),
        "low": low,
        "high": high,
    }
    return [{**common, "low": np.nan, "high": np.nan, **row} for row in (*each, mean)]


def summarise_sharing(table: pd.DataFrame) -> Table:
    """The test accuracies of a SHARING table, means over seeds, for the terminal."""
    table = SHARING.check(table)
    means = table[table["seed"].isna() & (table["split"] == TEST)]
    summary = Table(title=Text("Joint less single-task networks"), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("epochs", "width", "branch", "weight", "images", "rival", "task", "seeds"):
        summary.add_column(heading)
    for heading in ("joint", "single", "difference", "interval"):
        summary.add_column(heading, justify="right", no_wrap=True)
    for row in means.to_dict("records"):
        summary.add_row(
            str(row["epochs"]),
            f"{row['width']:g}",
            row["branch_after"],
            f"{row['weight']:g}",
            str(row["images"] or "all"),
            f"{row['single_width']:g}",
            row["tested_on"],
            str(row["seeds"]),
            f"{row['joint']:.3f}",
            f"{row['single']:.3f}",
            f"{row['difference']:+.3f}",
            f"{row['low']:+.3f} to {row['high']:+.3f}",
        )
    return summary
