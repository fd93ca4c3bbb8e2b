"""What are numbers about these faces about? Shares of images with their intervals, and the targets of the faces.

A network can name a person by the face, or by the hair, or by the light of the room. Cue swaps tell which: the cue of
one person is put into the picture of another, and the network says who it is (`data.embedded.cues`). Which numbers the
embedded faces were made to reach, and whether they do, is a table as well: targets are about the faces, never about the
claims of the study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.decomposition import PCA

from facespec.analyses.resampling import average_people, estimate_interval, explain_few_people
from facespec.study.params import Targets
from facespec.study.tables import TRUTH_RULES
from facespec.study.tables_calibration import TARGETS

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]


def mark_named(predicted: Names, names: Names, known: Sequence[str]) -> Floats:
    """1 where an image is given a name, 0 where not: float64 (..., n); NaN where the network does not know the name.

    `predicted` (..., n) are the networks' answers, `names` (n,) those that are looked for, `known` their classes.
    """
    return np.where(np.isin(names, list(known)), (predicted == names).astype(np.float64), np.nan)


def measure_change(pictures: np.ndarray, others: np.ndarray) -> Floats:
    """Mean absolute difference of each picture, in grey levels (n,): both uint8 (n, H, W) or (n, H, W, 3)."""
    differences = np.abs(pictures.astype(np.int64) - others)
    return np.asarray(differences.reshape(len(pictures), -1).mean(axis=1))


def reduce_to_components(fitted: np.ndarray, tested: np.ndarray, *, components: int) -> tuple[Floats, Floats]:
    """Principal components of `fitted` (n_fit, pixels), of both sets of pictures: (n_fit, k) and (n_test, k).

    The k first, `components` at most. Classifiers of several tasks share them: components do not depend on classes.
    """
    kept = min(components, len(fitted) - 1, fitted.shape[1])
    reduction = PCA(kept, svd_solver="covariance_eigh").fit(fitted.astype(np.float64))
    return reduction.transform(fitted.astype(np.float64)), reduction.transform(tested.astype(np.float64))


def tabulate_shares(
    values: Floats, *, seeds: Sequence[int], people: pd.Series, draws: int, generator: np.random.Generator
) -> pd.DataFrame:
    """Means of every column of `values`, over networks and of each of them, with 95 % intervals.

    Parameters
    ----------
    values : array of shape (n_seeds, n, k)
        One value per network, image and column, such as 1 where it is right and 0 where not; NaN where undefined.
    seeds : sequence of int of length n_seeds
        The networks' seeds; empty for values without a network, whose `n_seeds` is 1.
    people : Series of str of length n
        The person of each image; images are averaged within people.
    draws : int
        Bootstrap draws, of seeds and people; shared by all columns.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    DataFrame
        `column`, `seed` (NaN: the mean over networks), `seeds`, `people`, `n`, `number`, `low`, `high`, `reason`; for
        every column its mean first. `people` and `n` images have a value in at least one network.

    Examples
    --------
    >>> right = np.array([[[1.0], [0.0], [1.0]]])
    >>> table = tabulate_shares(
    ...     right, seeds=[7], people=pd.Series(list("aab")), draws=100, generator=np.random.default_rng(0))
    >>> table[["seed", "seeds", "people", "n", "number"]].to_numpy().tolist()
    [[nan, 1.0, 2.0, 3.0, 0.75], [7.0, 1.0, 2.0, 3.0, 0.75]]
    """
    by_person = np.swapaxes(average_people(np.swapaxes(values, 0, 1), people), 0, 1)
    parts = [(np.nan, slice(None)), *((seed, slice(index, index + 1)) for index, seed in enumerate(seeds))]
    tables = []
    for seed, part in parts:
        number, low, high = estimate_interval(by_person[part], draws=draws, generator=generator)
        is_defined = ~np.isnan(values[part]).all(axis=0)
        n_people = (~np.isnan(by_person[part])).any(axis=0).sum(axis=0)
        reasons = [explain_few_people(count) if count else "" for count in n_people]
        table = pd.DataFrame({"number": number, "low": low, "high": high, "people": n_people, "reason": reasons})
        counts = {"n": is_defined.sum(axis=0), "seed": seed, "seeds": len(seeds) if np.isnan(seed) else 1}
        tables.append(table.assign(column=np.arange(values.shape[2]), **counts))
    order = ["column", "seed", "seeds", "people", "n", "number", "low", "high", "reason"]
    return pd.concat(tables).sort_values("column", kind="stable", ignore_index=True)[order]


@dataclass(frozen=True)
class Target:
    """What the faces are to reach: a number from `at_least` to `at_most`; NaN: no bound."""

    name: str
    statement: str
    at_least: float = np.nan
    at_most: float = np.nan


@dataclass(frozen=True)
class Measurement:
    """A number that a target is about, with its interval, or NaN and the `reason`."""

    source: str
    seeds: int = 0
    n: int = 0
    number: float = np.nan
    low: float = np.nan
    high: float = np.nan
    reason: str = ""

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Measurement:
        """The numbers of a row of a calibration table."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


def list_targets(block: Targets) -> tuple[Target, ...]:
    """The targets of the embedded faces, in the order in which they are reported."""
    training, probe = "test images of its training role", "held-out probe images, fine-tuned"
    bands = [
        Target(f"{task}_{role}", f"accuracy of the {task} network, {images}", band.low, band.high)
        for task, band in (("expression", block.expression), ("identity", block.identity))
        for role, images in (("training", training), ("probe", probe))
    ]
    named = "brows, eyes, nose and mouth: the identity network names the owner"
    return (
        Target("inner_features", f"with another person's {named}", at_most=block.named),
        Target("hair", "with another person's hair: the identity network names the owner", at_least=block.named),
        Target("pixels", "identity by the nearest picture, session A to session B", at_most=block.sessions),
        Target("untrained", "identity decoded from untrained trunks, session A to session B", at_most=block.sessions),
        Target("fear_surprise", "rank of fear and surprise among 21 confusions, training role", at_most=block.rank),
        Target("lowest_recall", "lowest recall of an expression, training role", at_least=block.recall),
        *bands,
        *(
            Target(f"overlap_{rule}", f"overlap (IoU) of the tasks' true pixels, by {rule}", at_least=block.overlap)
            for rule in TRUTH_RULES
        ),
    )


def judge_targets(targets: Sequence[Target], measurements: Mapping[str, Measurement]) -> pd.DataFrame:
    """The TARGETS table: `measurements` has one for the name of every target.

    A target is met if the number itself, not its interval, lies within the bounds: the faces are what they are, and
    the interval says how sure the number is. Without a number there is a reason, and no judgement.
    """
    rows = []
    for target in targets:
        measurement = measurements[target.name]
        bounds = {"at_least": target.at_least, "at_most": target.at_most}
        met = "yes" if _lies_between(measurement.number, **bounds) else "no"
        row = {"target": target.name, "statement": target.statement, **bounds, **asdict(measurement)}
        rows.append(row | {"met": "" if np.isnan(measurement.number) else met})
    return TARGETS.check(pd.DataFrame(rows))


def _lies_between(number: float, at_least: float, at_most: float) -> bool:
    return not (number < at_least or number > at_most)  # no number is beyond a bound that is NaN
