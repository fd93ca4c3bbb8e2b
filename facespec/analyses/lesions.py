"""Which units does a task need, and who else needs them? Units of one layer ranked by what their silence costs.

A ranking goes from the unit whose silence raises the loss most to the one that is missed least. It is greedy, as in the
lineage [L]: in every round the increase of the mean cross-entropy is computed for each unit on top of those already
silent, on the same random training images for all; the best few join them, until a share of the units is silent. One
more round ranks the rest. With `greedy_p` 0 that is the only one: the one-pass ranking.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.nn import functional

from facespec.responses.lesioned import LesionBatch, LesionedNetwork, Logits
from facespec.study.errors import StudyError

UNKNOWN = -1  # the class of an image that says nothing about a task
HALVINGS = 3  # of the units in a screening round [O]
SURVIVORS = 4  # for each unit that is to be chosen, at least so many are left [O]
Loss = Callable[[Logits], torch.Tensor]
Objective = Mapping[str, npt.NDArray[np.float64]]  # task -> weight of every image's cross-entropy, (n,)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and what is to be answered about them.

    `images` makes network input, float (k, channels, h, w), of the images at some positions, int64 (k,); `classes` maps
    each of two tasks to the class of every image, int64 (n,), which is the index of its logit; -1: not known. Raises
    `StudyError` for anything else.
    """

    images: Callable[[np.ndarray], torch.Tensor]
    classes: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        told = {
            task: f"{own.dtype} of shape {own.shape}" if isinstance(own, np.ndarray) else type(own).__name__
            for task, own in self.classes.items()
        }
        fit = [isinstance(own, np.ndarray) and (own.dtype.kind, own.ndim) == ("i", 1) for own in self.classes.values()]
        if fit != [True, True] or not len(self):
            raise StudyError(
                f"classes are {told}: needed are two tasks, each a numpy array of integers, one per image, of the same "
                "images."
            )
        for task, own in self.classes.items():
            if (least := own.min()) < UNKNOWN:  # such as -100, which torch ignores
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

    `group_p`: share of the units that fall silent per round, `greedy_p`: until so many are (0: one-pass). `images`:
    drawn anew for every round. `screening`: by successive halving (Jamieson & Talwalkar 2016, AISTATS) all units are
    compared on an eighth of the images, the better half of them on another eighth, the better half of those on a
    quarter, and the rest on all; not in the last round, nor where a closed form leaves nothing to save. `batch_size`:
    images at once; on another number the last bits depend, and nothing else.
    """

    group_p: float
    greedy_p: float
    images: int
    screening: bool = False
    batch_size: int = 64

    def groups(self, units: int) -> list[int]:
        """How many of `units` are chosen in each round; together all of them."""
        size, greedy = max(1, round(self.group_p * units)), count_units(self.greedy_p, units)
        rounds = [min(size, greedy - start) for start in range(0, greedy, size)]
        return [*rounds, units - greedy] if greedy < units else rounds


def count_units(fraction: float, units: int) -> int:
    """How many of `units` a `fraction` is; halves are rounded up."""
    return math.floor(fraction * units + 0.5 + 1e-9)


def make_objective(trials: LabelledImages, task: str) -> Objective:
    """The loss of one task: the mean over all images whose class is known."""
    return {task: (trials.classes[task] != UNKNOWN).astype(np.float64)}


def shuffle_objectives(trials: LabelledImages, generator: np.random.Generator) -> tuple[Objective, Objective]:
    """Two mixtures of both tasks, as a null: each class, of either task, belongs to one of them, at random.

    Each mixture gets half of each task's classes (of an odd number, one more goes to either), so that the two differ by
    chance alone and units ranked by one part the real tasks no further than units ranked by the other, whatever the
    network. Permuted labels would be no such null: with wrong labels the loss *falls* when units that matter are
    silenced, as far as the network is sure of its answers, so that the other task's units come first.
    """
    halves: list[dict[str, npt.NDArray[np.float64]]] = [{}, {}]
    for task, classes in trials.classes.items():
        known = np.unique(classes[classes != UNKNOWN])
        members = np.array_split(generator.permutation(known), 2)
        order = generator.permutation(2)
        for half, own in zip(order, members, strict=True):
            halves[half][task] = np.isin(classes, own).astype(np.float64)
    return halves[0], halves[1]


def rank_units(
    lesioned: LesionedNetwork,
    trials: LabelledImages,
    loss: Objective,
    *,
    search: Search,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """All units of the layer, a row each: `rank` (0 first), `unit`, `round`, `increase` of the loss in nats.

    The loss is the mean over the tasks of `loss` of their weighted mean cross-entropy; images without weight are not
    drawn. Equal generators draw equal images. Of equal increases the unit of the lower number goes first. At most a
    batch of images, and of their lesions a chunk, is held at a time.
    """
    eligible = np.flatnonzero(np.sum(list(loss.values()), axis=0) > 0)
    if not len(eligible):
        raise StudyError("no image has a class of the tasks to rank units by.")
    units = lesioned.prepare_batch(trials.images(eligible[:1])).units
    silent, rounds, groups = np.zeros(units, dtype=bool), [], search.groups(units)
    for number, size in enumerate(groups):
        images = generator.permutation(eligible)[: search.images]
        weights = {task: own[images] for task, own in loss.items()}
        evaluated = _Round(lesioned, trials, weights, images, search.batch_size)
        halvings = HALVINGS if search.screening and number < len(groups) - 1 and not lesioned.has_closed_form else 0
        found, increase = evaluated.largest(np.flatnonzero(~silent), size, silent=silent, halvings=halvings)
        rounds.append(pd.DataFrame({"unit": found, "round": number, "increase": increase}))
        silent[found] = True
    table = pd.concat(rounds, ignore_index=True)
    table.insert(0, "rank", np.arange(units))
    return table


@dataclass(frozen=True, eq=False)
class _Round:
    """The loss on the images of one round: `positions`, and the `weights` (n,) of each task."""

    lesioned: LesionedNetwork
    trials: LabelledImages
    weights: Objective
    positions: np.ndarray
    batch_size: int

    def largest(
        self, units: np.ndarray, size: int, *, silent: np.ndarray, halvings: int
    ) -> tuple[np.ndarray, npt.NDArray[np.float64]]:
        """The `size` of `units` whose silence, besides that of `silent`, raises the loss most; and by how much."""
        ends = np.unique([0, *(len(self.positions) >> np.arange(halvings, -1, -1))])  # few images: fewer parts
        total = np.zeros(len(units))
        for start, end in itertools.pairwise(ends):
            total += self._increases(slice(start, end), silent, units)
            left = size if end == ends[-1] else max(SURVIVORS * size, math.ceil(len(units) / 2))
            best = np.lexsort((units, -total))[:left]
            units, total = units[best], total[best]
        return units, total

    def _increases(self, rows: slice, silent: np.ndarray, units: np.ndarray) -> npt.NDArray[np.float64]:
        """By how much the share of some images in the loss grows if one of `units` (k,) falls silent."""
        total = np.zeros(len(units))
        quiet, single = torch.from_numpy(silent), torch.from_numpy(units)
        for batch, loss in self._batches(rows):
            ((_, before),) = self.lesioned.compute_logits(batch, quiet[None])
            for part, logits in self.lesioned.compute_single_lesions(batch, quiet, single):
                total[part] += (loss(logits) - loss(before)).cpu().numpy()
        return total

    def _batches(self, rows: slice) -> Iterator[tuple[LesionBatch, Loss]]:
        """Batches of the images in `rows`, each with its share of the loss."""
        shares = {task: own / own.sum() / len(self.weights) for task, own in self.weights.items() if own.any()}
        for start in range(rows.start, rows.stop, self.batch_size):
            part = slice(start, min(start + self.batch_size, rows.stop))
            positions = self.positions[part]
            batch = self.lesioned.prepare_batch(self.trials.images(positions))
            device = batch.responses.device
            terms = {
                task: (
                    torch.from_numpy(self.trials.classes[task][positions]).long().to(device),
                    torch.from_numpy(own[part]).to(device),
                )
                for task, own in shares.items()
            }
            yield batch, partial(_loss, terms)


def _loss(terms: Mapping[str, tuple[torch.Tensor, torch.Tensor]], logits: Logits) -> torch.Tensor:
    """The loss (k,) of logits, task -> (k, n, classes), by the classes and weights (n,) of each task."""
    return torch.stack([_cross_entropy(logits[task], *term) for task, term in terms.items()]).sum(dim=0)


def _cross_entropy(logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums (k,), in float64, of the cross-entropy of logits (k, n, classes)."""
    each = functional.cross_entropy(logits.flatten(0, 1), classes.clamp(min=0).repeat(len(logits)), reduction="none")
    return each.unflatten(0, (len(logits), -1)).double() @ weights


def make_lesions(
    order: Sequence[int] | np.ndarray, fractions: Sequence[float], *, keep: bool = False
) -> npt.NDArray[np.bool_]:
    """Lesions (fractions, units) of the first units in `order`, all of them, or with `keep` of all but these."""
    units = np.asarray(order)
    silent = np.zeros((len(fractions), len(units)), dtype=bool)
    for row, fraction in enumerate(fractions):
        silent[row, units[: count_units(fraction, len(units))]] = True
    return ~silent if keep else silent


def mark_correct_under_lesions(
    lesioned: LesionedNetwork, trials: LabelledImages, silent: np.ndarray, *, batch_size: int = 64
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which images are answered right under the lesions `silent`, bool (k, units): task -> (k, n).

    Of equal logits the first wins; images of unknown class are not right.
    """
    right = {task: np.zeros((len(silent), len(trials)), dtype=bool) for task in trials.tasks}
    masks = torch.from_numpy(np.asarray(silent))
    for start in range(0, len(trials), batch_size):
        positions = np.arange(start, min(start + batch_size, len(trials)))
        batch = lesioned.prepare_batch(trials.images(positions))
        for part, logits in lesioned.compute_logits(batch, masks):
            for task, own in right.items():
                answer = logits[task].argmax(dim=2).cpu().numpy()
                own[part, positions[0] : positions[-1] + 1] = answer == trials.classes[task][positions]
    return right
