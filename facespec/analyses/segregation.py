"""Do two tasks need different units? From correct responses under lesions to dissociation and segregation.

The *drop* of a task is the share of its accuracy above chance that a lesion removes: 0 where nothing is lost, 1 where
accuracy falls to chance, negative where the lesion helps. Units chosen for one task may cost that task more than the
other (the *difference* of their drops); a double dissociation is such a difference for both tasks, which rules out that
one task is merely more fragile. The *segregation index* is one number for both differences: 1 where each lesion harms
only the task whose units were chosen, 0 where both tasks lose equally, -1 where each harms only the other task [O].

People have equal weight and are the unit of statistics: drops are computed from mean accuracies over people, because
one person's few images say little about a ratio. Intervals span seeds, draws of a control and people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import (
    MIN_PEOPLE,
    PERCENTILES,
    average_people,
    average_weighted,
    compute_chance,
    draw_weights,
    explain_few_people,
)
from facespec.study.errors import StudyError
from facespec.study.tables import ALL_IMAGES
from facespec.study.tables_lesions import DISSOCIATION, INDEX, SEGREGATION

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

LEAST_DEFINED = 0.95  # share of bootstrap draws that must be numbers for an interval [O]
DECIMALS = 9  # of a drop, so that equal ones are equal; what is finer comes from rounding, not from images


@dataclass(frozen=True)
class LesionSite:
    """The layer that is lesioned; columns that both tables share. `depth` 1 is the shallowest layer."""

    trained_on: str
    source: str
    layer: str
    depth: int


@dataclass(frozen=True, eq=False)
class PeopleAccuracies:
    """Accuracies of people, with the whole network and with lesions, at one layer and fraction of lesioned units.

    `whole` (seeds, 2, people) and `lesioned` (seeds, draws, 2 lesions, 2 tasks, people) are shares of a person's test
    images, NaN where a person has no image labelled for the task; lesion a is of units chosen for ``tasks[a]``.
    `draws`: of a control's random choices, 1 where nothing is random. `chance` (2,). Raises `StudyError` for shapes
    that do not fit, and for accuracies outside 0 to 1 or whose NaN differ between the whole and the lesioned network.
    """

    whole: Floats
    lesioned: Floats
    chance: Floats
    tasks: tuple[str, str]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        whole, lesioned, chance = np.shape(self.whole), np.shape(self.lesioned), np.shape(self.chance)
        seeds, people, draws = len(self.seeds), whole[-1] if whole else 0, lesioned[1] if len(lesioned) > 1 else 0
        fits = (whole, lesioned, chance) == ((seeds, 2, people), (seeds, draws, 2, 2, people), (2,))
        if not fits or min(seeds, people, draws) == 0:
            raise StudyError(
                f"whole {whole}, lesioned {lesioned}, chance {chance} and {seeds} seeds do not fit together; wanted: "
                "(seeds, 2, people), (seeds, draws, 2, 2, people) and (2,), with at least 1 of each."
            )
        if len(set(self.tasks)) != 2 or INDEX in self.tasks:
            raise StudyError(f"tasks {self.tasks}: allowed are two different names, neither of them {INDEX!r}.")
        for name, values in (("whole", self.whole), ("lesioned", self.lesioned), ("chance", self.chance)):
            if ((values < 0) | (values > 1)).any():
                raise StudyError(
                    f"{name} accuracies from {np.nanmin(values):g} to {np.nanmax(values):g}; allowed: shares, 0 to 1."
                )
        if (np.isnan(self.whole)[:, None, None] != np.isnan(self.lesioned)).any():
            raise StudyError("some people have an accuracy whole or lesioned only; test both on the same images.")

    @property
    def quantities(self) -> tuple[str, str, str]:
        """The names of what `_compute_quantities` computes."""
        return (*self.tasks, INDEX)

    @property
    def n_people(self) -> int:
        """How many people have a number, in the task that has fewer."""
        return int((~np.isnan(self.whole)).any(axis=0).sum(axis=1).min())


def compute_relative_drop(whole: npt.ArrayLike, lesioned: npt.ArrayLike, chance: npt.ArrayLike) -> Floats:
    """(whole - lesioned) / (whole - chance), rounded to `DECIMALS`; NaN where `whole` is not above `chance`.

    All three are accuracies and broadcast. Negative where the lesion helps, above 1 where it leaves less than chance.
    """
    whole, lesioned, chance = (np.asarray(values, np.float64) for values in (whole, lesioned, chance))
    above = np.where(_is_above(whole, chance), whole - chance, np.nan)
    return np.asarray(np.round((whole - lesioned) / above, DECIMALS) + 0.0)  # + 0.0: not -0.0


def explain_no_drop(whole: npt.ArrayLike, chance: npt.ArrayLike, task: str) -> Texts:
    """Why `compute_relative_drop` is NaN; empty where it is not. `whole` and `chance` broadcast; `task` is tested."""
    whole, chance = np.asarray(whole, np.float64), np.asarray(chance, np.float64)
    reasons = [f"no test image is labelled for {task}", f"the whole network is not above chance on {task}"]
    return np.select([np.isnan(whole), ~_is_above(whole, chance)], reasons, "")


def _is_above(whole: Floats, chance: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(whole - chance > 10.0**-DECIMALS)


def compute_segregation_index(drops: npt.ArrayLike) -> Floats:
    """Compute the segregation index: do lesions of units chosen for one task harm that task more than the other?

    The mean over both lesions of (target - other) / (target + other), where target is the drop of the task whose units
    are lesioned. Negative drops count as 0, so that the index lies between -1 and 1 [O].

    Parameters
    ----------
    drops : array of shape (..., 2, 2)
        ``[..., a, b]`` is the drop of task b under the lesion of units chosen for task a; see `compute_relative_drop`.

    Returns
    -------
    float array of shape (...)
        1: each lesion harms only its target task; 0: both tasks lose equally; -1: only the other task. NaN where a drop
        is NaN or a lesion harms neither task.

    References
    ----------
    Dobs et al. (2022). Brain-like functional specialization emerges spontaneously in deep neural networks. Science
    Advances 8, eabl8913.

    Examples
    --------
    >>> round(float(compute_segregation_index([[0.6, 0.2], [0.1, 0.3]])), 3)
    0.5
    """
    target, other = _split_drops(np.maximum(drops, 0.0))
    harm = target + other
    return np.asarray(((target - other) / np.where(harm > 0, harm, np.nan)).mean(axis=-1))


def compute_people_chance(classes: np.ndarray, people: pd.Series) -> float:
    """The best constant answer's accuracy where people have equal weight.

    It is the largest mean over people of a class's share of their images. `people` (n,): whom each image shows.
    """
    matches = (classes[:, None] == np.unique(classes)).astype(np.float64)
    return float(average_people(matches, people).mean(axis=0).max())


def tabulate_drops(whole: np.ndarray, lesioned: np.ndarray, classes: np.ndarray, *, tested_on: str) -> pd.DataFrame:
    """Columns `tested_on`, `n`, `chance`, `accuracy`, `drop` and `reason` of LESIONS, a row per lesion.

    `whole` (n,) and `lesioned` (lesions, n) are bool: which images, of known `classes` (n,), are classified correctly.
    """
    chance, table = compute_chance(classes), pd.DataFrame({"accuracy": lesioned.mean(axis=1)})
    drop = compute_relative_drop(whole.mean(), table["accuracy"], chance)
    reason = str(explain_no_drop(whole.mean(), chance, tested_on))
    return table.assign(tested_on=tested_on, n=len(classes), chance=chance, drop=drop, reason=reason)


def arrange_accuracies(
    lesions: pd.DataFrame,
    accuracies: Floats,
    *,
    condition: str,
    fraction: float,
    chance: Floats,
    tasks: Sequence[str],
    seeds: Sequence[int],
) -> PeopleAccuracies:
    """Accuracies at one layer, `condition` and `fraction`, from rows of LESIONS.

    `accuracies` (rows, people) belong to the rows of `lesions`. Random units are chosen for no task: their draws are
    used in pairs, one draw in place of either task's units.
    """
    rows = lesions.assign(row=np.arange(len(lesions)))
    whole = rows[(rows["condition"] == "ranked") & (rows["fraction"] == 0) & (rows["ranked_by"] == tasks[0])]
    rows = rows[(rows["condition"] == condition) & (rows["fraction"] == fraction)]
    if condition == "random":
        rows = rows.assign(draw=rows["draw"] // 2, ranked_by=np.take(tasks, rows["draw"] % 2))
    axes = [seeds, sorted(rows["draw"].unique()), tasks, tasks]
    rows = rows.set_index(["seed", "draw", "ranked_by", "tested_on"]).loc[pd.MultiIndex.from_product(axes)]
    whole = whole.set_index(["seed", "tested_on"]).loc[pd.MultiIndex.from_product([seeds, tasks])]
    return PeopleAccuracies(
        accuracies[whole["row"]].reshape(len(seeds), 2, -1),
        accuracies[rows["row"]].reshape(*map(len, axes), -1),
        chance,
        (tasks[0], tasks[1]),
        tuple(seeds),
    )


def tabulate_dissociation(
    accuracies: PeopleAccuracies, site: LesionSite, *, fraction: float, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The DISSOCIATION rows of one layer and fraction: every seed, quantity and bootstrap draw of people.

    `resample` -1 is about all people. The draws depend only on `generator` and the number of people: pass equal
    generators for all layers and fractions and their rows are paired. Raises `StudyError` for more than one draw of
    the lesions.
    """
    if (draws := accuracies.lesioned.shape[1]) != 1:
        raise StudyError(f"lesioned has {draws} draws per seed; dissociation is about 1. Use `tabulate_segregation`.")
    weights = draw_weights(accuracies.whole.shape[-1], draws=resamples, generator=generator)
    whole, drops = _measure_drops(accuracies, np.concatenate([np.ones_like(weights[:1]), weights]))
    number, reason = _compute_quantities(drops), _explain_missing(accuracies, whole, drops)
    keys = [accuracies.seeds, accuracies.quantities, range(ALL_IMAGES, resamples)]
    rows = pd.MultiIndex.from_product(keys, names=["seed", "quantity", "resample"]).to_frame(index=False)
    rows["number"], rows["reason"] = (values[:, :, 0].transpose(1, 2, 0).ravel() for values in (number, reason))
    return DISSOCIATION.check(rows.assign(**asdict(site), fraction=fraction))


def tabulate_segregation(
    accuracies: PeopleAccuracies,
    site: LesionSite,
    *,
    condition: str,
    fraction: float,
    resamples: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """The SEGREGATION rows of one layer, condition and fraction: every quantity over all seeds and draws.

    `number` is the mean over seeds of the mean over a seed's draws, each for all people, ignoring NaN; `low` and `high`
    bound its 95 % percentile interval over bootstrap draws of seeds, of the draws of each drawn seed, and of people,
    the same people for all of them. `defined` is the share of bootstrap draws with a number; below `LEAST_DEFINED`
    there is no interval. Equal generators and numbers of people and seeds give equal draws of both.

    The intervals are too short where few seeds differ: the bounds of 3 with one draw are the least and the largest of
    them, which contain the truth in at most 3 of 4 studies where people add little. They are too long (nominal 95 %
    contain it in 98 % or more) where seeds or draws differ only by the noise of people: it counts twice [D: theory,
    simulated].
    """
    seeds, draws, n_people = (accuracies.lesioned.shape[axis] for axis in (0, 1, 4))
    people = draw_weights(n_people, draws=resamples, generator=generator)
    seed_draws = generator.integers(seeds, size=(resamples, seeds))
    weights = draw_weights(draws, draws=resamples * seeds, generator=generator).reshape(resamples, seeds, draws)
    _, drops = _measure_drops(accuracies, people)
    bootstrap = _average_seeds(_compute_quantities(drops)[np.arange(resamples)[:, None], seed_draws], weights)
    whole, drops = _measure_drops(accuracies, np.ones((1, n_people)))
    number = _average_seeds(_compute_quantities(drops), np.ones((1, seeds, draws)))[0]
    reasons, n = _explain_missing(accuracies, whole, drops)[0], accuracies.n_people
    rows = [
        {"quantity": name, "number": number[q], **_estimate_interval(bootstrap[:, q], reasons[..., q], people=n)}
        for q, name in enumerate(accuracies.quantities)
    ]
    common = {"condition": condition, "fraction": fraction, "seeds": seeds, "people": n}
    return SEGREGATION.check(pd.DataFrame(rows).assign(**asdict(site), **common))


def _estimate_interval(bootstrap: Floats, reasons: Texts, *, people: int) -> dict[str, Any]:
    """Bounds from bootstrap numbers (resamples,); `reasons` (seeds, draws): why a number on all people is missing."""
    (seeds, draws), missing = reasons.shape, reasons[reasons != ""]
    each, defined = "seeds" if draws == 1 else "seeds and draws", bootstrap[~np.isnan(bootstrap)]
    message = f"left out {missing.size} of {seeds * draws} {each}: {', '.join(np.unique(missing))}"
    messages = [message] if missing.size else []
    share, low, high = len(defined) / len(bootstrap), np.nan, np.nan
    if missing.size == reasons.size:
        pass  # there is no number that an interval could be about
    elif people < MIN_PEOPLE:
        messages.append(explain_few_people(people))
    elif share < LEAST_DEFINED:
        messages.append(f"a number in {len(defined)} of {len(bootstrap)} bootstrap draws only: no interval")
    else:
        low, high = np.percentile(defined, PERCENTILES)
    return {"low": low, "high": high, "defined": share, "reason": "; ".join(messages)}


def _measure_drops(accuracies: PeopleAccuracies, people: Floats) -> tuple[Floats, Floats]:
    """Mean accuracy of the whole network (n, seeds, 1, 2), and drops (n, seeds, draws, 2, 2), for n weights of people.

    `people` is (n, people). Memory: n means per seed, draw, lesion and task, and nothing else per person.
    """
    whole = average_weighted("np,stp->nst", people, accuracies.whole)[:, :, None]
    lesioned = average_weighted("np,sdltp->nsdlt", people, accuracies.lesioned)
    return whole, compute_relative_drop(whole[..., None, :], lesioned, accuracies.chance)


def _compute_quantities(drops: Floats) -> Floats:
    """Differences of both tasks, and the index, (..., 3)."""
    target, other = _split_drops(drops)
    return np.concatenate([target - other, compute_segregation_index(drops)[..., None]], axis=-1)


def _explain_missing(accuracies: PeopleAccuracies, whole: Floats, drops: Floats) -> Texts:
    """Why `_compute_quantities` gives NaN, (n, seeds, draws, 3); the first reason where there are several."""
    first, second = (
        explain_no_drop(whole[..., number], accuracies.chance[number], task)
        for number, task in enumerate(accuracies.tasks)
    )
    harmless = [f"silencing the units chosen for {task} harms neither task" for task in accuracies.tasks]
    unharmed = np.select([(drops[..., lesion, :] <= 0).all(axis=-1) for lesion in (0, 1)], harmless, "")
    difference = np.where(first == "", second, first)
    index = np.where(difference == "", unharmed, difference)
    return np.stack([*[np.broadcast_to(difference, index.shape)] * 2, index], axis=-1)


def _split_drops(drops: Floats) -> tuple[Floats, Floats]:
    """Of `drops` (..., 2, 2): those of the task whose units are lesioned, and of the other, each (..., 2 lesions)."""
    return drops[..., [0, 1], [0, 1]], drops[..., [0, 1], [1, 0]]


def _average_seeds(numbers: Floats, weights: Floats) -> Floats:
    """(n, 3): means over seeds of means over draws of `numbers` (n, seeds, draws, 3), by weights (n, seeds, draws)."""
    by_seed = average_weighted("nsd,nsdq->nsq", weights, numbers)
    return average_weighted("ns,nsq->nq", np.ones(by_seed.shape[:2]), by_seed)
