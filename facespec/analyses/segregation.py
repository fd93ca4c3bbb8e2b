"""Do two tasks need different units? From accuracies of people under lesions to dissociation and segregation.

The *drop* of a task is the share of its accuracy above chance that a lesion takes away: 0 where nothing is lost, 1
where chance is left, negative where the lesion helps. Units chosen for one task may cost that task more than the other
(the *difference* of their drops); a double dissociation is that they do so for both tasks, which rules out that one
task is merely easier to disturb. The *segregation index* puts both into one number: 1 where each lesion harms its own
task only, 0 where both tasks suffer alike, -1 where each harms the other task only [O].

People count alike, and are the unit of statistics: drops are computed from mean accuracies over people, because one
person's few images say little about a ratio. Intervals span seeds, draws of a control and people.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.resampling import LEAST_PEOPLE, PERCENTILES, average_weighted, draw_weights, explain_few_people
from facespec.study.errors import StudyError
from facespec.study.tables import ALL_IMAGES
from facespec.study.tables_lesions import DISSOCIATION, INDEX, SEGREGATION

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

LEAST_DEFINED = 0.95  # share of bootstrap draws that must be numbers for an interval [O]
DECIMALS = 9  # of a drop, so that equal ones are equal; what is finer comes from rounding, not from images


@dataclass(frozen=True)
class LesionSite:
    """Where the lesions are; the columns that both tables share. `depth` 1 is the shallowest layer."""

    trained_on: str
    source: str
    layer: str
    depth: int


@dataclass(frozen=True, eq=False)
class PeopleAccuracies:
    """Accuracies of people, whole and lesioned, at one layer and fraction of silenced units.

    `whole` (seeds, 2, people) and `lesioned` (seeds, draws, 2 lesions, 2 tasks, people) are shares of a person's test
    images answered right, NaN where a person has no image labelled for the task; lesion a silences units chosen for
    ``tasks[a]``. `draws`: of a control's random choices, 1 where nothing is drawn. `chance` (2,). Raises `StudyError`
    for shapes that do not fit, and for accuracies that are no shares or whose NaN are not the same whole and lesioned.
    """

    whole: Floats
    lesioned: Floats
    chance: Floats
    tasks: tuple[str, str]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check shapes and values."""
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
        """The names of what `_quantities` computes."""
        return (*self.tasks, INDEX)

    @property
    def people(self) -> int:
        """How many people have a number, in the task that has fewer."""
        return int((~np.isnan(self.whole)).any(axis=0).sum(axis=1).min())


def compute_relative_drop(whole: npt.ArrayLike, lesioned: npt.ArrayLike, chance: npt.ArrayLike) -> Floats:
    """(whole - lesioned) / (whole - chance), rounded to `DECIMALS`; NaN where `whole` is not above `chance`.

    All three are accuracies and broadcast. Negative where the lesion helps, above 1 where it leaves less than chance.
    """
    whole, lesioned, chance = (np.asarray(values, np.float64) for values in (whole, lesioned, chance))
    above = np.where(_above(whole, chance), whole - chance, np.nan)
    return np.asarray(np.round((whole - lesioned) / above, DECIMALS) + 0.0)  # + 0.0: not -0.0


def explain_no_drop(whole: npt.ArrayLike, chance: npt.ArrayLike, task: str) -> Texts:
    """Why `compute_relative_drop` is NaN; empty text where it is not. `whole` and `chance` broadcast; `task` is tested."""
    whole, chance = np.asarray(whole, np.float64), np.asarray(chance, np.float64)
    reasons = [f"no test image is labelled for {task}", f"the whole network is not above chance on {task}"]
    return np.select([np.isnan(whole), ~_above(whole, chance)], reasons, "")


def _above(whole: Floats, chance: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(whole - chance > 10.0**-DECIMALS)


def compute_segregation_index(drops: npt.ArrayLike) -> Floats:
    """The segregation index (...) of `drops` (..., 2, 2), where [..., a, b] is task b's when lesion a is for task a.

    Mean over both lesions of (own - other) / (own + other) drop, where negative drops count as 0, so that it lies
    between -1 and 1 [O]. NaN where a drop is NaN, or a lesion harms neither task.
    """
    own, other = _own_and_other(np.maximum(drops, 0.0))
    harm = own + other
    return np.asarray(((own - other) / np.where(harm > 0, harm, np.nan)).mean(axis=-1))


def tabulate_dissociation(
    tested: PeopleAccuracies, place: LesionSite, *, fraction: float, resamples: int, generator: np.random.Generator
) -> pd.DataFrame:
    """The DISSOCIATION rows of one layer and fraction: every seed, quantity and bootstrap draw of people.

    `resample` -1 is about all people. The draws depend on `generator` and the number of people alone: pass equal
    generators for all layers and fractions and their rows are paired. Raises `StudyError` for more than one draw of
    the lesions.
    """
    if (draws := tested.lesioned.shape[1]) != 1:
        raise StudyError(f"lesioned has {draws} draws per seed; dissociation is about 1. Use `tabulate_segregation`.")
    drawn = draw_weights(tested.whole.shape[-1], draws=resamples, generator=generator)
    whole, drops = _drops(tested, np.concatenate([np.ones_like(drawn[:1]), drawn]))
    number, reason = _quantities(drops), _reasons(tested, whole, drops)
    keys = [tested.seeds, tested.quantities, range(ALL_IMAGES, resamples)]
    rows = pd.MultiIndex.from_product(keys, names=["seed", "quantity", "resample"]).to_frame(index=False)
    rows["number"], rows["reason"] = (values[:, :, 0].transpose(1, 2, 0).ravel() for values in (number, reason))
    return DISSOCIATION.check(rows.assign(**asdict(place), fraction=fraction))


def tabulate_segregation(
    tested: PeopleAccuracies,
    place: LesionSite,
    *,
    condition: str,
    fraction: float,
    resamples: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """The SEGREGATION rows of one layer, condition and fraction: every quantity over all seeds and draws.

    `number` is the mean over seeds of the mean over a seed's draws, each on all people, leaving out NaN; `low` and
    `high` bound its 95 % percentile interval over bootstrap draws of seeds, of the draws of each drawn seed, and of
    people, the same for all of them. `defined` is the share of bootstrap draws with a number; below `LEAST_DEFINED`
    there is no interval. People and seeds are drawn as in every call with an equal generator and as many of them. Such
    intervals are too short where few seeds differ: the bounds of 3 with one draw are the least and the largest of them,
    which hold the truth in at most 3 of 4 studies where people add little. They are too long, nominal 95 % holding it
    in 98 % or more, where seeds or draws differ by the noise of people alone: it counts twice [D: theory, simulated].
    """
    seeds, draws, n_people = (tested.lesioned.shape[axis] for axis in (0, 1, 4))
    people = draw_weights(n_people, draws=resamples, generator=generator)
    picked = generator.integers(seeds, size=(resamples, seeds))
    weights = draw_weights(draws, draws=resamples * seeds, generator=generator).reshape(resamples, seeds, draws)
    _, drops = _drops(tested, people)
    drawn = _over_seeds(_quantities(drops)[np.arange(resamples)[:, None], picked], weights)
    whole, drops = _drops(tested, np.ones((1, n_people)))
    number = _over_seeds(_quantities(drops), np.ones((1, seeds, draws)))[0]
    reasons = _reasons(tested, whole, drops)
    rows = [
        {"quantity": name, "number": number[q], **_interval(drawn[:, q], reasons[0, ..., q], people=tested.people)}
        for q, name in enumerate(tested.quantities)
    ]
    common = {"condition": condition, "fraction": fraction, "seeds": seeds, "people": tested.people}
    return SEGREGATION.check(pd.DataFrame(rows).assign(**asdict(place), **common))


def _interval(drawn: Floats, reasons: Texts, *, people: int) -> dict[str, Any]:
    """Bounds from bootstrap numbers (resamples,); `reasons` (seeds, draws) say what the number on all people lacks."""
    (seeds, draws), missing = reasons.shape, reasons[reasons != ""]
    each, known = "seeds" if draws == 1 else "seeds and draws", drawn[~np.isnan(drawn)]
    left_out = f"left out {missing.size} of {seeds * draws} {each}: {', '.join(np.unique(missing))}"
    why = [left_out] if missing.size else []
    defined = len(known) / len(drawn)
    low = high = np.nan
    if missing.size == reasons.size:
        pass  # there is no number that an interval could be about
    elif people < LEAST_PEOPLE:
        why.append(explain_few_people(people))
    elif defined < LEAST_DEFINED:
        why.append(f"a number in {len(known)} of {len(drawn)} bootstrap draws only: no interval")
    else:
        low, high = np.percentile(known, PERCENTILES)
    return {"low": low, "high": high, "defined": defined, "reason": "; ".join(why)}


def _drops(tested: PeopleAccuracies, people: Floats) -> tuple[Floats, Floats]:
    """Mean accuracy of the whole network (n, seeds, 1, 2), and drops (n, seeds, draws, 2, 2), for n weights of people.

    `people` is (n, people). Held at once are n means per seed, draw, lesion and task, and nothing per person besides.
    """
    whole = average_weighted("np,stp->nst", people, tested.whole)[:, :, None]
    lesioned = average_weighted("np,sdltp->nsdlt", people, tested.lesioned)
    return whole, compute_relative_drop(whole[..., None, :], lesioned, tested.chance)


def _quantities(drops: Floats) -> Floats:
    """Differences of both tasks, and the index, (..., 3)."""
    own, other = _own_and_other(drops)
    return np.concatenate([own - other, compute_segregation_index(drops)[..., None]], axis=-1)


def _reasons(tested: PeopleAccuracies, whole: Floats, drops: Floats) -> Texts:
    """Why `_quantities` are NaN, (n, seeds, draws, 3); the first reason where there are several."""
    for_all = [
        explain_no_drop(whole[..., place], tested.chance[place], task) for place, task in enumerate(tested.tasks)
    ]
    harmless = [f"silencing the units chosen for {task} harms neither task" for task in tested.tasks]
    unharmed = np.select([(drops[..., lesion, :] <= 0).all(axis=-1) for lesion in (0, 1)], harmless, "")
    difference = np.where(for_all[0] == "", for_all[1], for_all[0])
    index = np.where(difference == "", unharmed, difference)
    return np.stack([*[np.broadcast_to(difference, index.shape)] * 2, index], axis=-1)


def _own_and_other(drops: Floats) -> tuple[Floats, Floats]:
    """Of `drops` (..., 2, 2): those of the task that a lesion is for, and of the other task, each (..., 2 lesions)."""
    return drops[..., [0, 1], [0, 1]], drops[..., [0, 1], [1, 0]]


def _over_seeds(numbers: Floats, weights: Floats) -> Floats:
    """(n, 3): means over seeds of means over draws of `numbers` (n, seeds, draws, 3), by weights (n, seeds, draws)."""
    by_seed = average_weighted("nsd,nsdq->nsq", weights, numbers)
    return average_weighted("ns,nsq->nq", np.ones(by_seed.shape[:2]), by_seed)
