"""At which depth do responses depend on identity, and on expression? Analysis of variance, unit by unit.

A unit's response to an image is one number, its mean over the map (`responses.pooling`). Over people x expressions,
with the sessions as replicates, its variance is split into identity, expression, their interaction, and the residual.
All units of a layer are computed at once.

Permutations: the images of a cell (one person with one expression) share the interaction of that cell, and so cannot be
exchanged for other images under the null hypothesis. Whole cells can [O]: for expression within each person, for
identity within each expression, independently for each person or expression (Anderson & ter Braak 2003, J. Stat.
Comput. Simul. 73:85-113). That leaves unchanged the other factor's and the residual sums of squares, and the sum of
those of the factor and the interaction; so all statistics of the factor (eta squared, F) rank the permutations equally.
The test is of an effect *across* people (or expressions). The parametric F test in the same table has the residual as
error, and so finds effects of both factors where there are interactions only.

Every unit has its null distribution; none is pooled over units, because sparse units have heavier tails. In return
there are so many permutations that a unit which is the only one with an effect in its layer can still be significant.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from facespec.study.errors import StudyError
from facespec.study.tables import CLASSES, UNIT_CLASSES, UNIT_SHARES, UNITS
from facespec.study.vocabulary import TASKS, Task

Floats = npt.NDArray[np.float64]

FACTORS = ["identity", "expression", "session"]
LEFT_OUT = "left out"  # in place of the number of a repetition that others lack
SPREAD = 1e-6  # of the largest response: a standard deviation below it is rounding of float32
AT_ONCE = 1 << 20  # permuted sums held at a time: 8 MiB
SILENT = "the unit answers all images alike"


@dataclass(frozen=True)
class LayerKey:
    """One layer of one network: the columns that do not vary within a layer; `depth` 1 is the shallowest."""

    trained_on: str
    source: str
    seed: int
    layer: str
    depth: int


@dataclass(frozen=True, eq=False)
class BalancedDesign:
    """One image per person, expression and session.

    Attributes
    ----------
    rows : int64 array of shape (people, expressions, sessions)
        Row of each image in the labels.
    people, expressions, sessions : tuple of str
        Names along the axes of `rows`.
    left_out : tuple of str
        People who lack an image, and are not in `people`.
    """

    rows: npt.NDArray[np.int64]
    people: tuple[str, ...]
    expressions: tuple[str, ...]
    sessions: tuple[str, ...]
    left_out: tuple[str, ...]


def find_balanced_design(labels: pd.DataFrame) -> BalancedDesign:
    """Find the people with an image of every expression in every session.

    People who lack an image are left out entirely [O]: in an unbalanced design the factors would share variance, and
    sums of squares would depend on their order. Where no image has a session, the images of one person and expression
    are repetitions, numbered from 1: as many as everybody has who has two of every expression; others are left out.

    Parameters
    ----------
    labels : DataFrame
        A LABELS table (`study.tables.LABELS`), one row per image.

    Returns
    -------
    BalancedDesign
        Names and rows of the images.

    Raises
    ------
    StudyError
        For empty labels, two images of one person, expression and session, and if fewer than 2 people, expressions,
        sessions or repetitions remain.

    Examples
    --------
    >>> names = [(person, expression, session) for person in "ab" for expression in "xy" for session in "AB"]
    >>> labels = pd.DataFrame([*names, ("c", "x", "A")], columns=FACTORS)
    >>> design = find_balanced_design(labels)
    >>> design.rows.tolist(), design.left_out
    ([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], ('c',))
    """
    if len(labels) and (labels["session"] == "").all():
        labels = _number_repetitions(labels)
    rows_of_labels = np.flatnonzero(labels["session"] != LEFT_OUT)
    labels = labels.iloc[rows_of_labels]
    for factor in FACTORS:
        if missing := int((labels[factor].isna() | (labels[factor] == "")).sum()):
            raise StudyError(f"{missing} of {len(labels)} images have no {factor}; analysis of variance needs it.")
    if labels.duplicated(FACTORS).any():
        first = labels[labels.duplicated(FACTORS)][FACTORS].iloc[0].astype(str)
        raise StudyError(
            f"two images of one person, expression and session ({', '.join(first)}); one is allowed. "
            "Choose the images of one view."
        )
    people, expressions, sessions = (tuple(sorted(set(labels[factor]))) for factor in FACTORS)
    row_of_image = pd.Series(rows_of_labels, index=pd.MultiIndex.from_frame(labels[FACTORS]))
    images = pd.MultiIndex.from_product([people, expressions, sessions])
    shape = len(people), len(expressions), len(sessions)
    rows = row_of_image.reindex(images, fill_value=-1).to_numpy(dtype=np.int64).reshape(shape)
    is_complete = (rows >= 0).all(axis=(1, 2))
    if min(is_complete.sum(), *rows.shape[1:]) < 2:
        raise StudyError(
            f"{is_complete.sum()} of {len(people)} people have an image of each of {len(expressions)} expressions in "
            f"each of {len(sessions)} sessions; at least 2 people, 2 expressions and 2 sessions are needed."
        )
    complete, left_out = (tuple(np.array(people)[mask].tolist()) for mask in (is_complete, ~is_complete))
    return BalancedDesign(rows[is_complete], complete, expressions, sessions, left_out)


def _number_repetitions(labels: pd.DataFrame) -> pd.DataFrame:
    """`labels` with the number of each repetition in place of its session, and `LEFT_OUT` beyond what all have."""
    cells = labels.groupby(FACTORS[:2]).size().unstack(fill_value=0)
    repeated = cells[(cells >= 2).all(axis=1)]
    if len(repeated) < 2:
        raise StudyError(
            f"no image has a session, and {len(repeated)} of {len(cells)} people have two images or more of each of "
            f"{cells.shape[1]} expressions; the analysis of variance needs at least 2 such people."
        )
    number = labels.groupby(FACTORS[:2]).cumcount()
    is_used = number < int(repeated.to_numpy().min())
    return labels.assign(session=(number + 1).astype(str).where(is_used, LEFT_OUT))


@dataclass(frozen=True, eq=False)
class VarianceParts:
    """Sums of `squares` (units,) of identity, expression, interaction and residual, and their degrees of `freedom`."""

    squares: dict[str, Floats]
    freedom: dict[str, int]

    @property
    def total(self) -> Floats:
        """Sum of squares about the mean."""
        return np.sum(list(self.squares.values()), axis=0)

    def mean_square(self, part: str) -> Floats:
        """Sum of squares per degree of freedom."""
        return self.squares[part] / self.freedom[part]


def partition_variance(responses: np.ndarray) -> VarianceParts:
    """Balanced two-way analysis of variance of `responses` (people, expressions, sessions, units), unit by unit."""
    responses = np.asarray(responses, dtype=np.float64)
    n, m, k, _ = responses.shape
    cells = responses.mean(axis=2)
    grand = cells.mean(axis=(0, 1))
    by_person, by_expression = cells.mean(axis=1), cells.mean(axis=0)
    interaction = cells - by_person[:, None] - by_expression + grand
    return VarianceParts(
        {
            "identity": m * k * ((by_person - grand) ** 2).sum(axis=0),
            "expression": n * k * ((by_expression - grand) ** 2).sum(axis=0),
            "interaction": k * (interaction**2).sum(axis=(0, 1)),
            "residual": ((responses - cells[:, :, None]) ** 2).sum(axis=(0, 1, 2)),
        },
        {"identity": n - 1, "expression": m - 1, "interaction": (n - 1) * (m - 1), "residual": n * m * (k - 1)},
    )


def compute_permutation_p(cells: np.ndarray, *, permutations: int, generator: np.random.Generator) -> Floats:
    """p (units,) of the effect of levels in `cells` (blocks, levels, units); levels are permuted within each block.

    The share of permutations, the identity among them, with a sum of squares of the levels at least as large as the
    observed one. All units share the permutations.
    """
    centred = cells - cells.mean(axis=1, keepdims=True)
    blocks, levels, units = centred.shape
    # an equal sum, added up in another order, must count as reached
    observed = (centred.sum(axis=0) ** 2).sum(axis=0) - 1e-12 * blocks * (centred**2).sum(axis=(0, 1))
    reached = np.zeros(units)
    at_once = max(1, AT_ONCE // (levels * units))
    for start in range(0, permutations, at_once):
        count = min(at_once, permutations - start)
        order = generator.permuted(np.broadcast_to(np.arange(levels), (count, blocks, levels)), axis=2)
        sums = np.zeros((count, levels, units))
        for block in range(blocks):
            sums += centred[block][order[:, block]]
        reached += ((sums**2).sum(axis=1) >= observed).sum(axis=0)
    return (1 + reached) / (1 + permutations)


def measure_unit_effects(
    responses: np.ndarray,
    design: BalancedDesign,
    layer: LayerKey,
    *,
    rate: float,
    permutations: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Measure how much of the variance of each unit of a layer is due to identity and to expression.

    Parameters
    ----------
    responses : array of shape (n, n_units)
        One response per image and unit; its rows are those of the labels of `design`.
    design : BalancedDesign
        The images to use; see `find_balanced_design`.
    layer : LayerKey
        Columns of the table that do not vary within a layer.
    rate : float
        False discovery rate of the later classification, in (0, 1).
    permutations : int
        Number of permutations of the labels, or ceil(n_units / rate) if that is more: a unit that is the only one with
        an effect in its layer is significant only if its p is at most rate / n_units.
    generator : numpy.random.Generator
        Source of the permutations.

    Returns
    -------
    DataFrame
        The UNITS rows of the layer, one per unit and factor. `epsilon` is (SS - df * MS of the interaction) / total
        (Kelley's epsilon squared, with the interaction as error): its mean over permutations is 0, whereas that of
        `eta` is larger for a factor with more levels. It can be negative. Silent units, whose responses are equal for
        all images, have NaN and a `reason`, and do not count in `p_fdr`.

    References
    ----------
    Anderson & ter Braak (2003). Permutation tests for multi-factorial analysis of variance. J. Stat. Comput. Simul.
    73:85-113.

    Examples
    --------
    >>> names = [(person, expression, session) for person in "abc" for expression in "xy" for session in "AB"]
    >>> labels = pd.DataFrame(names, columns=FACTORS)
    >>> responses = (labels[["identity"]] == "a").to_numpy(float)  # one unit, specific to person a
    >>> layer = LayerKey("joint", "toy faces", 1, "relu1", 1)
    >>> options = {"rate": 0.05, "permutations": 100, "generator": np.random.default_rng(1)}
    >>> effects = measure_unit_effects(responses, find_balanced_design(labels), layer, **options)
    >>> effects[["unit", "factor", "eta"]].round(6).to_numpy().tolist()
    [[0, 'expression', 0.0], [0, 'identity', 1.0]]
    """
    balanced = np.asarray(responses, dtype=np.float64)[design.rows]
    variance, cells, units = partition_variance(balanced), balanced.mean(axis=2), balanced.shape[-1]
    largest = np.abs(balanced).max(axis=(0, 1, 2))
    silent = np.sqrt(variance.total / balanced[..., 0].size) <= SPREAD * largest
    permutations = max(permutations, math.ceil(units / rate))
    rows = []
    for factor, blocks, stream in zip(TASKS, (cells, cells.swapaxes(0, 1)), generator.spawn(2), strict=True):
        numbers = _measure_effect(variance, factor)
        numbers["p"] = compute_permutation_p(blocks, permutations=permutations, generator=stream)
        numbers = {name: np.where(silent, np.nan, values) for name, values in numbers.items()}
        numbers["p_fdr"] = np.full(units, np.nan)
        numbers["p_fdr"][~silent] = stats.false_discovery_control(numbers["p"][~silent])
        rows.append(pd.DataFrame({"unit": np.arange(units), "factor": factor.value, **numbers}))
    table = pd.concat(rows, ignore_index=True).assign(people=len(design.people), **asdict(layer))
    return UNITS.check(table.assign(reason=np.where(np.tile(silent, len(rows)), SILENT, "")))


def _measure_effect(variance: VarianceParts, factor: Task) -> dict[str, Floats]:
    squares, freedom = variance.squares[factor], variance.freedom[factor]
    with np.errstate(divide="ignore", invalid="ignore"):
        f = variance.mean_square(factor) / variance.mean_square("residual")
        return {
            "eta": squares / variance.total,
            "partial_eta": squares / (squares + variance.squares["residual"]),
            "epsilon": (squares - freedom * variance.mean_square("interaction")) / variance.total,
            "f": f,
            "p_parametric": stats.f.sf(f, freedom, variance.freedom["residual"]),
        }


def classify_units(effects: pd.DataFrame, *, rate: float, selectivity: float) -> pd.DataFrame:
    """Classify units by the factors with significant effects, and find those specific to one task.

    With many images nearly every unit is significant for both factors, so that a class says little about
    specialisation. A unit is `specific` to a task if its effect is significant, and its selectivity (a - b) / (a + b)
    reaches the threshold, where a and b are its `epsilon` for that task and for the other, negative ones taken as 0.

    Parameters
    ----------
    effects : DataFrame
        A UNITS table, of `measure_unit_effects`.
    rate : float
        False discovery rate: an effect is significant if its `p_fdr` is at most `rate`.
    selectivity : float
        Threshold in [0, 1]; 0.5 means three times as much variance [O].

    Returns
    -------
    DataFrame
        The UNIT_CLASSES table, one row per unit. Silent units have no class.

    Examples
    --------
    >>> labels = pd.DataFrame([(i, e, s) for i in "abc" for e in "xy" for s in "AB"], columns=FACTORS)
    >>> responses = pd.get_dummies(labels["identity"])[["a"]].to_numpy(float)
    >>> layer = LayerKey("joint", "toy faces", 1, "relu1", 1)
    >>> options = {"rate": 0.5, "permutations": 100, "generator": np.random.default_rng(1)}
    >>> effects = measure_unit_effects(responses, find_balanced_design(labels), layer, **options)
    >>> classify_units(effects, rate=0.5, selectivity=0.5)[["unit", "class", "specific"]].to_numpy().tolist()
    [[0, 'identity', 'identity']]
    """
    key = [field.name for field in fields(LayerKey)]
    wide = UNITS.check(effects).pivot(index=[*key, "unit"], columns="factor", values=["p_fdr", "epsilon", "reason"])
    significant = [(wide["p_fdr", task].astype(float) <= rate).to_numpy() for task in TASKS]
    expression, identity = (wide["epsilon", task].astype(float).clip(lower=0).to_numpy() for task in TASKS)
    reason = wide["reason", Task.EXPRESSION].to_numpy(dtype=str)
    with np.errstate(invalid="ignore"):
        index = (expression - identity) / (expression + identity)
    first, second = significant
    classes = np.select([first & ~second, second & ~first, first], CLASSES[:3], CLASSES[3])
    specific = np.select([first & (index >= selectivity), second & (-index >= selectivity)], list(TASKS), "")
    table = wide.index.to_frame(index=False).assign(
        selectivity=index, specific=specific, reason=reason, **{"class": np.where(reason == "", classes, "")}
    )
    return UNIT_CLASSES.check(table)


def count_unit_classes(classes: pd.DataFrame) -> pd.DataFrame:
    """The UNIT_SHARES table of a UNIT_CLASSES table; shares are NaN if a layer has silent units only."""
    key = [field.name for field in fields(LayerKey)]
    rows = []
    for layer, layer_units in UNIT_CLASSES.check(classes).groupby(key, sort=False):
        units = int((layer_units["class"] != "").sum())
        common = dict(zip(key, layer, strict=True)) | {"units": units, "silent": len(layer_units) - units}
        for kind, names in (("class", CLASSES), ("specific", TASKS)):
            for name in names:
                count = int((layer_units[kind] == name).sum())
                share = count / units if units else np.nan
                rows.append(common | {"kind": kind, "name": str(name), "count": count, "share": share})
    return UNIT_SHARES.check(pd.DataFrame(rows))
