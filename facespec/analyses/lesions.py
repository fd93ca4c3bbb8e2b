"""Which units does a task need, and what can the network do without them? Rankings and lesions of a layer's units.

A lesion sets units to zero. A ranking starts with the unit whose lesion raises the loss most. It is greedy, as in the
lineage [L]: in every round the increase of the mean cross-entropy is computed for each remaining unit, in addition to
the units already lesioned, on the same random training images for all; the units with the largest increases are
lesioned, too, until a given share of all units is. One more round ranks the rest. With `greedy_p` 0 this is the only
round: the one-pass ranking.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.nn import functional

from facespec.responses.hooked import Lesioned
from facespec.responses.lesioned import LesionBatch, Logits
from facespec.study.errors import StudyError

UNKNOWN = -1  # the class of an image that has no label for a task
HALVINGS = 3  # of the units in a screening round [O]
SURVIVORS = 4  # units that a halving retains at least, for each unit to be chosen [O]
ORDER_KEYS = ["condition", "draw", "ranked_by"]  # columns that name an order of units
Loss = Callable[[Logits], torch.Tensor]
Objective = Mapping[str, npt.NDArray[np.float64]]  # task -> weight of every image's cross-entropy, (n,)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes in two tasks.

    Parameters
    ----------
    images : callable
        Maps positions, int64 array of shape (k,), to the network's input for these images, float tensor of shape
        (k, channels, height, width). With several workers it is called from threads.
    classes : mapping from str to integer array of shape (n,)
        For each of two tasks, the class of every image: the index of its logit, or -1 where it is not known.

    Raises
    ------
    StudyError
        For other `classes`.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> pixels = torch.zeros(4, 1, 12, 8)
    >>> classes = {"shape": np.array([0, 1, 2, 0]), "colour": np.array([1, 0, -1, 1])}
    >>> test = LabelledImages(lambda positions: pixels[positions], classes)
    >>> len(test), test.tasks
    (4, ('shape', 'colour'))
    """

    images: Callable[[np.ndarray], torch.Tensor]
    classes: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        kinds, valid = {}, []
        for task, labels in self.classes.items():
            is_array = isinstance(labels, np.ndarray)
            kinds[task] = f"{labels.dtype} of shape {labels.shape}" if is_array else type(labels).__name__
            valid.append(is_array and (labels.dtype.kind, labels.ndim) == ("i", 1))
        if valid != [True, True] or not len(self):
            raise StudyError(
                f"classes are {kinds}: needed are two tasks, each a numpy array of integers, one per image, of the "
                "same images."
            )
        for task, labels in self.classes.items():
            if (least := labels.min()) < UNKNOWN:  # such as -100, which torch ignores
                raise StudyError(
                    f"task {task!r} has the class {least}: a class is the index of its logit, from 0; write {UNKNOWN} "
                    "where it is not known."
                )

    def __len__(self) -> int:
        first, second = map(len, self.classes.values())
        return first if first == second else 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the two tasks."""
        return tuple(self.classes)


@dataclass(frozen=True)
class Search:
    """How units are ranked.

    Parameters
    ----------
    group_p : float
        Share of the units that are lesioned per greedy round, in (0, 1]; at least one unit is.
    greedy_p : float
        Share of the units that are ranked in greedy rounds, in [0, 1]; with 0 all are ranked in one pass.
    images : int
        Images drawn for every round.
    screening : bool
        Choose by successive halving [1]_: all units are compared on an eighth of the images, the better half of them on
        another eighth, the better half of those on a quarter, and the rest on all. Not in the last round, nor where
        logits have a closed form.
    batch_size : int
        Images at once; it influences the last bits of the increases alone.

    References
    ----------
    .. [1] Jamieson & Talwalkar (2016). Non-stochastic best arm identification and hyperparameter optimization. AISTATS.
    """

    group_p: float
    greedy_p: float
    images: int
    screening: bool = False
    batch_size: int = 64

    def plan_rounds(self, units: int) -> list[int]:
        """How many of `units` are chosen in each round; together all of them."""
        size, greedy = max(1, round(self.group_p * units)), count_units(self.greedy_p, units)
        rounds = [min(size, greedy - start) for start in range(0, greedy, size)]
        return [*rounds, units - greedy] if greedy < units else rounds

    def count_greedy(self, units: int) -> list[int]:
        """How many of `units` are lesioned after each greedy round; none in the one-pass ranking."""
        greedy = count_units(self.greedy_p, units)
        return [int(number) for number in np.cumsum(self.plan_rounds(units)) if number <= greedy]


def count_units(fraction: float, units: int) -> int:
    """The number of units that is `fraction` of `units`; halves are rounded up."""
    return math.floor(fraction * units + 0.5 + 1e-9)


def make_objective(labelled: LabelledImages, task: str) -> Objective:
    """The loss of one task: the mean over all images whose class is known."""
    return {task: (labelled.classes[task] != UNKNOWN).astype(np.float64)}


def shuffle_objectives(labelled: LabelledImages, generator: np.random.Generator) -> tuple[Objective, Objective]:
    """Two mixtures of both tasks, as a null: each class of either task belongs to one of them, at random.

    Each mixture gets half of each task's classes (of an odd number, one more goes to either). The two then differ by
    chance alone, so that, in any network, units ranked for one mixture dissociate the tasks no more than units ranked
    for the other. Permuted labels would be no such null: with wrong labels the loss of a confident network *falls* when
    units that it needs are lesioned, so that the other task's units are ranked first.
    """
    halves: list[dict[str, npt.NDArray[np.float64]]] = [{}, {}]
    for task, classes in labelled.classes.items():
        known = np.unique(classes[classes != UNKNOWN])
        members = np.array_split(generator.permutation(known), 2)
        order = generator.permutation(2)
        for half, part in zip(order, members, strict=True):
            halves[half][task] = np.isin(classes, part).astype(np.float64)
    return halves[0], halves[1]


def rank_units(
    lesioned: Lesioned,
    labelled: LabelledImages,
    objective: Objective,
    *,
    search: Search,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Rank all units of a layer by how much their lesion raises the loss.

    The loss is the mean over the tasks of `objective` of their weighted mean cross-entropy. Memory: one batch of images
    and a chunk of its lesions.

    Parameters
    ----------
    lesioned : LesionedNetwork or HookedNetwork
        The network and the layer.
    labelled : LabelledImages
        Training images.
    objective : mapping from str to float array of shape (n,)
        Task -> weight of every image; images of weight 0 are not drawn. See `make_objective`.
    search : Search
        Rounds, and images per round.
    generator : numpy.random.Generator
        Draws the images; equal generators draw equal images.

    Returns
    -------
    pandas.DataFrame
        A row per unit, in order of `rank` (0 first): `rank`, `unit`, `round` and `increase` of the loss in nats. Of
        units with equal increases, the one with the lower number comes first.

    Raises
    ------
    StudyError
        If no image has weight.

    References
    ----------
    Dobs et al. (2022). Brain-like functional specialization emerges spontaneously in deep neural networks. Science
    Advances 8, eabl8913.

    Examples
    --------
    A network whose two heads sum its units, which are the pixels of the image:

    >>> import numpy as np
    >>> import torch
    >>> from torch import nn
    >>> class Sums(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.units = nn.ReLU()
    ...         self.shape, self.colour = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    ...         with torch.no_grad():
    ...             self.shape.weight.copy_(torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    ...             self.colour.weight.copy_(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]))
    ...     def forward(self, images):
    ...         responses = self.units(images)
    ...         return {"shape": self.shape(responses), "colour": self.colour(responses)}
    >>> zeros = np.zeros(5, dtype=int)
    >>> train = LabelledImages(lambda positions: torch.ones(len(positions), 3), {"shape": zeros, "colour": zeros})
    >>> ranking = rank_units(
    ...     LesionedNetwork(Sums(), "units"),
    ...     train,
    ...     make_objective(train, "shape"),
    ...     search=Search(group_p=0.3, greedy_p=0.0, images=4),
    ...     generator=np.random.default_rng(1),
    ... )
    >>> ranking["unit"].tolist(), ranking["increase"].round(3).tolist()
    ([0, 2, 1], [0.265, 0.078, 0.0])
    """
    eligible = np.flatnonzero(np.sum(list(objective.values()), axis=0) > 0)
    if not len(eligible):
        raise StudyError("no image has a class of the tasks to rank units by.")
    units = lesioned.prepare_batch(labelled.images(eligible[:1])).units
    mask, rounds, sizes = np.zeros(units, dtype=bool), [], search.plan_rounds(units)
    for number, size in enumerate(sizes):
        positions = generator.permutation(eligible)[: search.images]
        weights = {task: values[positions] for task, values in objective.items()}
        comparison = _Round(lesioned, labelled, weights, positions, search.batch_size)
        halvings = HALVINGS if search.screening and number < len(sizes) - 1 and not lesioned.has_closed_form else 0
        best, increase = comparison.choose_units(np.flatnonzero(~mask), size, mask=mask, halvings=halvings)
        rounds.append(pd.DataFrame({"unit": best, "round": number, "increase": increase}))
        mask[best] = True
    table = pd.concat(rounds, ignore_index=True)
    table.insert(0, "rank", np.arange(units))
    return table


@dataclass(frozen=True, eq=False)
class _Round:
    """The loss on the images of one round: their `positions`, and the `weights` (n,) of each task."""

    lesioned: Lesioned
    labelled: LabelledImages
    weights: Objective
    positions: np.ndarray
    batch_size: int

    def choose_units(
        self, units: np.ndarray, size: int, *, mask: np.ndarray, halvings: int
    ) -> tuple[np.ndarray, npt.NDArray[np.float64]]:
        """The `size` of `units` whose lesion, in addition to `mask`, raises the loss most; and the increases."""
        ends = np.unique([0, *(len(self.positions) >> np.arange(halvings, -1, -1))])  # few images: fewer parts
        total = np.zeros(len(units))
        for start, end in itertools.pairwise(ends):
            total += self._measure_increases(slice(start, end), mask, units)
            survivors = size if end == ends[-1] else max(SURVIVORS * size, math.ceil(len(units) / 2))
            best = np.lexsort((units, -total))[:survivors]
            units, total = units[best], total[best]
        return units, total

    def _measure_increases(self, rows: slice, mask: np.ndarray, units: np.ndarray) -> npt.NDArray[np.float64]:
        """By how much the share of some images in the loss grows with each of `units` (k,) lesioned besides `mask`."""
        total = np.zeros(len(units))
        before_mask, single = torch.from_numpy(mask), torch.from_numpy(units)
        for batch, loss in self._iterate_batches(rows):
            ((_, before),) = self.lesioned.compute_logits(batch, before_mask[None])
            for part, logits in self.lesioned.compute_single_lesions(batch, before_mask, single):
                total[part] += (loss(logits) - loss(before)).cpu().numpy()
        return total

    def _iterate_batches(self, rows: slice) -> Iterator[tuple[LesionBatch, Loss]]:
        """Batches of the images in `rows`, each with its share of the loss."""
        shares = {
            task: values / values.sum() / len(self.weights) for task, values in self.weights.items() if values.any()
        }
        for start in range(rows.start, rows.stop, self.batch_size):
            part = slice(start, min(start + self.batch_size, rows.stop))
            positions = self.positions[part]
            batch = self.lesioned.prepare_batch(self.labelled.images(positions))
            device = batch.responses.device
            terms = {
                task: (
                    torch.from_numpy(self.labelled.classes[task][positions]).long().to(device),
                    torch.from_numpy(share[part]).to(device),
                )
                for task, share in shares.items()
            }
            yield batch, partial(_sum_losses, terms)


def _sum_losses(terms: Mapping[str, tuple[torch.Tensor, torch.Tensor]], logits: Logits) -> torch.Tensor:
    """The loss (k,), in float64, of logits, task -> (k, n, classes), by the classes and weights (n,) of each task."""
    losses = []
    for task, (classes, weights) in terms.items():
        lesions, labels = len(logits[task]), classes.clamp(min=0)
        values = logits[task].flatten(0, 1)
        values = values.float() if values.dtype.itemsize < 4 else values  # half precision cannot tell units apart
        each = functional.cross_entropy(values, labels.repeat(lesions), reduction="none")
        losses.append(each.unflatten(0, (lesions, -1)).double() @ weights)
    return torch.stack(losses).sum(dim=0)


def make_lesions(
    order: Sequence[int] | np.ndarray, fractions: Sequence[float], *, keep_only: bool = False
) -> npt.NDArray[np.bool_]:
    """Lesions of the first units in an order, or of all other units.

    Parameters
    ----------
    order : sequence of int, of length n_units
        All units of a layer, the first to be lesioned first.
    fractions : sequence of float, of length n_lesions
        Shares of the units, in [0, 1]; see `count_units`.
    keep_only : bool
        Lesion all units but the first ones.

    Returns
    -------
    bool array of shape (n_lesions, n_units)
        True where a unit is lesioned.

    Examples
    --------
    >>> make_lesions([2, 0, 3, 1], [0.25, 0.5]).astype(int)
    array([[0, 0, 1, 0],
           [1, 0, 1, 0]])
    >>> make_lesions([2, 0, 3, 1], [0.25], keep_only=True).astype(int)
    array([[1, 1, 0, 1]])
    """
    mask = _lesion_first(order, [count_units(fraction, len(order)) for fraction in fractions])
    return ~mask if keep_only else mask


def _lesion_first(order: Sequence[int] | np.ndarray, numbers: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Lesions of each of `numbers` of units, the first in an order: (numbers, units)."""
    units = np.asarray(order)
    mask = np.zeros((len(numbers), len(units)), dtype=bool)
    for row, number in enumerate(numbers):
        mask[row, units[:number]] = True
    return mask


def design_lesions(orders: pd.DataFrame, fractions: Sequence[float]) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
    """Lesions by orders of units: a table with a row per lesion, and their masks, bool (lesions, units).

    `orders` has the columns `condition`, `draw` and `ranked_by`, which name an order, and `unit`, in that order. The
    table has the same keys, and `fraction`, `units` and `silenced`. Its first row is the whole network; then come
    lesions of the first units of every order, and, unless classes were shuffled, of all but these (`condition` "keep").
    """
    choices = [
        (dict(zip(ORDER_KEYS, key, strict=True)), rows["unit"].to_numpy())
        for key, rows in orders.groupby(ORDER_KEYS, sort=False)
    ]
    first, units = choices[0]
    table, masks = [first | {"fraction": 0.0}], [np.zeros((1, len(units)), dtype=bool)]
    for changes in [{}] if first["condition"] == "shuffled" else [{}, {"condition": "keep"}]:
        for key, order in choices:
            table += [key | changes | {"fraction": fraction} for fraction in fractions]
            masks.append(make_lesions(order, fractions, keep_only=bool(changes)))
    lesions = np.concatenate(masks)
    return pd.DataFrame(table).assign(units=len(units), silenced=lesions.sum(axis=1)), lesions


def design_curves(
    orders: pd.DataFrame, numbers: Mapping[Any, Sequence[int]]
) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
    """Points of damage curves: a table with a row per lesion, and their masks, bool (lesions, units).

    `orders` as in `design_lesions`; `numbers`: (condition, draw, ranked_by) of an order -> how many of its first units
    are lesioned. The table has these keys, `units` and `silenced`; it may have no row.
    """
    rows, units = [], orders["unit"].max() + 1
    masks = [np.zeros((0, units), dtype=bool)]
    for key, order in orders.groupby(ORDER_KEYS, sort=False):
        rows += [(*key, units, number) for number in numbers[key]]
        masks.append(_lesion_first(order["unit"].to_numpy(), numbers[key]))
    return pd.DataFrame(rows, columns=[*ORDER_KEYS, "units", "silenced"]), np.concatenate(masks)


def plan_late_points(drops: pd.DataFrame, steps: Sequence[int], *, enough: float) -> dict[Any, list[int]]:
    """At which further points are damage curves measured? Up to where a task has lost `enough`.

    `drops` has the keys of orders, `silenced` and `drop`, of the task that an order is meant to harm: all points that
    are known. Of `steps`, in numbers of units, an order gets those that it lacks, below its first point whose drop is
    `enough`. An order without drops gets none: nothing can be read off its curve.
    """
    points = {}
    for key, rows in drops.groupby(ORDER_KEYS, sort=False):
        reached = rows.loc[rows["drop"] >= enough, "silenced"]
        end = 0 if rows["drop"].isna().all() else reached.min() if len(reached) else rows["units"].max()
        points[key] = [number for number in steps if number < end and number not in set(rows["silenced"])]
    return points


def mark_correct_under_lesions(
    lesioned: Lesioned, labelled: LabelledImages, masks: np.ndarray, *, batch_size: int = 64
) -> npt.NDArray[np.bool_]:
    """Which images are classified correctly under lesions `masks`, bool (k, units): (2 tasks, k, n).

    Of equal logits the first counts; images of unknown class are not correct. Equal lesions are computed once.
    """
    masks = np.asarray(masks)
    first, copies = _find_copies(masks)
    correct = np.zeros((2, len(first), len(labelled)), dtype=bool)
    lesions = torch.from_numpy(masks[first])
    for start in range(0, len(labelled) if len(first) else 0, batch_size):
        positions = np.arange(start, min(start + batch_size, len(labelled)))
        batch = lesioned.prepare_batch(labelled.images(positions))
        for part, logits in lesioned.compute_logits(batch, lesions):
            for number, (task, classes) in enumerate(labelled.classes.items()):
                predicted = logits[task].argmax(dim=2).cpu().numpy()
                correct[number, part, positions[0] : positions[-1] + 1] = predicted == classes[positions]
    return correct[:, copies]


def _find_copies(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `masks` without later equal ones, in their order; and for each row, the position among them."""
    _, first, inverse = np.unique(masks, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[inverse.reshape(-1)]
