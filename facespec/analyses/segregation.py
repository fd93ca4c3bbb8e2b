"""Do two tasks need different units? From correct responses under lesions to dissociation and segregation.

The *drop* of a task is the share of its accuracy above chance that a lesion removes: 0 where nothing is lost, 1 where
accuracy falls to chance, negative where the lesion helps. Units chosen for one task may cost that task more than the
other (the *difference* of their drops); a double dissociation is such a difference for both tasks, which rules out that
one task is merely more fragile. The *segregation index* is one number for both differences: 1 where each lesion harms
only the task whose units were chosen, 0 where both tasks lose equally, -1 where each harms only the other task [O].

Lesions are compared in two ways. At a *fixed fraction* of silenced units, lesions for two tasks may do very unequal
harm: differences are small where the lesion does hardly anything, or destroys everything. At *matched damage*, units
are silenced in order until the task that they are ranked for has lost a given share of its accuracy above chance; there
the other task's drop is read off, so that the difference is the damage minus that drop [O].

People have equal weight and are the unit of statistics: drops are computed from mean accuracies over people, because
one person's few images say little about a ratio. Intervals span seeds, draws of a control and people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, NamedTuple, Protocol

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


class Measurement(NamedTuple):
    """What n weightings of people give, for every seed and draw of the lesions.

    `drops` (n, seeds, draws, 2 lesions, 2 tasks) are compared with each other; `needed` (n, seeds, draws, 2 lesions) is
    the share of units that had to be silenced, NaN where a fixed fraction is; `reasons` (n, seeds, draws, 3) say why
    `_compute_quantities` gives NaN, the first where there are several.
    """

    drops: Floats
    needed: Floats
    reasons: Texts


class LesionAccuracies(Protocol):
    """Accuracies of people, from which drops are measured for any weights of people."""

    @property
    def tasks(self) -> tuple[str, str]: ...

    @property
    def seeds(self) -> tuple[int, ...]: ...

    @property
    def whole(self) -> Floats:
        """(seeds, 2, people)."""

    @property
    def draws(self) -> int:
        """Of a control's random choices, per seed; 1 where nothing is random."""

    @property
    def amount(self) -> dict[str, float]:
        """How much is lesioned: the columns `fraction` and `damage` of the tables, one of them NaN."""

    def measure(self, people: Floats) -> Measurement:
        """For weights (n, people)."""


@dataclass(frozen=True, eq=False)
class PeopleAccuracies:
    """Accuracies of people, with the whole network and with lesions, at one layer and fraction of lesioned units.

    `whole` (seeds, 2, people) and `lesioned` (seeds, draws, 2 lesions, 2 tasks, people) are shares of a person's test
    images, NaN where a person has no image labelled for the task; lesion a is of units chosen for ``tasks[a]``.
    `draws`: of a control's random choices, 1 where nothing is random. `chance` (2,). Raises `StudyError` for shapes
    that do not fit, and for accuracies outside 0 to 1 or whose NaN differ between the whole and the lesioned network.
    `fraction` of lesioned units is for the tables alone.
    """

    whole: Floats
    lesioned: Floats
    chance: Floats
    tasks: tuple[str, str]
    seeds: tuple[int, ...]
    fraction: float = np.nan

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
    def draws(self) -> int:
        """Of a control's random choices, per seed."""
        return int(self.lesioned.shape[1])

    @property
    def amount(self) -> dict[str, float]:
        """Columns of the tables."""
        return {"fraction": self.fraction, "damage": np.nan}

    def measure(self, people: Floats) -> Measurement:
        """Drops at this fraction, for weights (n, people)."""
        whole, drops = _measure_drops(self, people)
        difference = _explain_no_difference(self, whole)
        harmless = [f"silencing the units chosen for {task} harms neither task" for task in self.tasks]
        unharmed = np.select([(drops[..., lesion, :] <= 0).all(axis=-1) for lesion in (0, 1)], harmless, "")
        index = np.where(difference == "", unharmed, difference)
        reasons = np.stack([*[np.broadcast_to(difference, index.shape)] * 2, index], axis=-1)
        return Measurement(drops, np.full(drops.shape[:-1], np.nan), reasons)


@dataclass(frozen=True, eq=False)
class DamageCurves:
    """Accuracies of people while more and more units are lesioned, to be compared at matched damage.

    `points` has the accuracies of every point of the curves: its `lesioned` is (seeds, draws * points, 2 lesions,
    2 tasks, people), the points of a draw one after the other. `silenced` (seeds, draws, 2 lesions, points), ascending,
    is the share of units lesioned at a point; a shorter curve repeats its last point. All begin with the whole network.
    `damage`: drop of the task whose units are lesioned, in (0, 1). Raises `StudyError` for shapes that do not fit.
    """

    points: PeopleAccuracies
    silenced: Floats
    damage: float

    def __post_init__(self) -> None:
        seeds, draws, lesions, points = self.silenced.shape
        if (seeds, draws * points, lesions) != (len(self.seeds), self.points.draws, 2) or not 0 < self.damage < 1:
            raise StudyError(
                f"silenced {self.silenced.shape}, {self.points.draws} accuracies of {len(self.seeds)} seeds and damage "
                f"{self.damage:g} do not fit together; wanted: (seeds, draws, 2, points), draws * points, and (0, 1)."
            )

    @property
    def tasks(self) -> tuple[str, str]:
        """The two tasks."""
        return self.points.tasks

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the networks."""
        return self.points.seeds

    @property
    def whole(self) -> Floats:
        """Accuracies of people, (seeds, 2, people)."""
        return self.points.whole

    @property
    def draws(self) -> int:
        """Of a control's random choices, per seed."""
        return int(self.silenced.shape[1])

    @property
    def amount(self) -> dict[str, float]:
        """Columns of the tables."""
        return {"fraction": np.nan, "damage": self.damage}

    def measure(self, people: Floats) -> Measurement:
        """Drops at the damage, for weights (n, people): each weighting has curves of its own."""
        whole, drops = _measure_drops(self.points, people)
        drops = drops.reshape(len(drops), len(self.seeds), self.draws, -1, 2, 2)
        target, other = (np.moveaxis(values, 3, -1) for values in _split_drops(drops))  # (..., 2 lesions, points)
        needed, other_drop = match_damage(target, other, self.silenced, damage=self.damage)
        matched = np.full((*needed.shape, 2), np.nan)
        matched[..., [0, 1], [0, 1]] = np.where(np.isnan(needed), np.nan, self.damage)
        matched[..., [0, 1], [1, 0]] = other_drop
        difference = _explain_no_difference(self.points, whole)
        spared = [f"silencing the units chosen for {task} does not cost it {self.damage:g}" for task in self.tasks]
        each = [
            np.where(difference == "", np.where(np.isnan(needed[..., a]), spared[a], ""), difference) for a in (0, 1)
        ]
        return Measurement(matched, needed, np.stack([*each, np.where(each[0] == "", each[1], each[0])], axis=-1))


def match_damage(
    target: npt.ArrayLike, other: npt.ArrayLike, silenced: npt.ArrayLike, *, damage: float
) -> tuple[Floats, Floats]:
    """How many units must be silenced until a task has lost `damage`, and what has the other task lost by then?

    Curves run straight from the whole network (nothing silenced, both drops 0) through all points. What counts is the
    first place at which the drop of the target task reaches the damage, whether or not it falls below it again.

    Parameters
    ----------
    target, other : array of shape (..., points)
        Drops of the task that units are ranked for, and of the other; see `compute_relative_drop`.
    silenced : array of shape (..., points)
        Share or number of silenced units at each point, ascending. The shapes broadcast.
    damage : float
        Above 0.

    Returns
    -------
    needed : float array of shape (...)
        Silenced units at that place; NaN where no point reaches the damage, and where drops are NaN.
    other_drop : float array of shape (...)
        Drop of the other task there, rounded to `DECIMALS`.

    Examples
    --------
    A quarter of the units costs 0.2, half of them 0.6; the other task loses 0.1 and 0.3:

    >>> needed, other_drop = match_damage([0.2, 0.6], [0.1, 0.3], [0.25, 0.5], damage=0.5)
    >>> float(needed), float(other_drop)
    (0.4375, 0.25)
    """
    target, other, silenced = np.broadcast_arrays(
        *(np.asarray(curve, np.float64) for curve in (target, other, silenced))
    )
    reached = target >= damage
    end = reached.argmax(axis=-1)[..., None]  # the first point at or beyond the damage

    def take(curve: Floats, position: npt.NDArray[np.intp]) -> Floats:
        """The value at a point; 0 at -1, the whole network."""
        values = np.take_along_axis(curve, np.maximum(position, 0), axis=-1)
        return np.asarray(np.where(position < 0, 0.0, values)[..., 0])

    before, after = take(target, end - 1), take(target, end)
    found = reached.any(axis=-1) & (before < after)  # the second is false where drops are NaN
    way = (damage - before) / np.where(found, after - before, np.nan)
    needed, other_drop = ((1 - way) * take(curve, end - 1) + way * take(curve, end) for curve in (silenced, other))
    return needed, np.asarray(np.round(other_drop, DECIMALS) + 0.0)


def count_people(whole: Floats) -> int:
    """How many people have a number in `whole` (seeds, 2, people), in the task that has fewer."""
    return int((~np.isnan(whole)).any(axis=0).sum(axis=1).min())


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
    rows = _choose_condition(rows[rows["fraction"] == fraction], condition, tasks)
    axes = [seeds, sorted(rows["draw"].unique()), tasks, tasks]
    rows = rows.set_index(["seed", "draw", "ranked_by", "tested_on"]).loc[pd.MultiIndex.from_product(axes)]
    whole = whole.set_index(["seed", "tested_on"]).loc[pd.MultiIndex.from_product([seeds, tasks])]
    return PeopleAccuracies(
        accuracies[whole["row"]].reshape(len(seeds), 2, -1),
        accuracies[rows["row"]].reshape(*map(len, axes), -1),
        chance,
        (tasks[0], tasks[1]),
        tuple(seeds),
        fraction,
    )


def arrange_curves(
    curves: pd.DataFrame, accuracies: Floats, fixed: PeopleAccuracies, *, condition: str, damage: float
) -> DamageCurves:
    """Damage curves at one layer and `condition`, from rows of DAMAGE_CURVES.

    `accuracies` (rows, people) belong to the rows of `curves`; random draws are used as in `arrange_accuracies`.
    `fixed`: accuracies of the same networks at any fraction, for all that is not about lesions.
    """
    rows = _choose_condition(curves.assign(row=np.arange(len(curves))), condition, fixed.tasks)
    order = ["seed", "draw", "ranked_by"]
    points = rows.pivot(index=[*order, "units", "silenced"], columns="tested_on", values="row").sort_index()
    by_order: dict[Any, pd.DataFrame] = dict(iter(points.reset_index().groupby(order)))
    longest, axes = max(map(len, by_order.values())), (fixed.seeds, sorted(set(rows["draw"])), fixed.tasks)
    repeated = [by_order[key].iloc[np.minimum(np.arange(longest), len(by_order[key]) - 1)] for key in product(*axes)]
    silenced = np.array([group["silenced"] / group["units"] for group in repeated])
    positions = np.array([group[list(fixed.tasks)] for group in repeated])
    shape = *map(len, axes), longest
    # (seeds, draws, lesions, points, tasks) -> (seeds, draws * points, lesions, tasks)
    positions = positions.reshape(*shape, 2).transpose(0, 1, 3, 2, 4).reshape(shape[0], -1, 2, 2)
    lesioned = replace(fixed, lesioned=accuracies[positions], fraction=np.nan)
    return DamageCurves(lesioned, silenced.reshape(shape), damage)


def _choose_condition(rows: pd.DataFrame, condition: str, tasks: Sequence[str]) -> pd.DataFrame:
    """The rows of a condition; draws of random units in pairs, one for each task."""
    rows = rows[rows["condition"] == condition]
    if condition == "random":
        return rows.assign(draw=rows["draw"] // 2, ranked_by=np.take(tasks, rows["draw"] % 2))
    return rows


def tabulate_dissociation(
    accuracies: LesionAccuracies, site: LesionSite, *, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The DISSOCIATION rows of one layer and amount of lesions: every seed, quantity and bootstrap draw of people.

    `resample` -1 is about all people. The draws depend only on `generator` and the number of people: pass equal
    generators for all layers and amounts and their rows are paired. Raises `StudyError` for more than one draw of the
    lesions.
    """
    if accuracies.draws != 1:
        raise StudyError(
            f"lesioned has {accuracies.draws} draws per seed; dissociation is about 1. Use `tabulate_segregation`."
        )
    weights = draw_weights(accuracies.whole.shape[-1], draws=resamples, generator=generator)
    measured = accuracies.measure(np.concatenate([np.ones_like(weights[:1]), weights]))
    keys = [accuracies.seeds, (*accuracies.tasks, INDEX), range(ALL_IMAGES, resamples)]
    rows = pd.MultiIndex.from_product(keys, names=["seed", "quantity", "resample"]).to_frame(index=False)
    columns = {
        "number": _compute_quantities(measured.drops),
        "needed": _append_missing(measured.needed),
        "reason": measured.reasons,
    }
    for name, values in columns.items():
        rows[name] = values[:, :, 0].transpose(1, 2, 0).ravel()
    return DISSOCIATION.check(rows.assign(**asdict(site), **accuracies.amount))


def tabulate_segregation(
    accuracies: LesionAccuracies, site: LesionSite, *, condition: str, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The SEGREGATION rows of one layer, condition and amount of lesions: every quantity over all seeds and draws.

    `number` is the mean over seeds of the mean over a seed's draws, each for all people, ignoring NaN; `low` and `high`
    bound its 95 % percentile interval over bootstrap draws of seeds, of the draws of each drawn seed, and of people,
    the same people for all of them. `defined` is the share of bootstrap draws with a number; below `LEAST_DEFINED`
    there is no interval. Equal generators and numbers of people and seeds give equal draws of both.

    The intervals are too short where few seeds differ: the bounds of 3 with one draw are the least and the largest of
    them, which contain the truth in at most 3 of 4 studies where people add little. They are too long (nominal 95 %
    contain it in 98 % or more) where seeds or draws differ only by the noise of people: it counts twice [D: theory,
    simulated].
    """
    seeds, draws, n_people = len(accuracies.seeds), accuracies.draws, accuracies.whole.shape[-1]
    people = draw_weights(n_people, draws=resamples, generator=generator)
    seed_draws = generator.integers(seeds, size=(resamples, seeds))
    weights = draw_weights(draws, draws=resamples * seeds, generator=generator).reshape(resamples, seeds, draws)
    numbers = _compute_quantities(accuracies.measure(people).drops)
    bootstrap = _average_seeds(numbers[np.arange(resamples)[:, None], seed_draws], weights)
    measured, once = accuracies.measure(np.ones((1, n_people))), np.ones((1, seeds, draws))
    number = _average_seeds(_compute_quantities(measured.drops), once)[0]
    needed = _average_seeds(_append_missing(measured.needed), once)[0]
    reasons, n = measured.reasons[0], count_people(accuracies.whole)
    rows = [
        {"quantity": name, "number": number[q], "needed": needed[q]}
        | _estimate_interval(bootstrap[:, q], reasons[..., q], people=n)
        for q, name in enumerate((*accuracies.tasks, INDEX))
    ]
    common: dict[str, Any] = {"condition": condition, "seeds": seeds, "people": n, **accuracies.amount}
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


def _append_missing(needed: Floats) -> Floats:
    """`needed` (..., 2) with NaN for the index, which is about both lesions: (..., 3)."""
    return np.concatenate([needed, np.full_like(needed[..., :1], np.nan)], axis=-1)


def _explain_no_difference(accuracies: PeopleAccuracies, whole: Floats) -> Texts:
    """Why drops are NaN: (n, seeds, 1), from mean accuracies of the `whole` network, (n, seeds, 1, 2)."""
    first, second = (
        explain_no_drop(whole[..., number], accuracies.chance[number], task)
        for number, task in enumerate(accuracies.tasks)
    )
    return np.where(first == "", second, first)


def _split_drops(drops: Floats) -> tuple[Floats, Floats]:
    """Of `drops` (..., 2, 2): those of the task whose units are lesioned, and of the other, each (..., 2 lesions)."""
    return drops[..., [0, 1], [0, 1]], drops[..., [0, 1], [1, 0]]


def _average_seeds(numbers: Floats, weights: Floats) -> Floats:
    """(n, 3): means over seeds of means over draws of `numbers` (n, seeds, draws, 3), by weights (n, seeds, draws)."""
    by_seed = average_weighted("nsd,nsdq->nsq", weights, numbers)
    return average_weighted("ns,nsq->nq", np.ones(by_seed.shape[:2]), by_seed)
