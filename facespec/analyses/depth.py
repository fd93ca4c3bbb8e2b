"""At which depth do units answer to who a face is, and to what it expresses? Analysis of variance, unit by unit.

A unit's response to an image is one number, its mean over the map (`responses.pooling`). Over people x expressions,
with the sessions as replicates, its variance is split into identity, expression, their interaction, and the residual.
All units of a layer are computed at once.

Which labels may be permuted? The images of a cell (one person with one expression) share what is peculiar to it, the
interaction, and so cannot be exchanged for any other image under the null hypothesis. Whole cells can [O]: for
expression within each person, for identity within each expression, each person or expression on its own (Anderson &
ter Braak 2003, J. Stat. Comput. Simul. 73:85-113). That leaves the other factor's and the residual sum of squares as
they are, and the sum of the factor's own and the interaction's; so all statistics of the factor (eta squared, F) rank
the permutations alike. Asked is whether an effect is there *across* people (or expressions). The parametric F test,
given beside it, measures against the residual, and so calls peculiarities of cells effects of both factors.

Every unit has a null distribution of its own; none is pooled over units, because sparse units have heavier tails. To
make up for it there are so many permutations that a unit which stands alone in its layer can still be called.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from facespec.study.errors import StudyError
from facespec.study.tables import CLASSES, UNIT_CLASSES, UNIT_SHARES, UNITS
from facespec.study.vocabulary import TASKS, Task

Floats = npt.NDArray[np.float64]

FACTORS = ["identity", "expression", "session"]
SPREAD = 1e-6  # of the largest response: a standard deviation below it is float32's rounding, not an answer
AT_ONCE = 1 << 20  # permuted sums held at a time: 8 MiB
SILENT = "the unit answers all images alike"
PLACE = ["trained_on", "source", "seed", "layer", "depth"]  # the columns that do not vary within a layer


@dataclass(frozen=True)
class LayerKey:
    """Whose units they are: the columns that do not vary within a layer; `depth` 1 is the shallowest."""

    trained_on: str
    source: str
    seed: int
    layer: str
    depth: int


@dataclass(frozen=True, eq=False)
class BalancedDesign:
    """Which image shows whom, how, and when: `rows` int64 (people, expressions, sessions) into the labels.

    `left_out` names the people who lack an image.
    """

    rows: npt.NDArray[np.int64]
    people: tuple[str, ...]
    expressions: tuple[str, ...]
    sessions: tuple[str, ...]
    left_out: tuple[str, ...]


def find_balanced_design(labels: pd.DataFrame) -> BalancedDesign:
    """The balanced design in `labels` (`study.tables.LABELS`), row i of which belongs to response i.

    A person without an image of every expression in every session is left out whole [O]: with holes, the factors would
    share variance and sums of squares would depend on their order. Raises `StudyError` for empty labels, two images of
    one cell and session, and where fewer than two people, expressions or sessions remain.
    """
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
    each = pd.Series(np.arange(len(labels)), index=pd.MultiIndex.from_frame(labels[FACTORS]))
    every = pd.MultiIndex.from_product([people, expressions, sessions])
    found = each.reindex(every, fill_value=-1).to_numpy(dtype=np.int64)
    rows = found.reshape(len(people), len(expressions), len(sessions))
    whole = (rows >= 0).all(axis=(1, 2))
    if min(whole.sum(), *rows.shape[1:]) < 2:
        raise StudyError(
            f"{whole.sum()} of {len(people)} people have an image of each of {len(expressions)} expressions in each of "
            f"{len(sessions)} sessions; at least 2 people, 2 expressions and 2 sessions are needed."
        )
    kept, left_out = (tuple(np.array(people)[chosen].tolist()) for chosen in (whole, ~whole))
    return BalancedDesign(rows[whole], kept, expressions, sessions, left_out)


@dataclass(frozen=True, eq=False)
class VarianceParts:
    """Sums of `squares` (units,) of identity, expression, interaction and residual, and their degrees of `freedom`."""

    squares: dict[str, Floats]
    freedom: dict[str, int]

    @property
    def total(self) -> Floats:
        """Sum of squares about the mean."""
        return np.sum(list(self.squares.values()), axis=0)

    def mean_square(self, of: str) -> Floats:
        """Sum of squares per degree of freedom."""
        return self.squares[of] / self.freedom[of]


def partition_variance(responses: np.ndarray) -> VarianceParts:
    """Balanced two-way analysis of variance of `responses` (people, expressions, sessions, units), unit by unit."""
    responses = np.asarray(responses, dtype=np.float64)
    n, m, k, _ = responses.shape
    cells = responses.mean(axis=2)
    grand = cells.mean(axis=(0, 1))
    by_person, by_expression = cells.mean(axis=1), cells.mean(axis=0)
    peculiar = cells - by_person[:, None] - by_expression + grand
    return VarianceParts(
        {
            "identity": m * k * ((by_person - grand) ** 2).sum(axis=0),
            "expression": n * k * ((by_expression - grand) ** 2).sum(axis=0),
            "interaction": k * (peculiar**2).sum(axis=(0, 1)),
            "residual": ((responses - cells[:, :, None]) ** 2).sum(axis=(0, 1, 2)),
        },
        {"identity": n - 1, "expression": m - 1, "interaction": (n - 1) * (m - 1), "residual": n * m * (k - 1)},
    )


def compute_permutation_p(cells: np.ndarray, *, permutations: int, generator: np.random.Generator) -> Floats:
    """P (units,) of the levels' effect in `cells` (blocks, levels, units), whose levels are permuted within each block.

    The share of permutations, the identity among them, that give the levels at least as large a sum of squares. All
    units share the permutations.
    """
    centred = cells - cells.mean(axis=1, keepdims=True)
    blocks, levels, units = centred.shape
    # the same sum, added up in another order, must count as reached
    own = (centred.sum(axis=0) ** 2).sum(axis=0) - 1e-12 * blocks * (centred**2).sum(axis=(0, 1))
    reached = np.zeros(units)
    at_once = max(1, AT_ONCE // (levels * units))
    for start in range(0, permutations, at_once):
        drawn = min(at_once, permutations - start)
        order = generator.permuted(np.broadcast_to(np.arange(levels), (drawn, blocks, levels)), axis=2)
        sums = np.zeros((drawn, levels, units))
        for block in range(blocks):
            sums += centred[block][order[:, block]]
        reached += ((sums**2).sum(axis=1) >= own).sum(axis=0)
    return (1 + reached) / (1 + permutations)


def measure_unit_effects(
    responses: np.ndarray,
    design: BalancedDesign,
    place: LayerKey,
    *,
    rate: float,
    permutations: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """The UNITS rows of one layer: how much identity and expression move each of its units.

    `responses` is (n, units), `rate` the false discovery rate at which units will be called: labels are permuted
    `permutations` times, and ceil(units / rate) times if that is more, because a unit that stands alone in its layer
    is called only if its p is at most rate / units. `epsilon` is (SS - df * MS of the interaction) / total (Kelley's
    epsilon squared, the interaction as error): its mean over permutations is 0, whereas that of `eta` is larger for a
    factor with more levels. It can be negative. Silent units have NaN and a `reason`, and count nowhere.
    """
    chosen = np.asarray(responses, dtype=np.float64)[design.rows]
    found, cells, units = partition_variance(chosen), chosen.mean(axis=2), chosen.shape[-1]
    size = np.abs(chosen).max(axis=(0, 1, 2))
    silent = np.sqrt(found.total / chosen[..., 0].size) <= SPREAD * size
    times = max(permutations, math.ceil(units / rate))
    rows = []
    for factor, blocked, stream in zip(TASKS, (cells, cells.swapaxes(0, 1)), generator.spawn(2), strict=True):
        numbers = _effect(found, factor)
        numbers["p"] = compute_permutation_p(blocked, permutations=times, generator=stream)
        numbers = {name: np.where(silent, np.nan, values) for name, values in numbers.items()}
        numbers["p_fdr"] = np.full(units, np.nan)
        numbers["p_fdr"][~silent] = stats.false_discovery_control(numbers["p"][~silent])
        rows.append(pd.DataFrame({"unit": np.arange(units), "factor": factor.value, **numbers}))
    table = pd.concat(rows, ignore_index=True).assign(people=len(design.people), **asdict(place))
    return UNITS.check(table.assign(reason=np.where(np.tile(silent, len(rows)), SILENT, "")))


def _effect(found: VarianceParts, factor: Task) -> dict[str, Floats]:
    own, freedom = found.squares[factor], found.freedom[factor]
    with np.errstate(divide="ignore", invalid="ignore"):
        f = found.mean_square(factor) / found.mean_square("residual")
        return {
            "eta": own / found.total,
            "partial_eta": own / (own + found.squares["residual"]),
            "epsilon": (own - freedom * found.mean_square("interaction")) / found.total,
            "f": f,
            "p_parametric": stats.f.sf(f, freedom, found.freedom["residual"]),
        }


def classify_units(effects: pd.DataFrame, *, rate: float, selectivity: float) -> pd.DataFrame:
    """The UNIT_CLASSES table of a UNITS table.

    Classes are by `p_fdr` of at most `rate`. With many images nearly every unit is significant for both factors, so
    that a class says little about specialisation. A unit is `specific` to a task if its effect is significant, and
    (a - b) / (a + b) of its `epsilon` for that task and for the other reaches `selectivity`, negative ones taken as 0;
    0.5 means three times as much variance [O].
    """
    key = [*PLACE, "unit"]
    wide = UNITS.check(effects).pivot(index=key, columns="factor", values=["p_fdr", "epsilon", "reason"])
    called = {task: (wide["p_fdr", task].astype(float) <= rate).to_numpy() for task in TASKS}
    expression, identity = (wide["epsilon", task].astype(float).clip(lower=0).to_numpy() for task in TASKS)
    reason = wide["reason", Task.EXPRESSION].to_numpy(dtype=str)
    with np.errstate(invalid="ignore"):
        index = (expression - identity) / (expression + identity)
    of = (called[Task.EXPRESSION], called[Task.IDENTITY])
    classes = np.select([of[0] & ~of[1], of[1] & ~of[0], of[0]], CLASSES[:3], CLASSES[3])
    specific = np.select([of[0] & (index >= selectivity), of[1] & (-index >= selectivity)], list(TASKS), "")
    table = wide.index.to_frame(index=False).assign(
        selectivity=index, specific=specific, reason=reason, **{"class": np.where(reason == "", classes, "")}
    )
    return UNIT_CLASSES.check(table)


def count_unit_classes(classes: pd.DataFrame) -> pd.DataFrame:
    """The UNIT_SHARES table of a UNIT_CLASSES table; NaN where a layer has silent units only."""
    rows = []
    for place, own in UNIT_CLASSES.check(classes).groupby(PLACE, sort=False):
        units = int((own["class"] != "").sum())
        for kind, names in (("class", CLASSES), ("specific", TASKS)):
            for name in names:
                count = int((own[kind] == name).sum())
                rows.append(
                    dict(zip(PLACE, place, strict=True))
                    | {"kind": kind, "name": str(name), "units": units, "silent": len(own) - units, "count": count}
                    | {"share": count / units if units else np.nan}
                )
    return UNIT_SHARES.check(pd.DataFrame(rows))
