"""Which pixels of the explained images carry expression, and which identity? Found by drawing the faces again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.analyses.moments import Moments
from facespec.analyses.truths import compute_discriminability, find_changed_pixels, find_largest_pixels
from facespec.data.embedded import production
from facespec.data.embedded.anatomy import change_faces
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Codes, Stimuli, replace_expressions, replace_people
from facespec.data.faceset import FaceSet
from facespec.stages.progress import progress_bar
from facespec.study.params import Data, GroundTruth
from facespec.study.seeds import generator
from facespec.study.tables import TRUTH_RULES
from facespec.study.vocabulary import EXPRESSIONS, TASKS, Role

PIXELS = 1 << 19  # processed at a time

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ExplainedImages:
    """The n images that the heatmaps are of, at `rows` of `faces`; row i of `stimuli` describes row i of `faces`."""

    faces: FaceSet
    rows: np.ndarray
    stimuli: Stimuli

    @property
    def labels(self) -> pd.DataFrame:
        """The labels of the n images."""
        return self.faces.labels.iloc[self.rows].reset_index(drop=True)


class Truths:
    """The true pixels of n images, by every rule and for every task, in one bit each.

    `size` is the height and width of the images.
    """

    def __init__(self, n: int, size: tuple[int, int]) -> None:
        self.size = size
        self.bits = np.zeros((n, len(TRUTH_RULES), len(TASKS), -(-size[0] * size[1] // 8)), np.uint8)

    def __len__(self) -> int:
        return len(self.bits)

    def write(self, images: np.ndarray, masks: Mask, *, rule: int, task: int) -> None:
        """Keep the `masks` (images, H, W), or one (1, H, W) for all, of the images with these indices."""
        self.bits[images, rule, task] = np.packbits(masks.reshape(len(masks), -1), axis=1)

    def read(self, images: slice | np.ndarray) -> Mask:
        """The masks of some images, (images, rules, tasks, H, W)."""
        bits = self.bits[images]
        masks = np.unpackbits(bits, axis=-1, count=self.size[0] * self.size[1])
        return masks.reshape(*bits.shape[:3], *self.size).view(np.bool_)


def find_truths(images: ExplainedImages, block: GroundTruth, *, data: Data, workers: int) -> Truths:
    """Find the pixels that carry expression and those that carry identity, by both rules.

    Pictures are rendered by `workers` processes, and held a batch at a time.
    """
    truths = Truths(len(images.rows), (images.faces.height, images.faces.width))
    variants = (_vary_expressions(images), vary_people(images, block))
    with progress_bar() as bar:
        total = sum(map(len, variants)) + block.redraws * len(list_shown_rows(images))
        bar_task = bar.add_task("faces drawn again", total=total, numbers="")
        for task, stimuli in enumerate(variants):
            per_image = len(stimuli) // len(truths)
            for indices, pictures in _iterate_pictures(images.faces, stimuli, together=per_image, workers=workers):
                originals = images.faces.images(images.rows[indices])
                truths.write(indices, find_changed_pixels(originals, pictures, share=block.share), rule=0, task=task)
                bar.advance(bar_task, len(indices) * per_image)
        measured = gather_redraws(images, block, data=data, workers=workers, report=lambda n: bar.advance(bar_task, n))
    for task, (moments, classes) in enumerate(zip(measured, list_classes(images), strict=True)):
        masks = find_discriminable_pixels(moments, images, share=block.share)
        for code, mask in enumerate(masks):
            truths.write(np.flatnonzero(classes[images.rows] == code), mask[None], rule=1, task=task)
    return truths


def _iterate_pictures(
    faces: FaceSet, stimuli: Stimuli, *, together: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Render `stimuli`, in batches of whole groups of `together`: indices (n,) of groups, and their pictures, uint8
    (n, together, H, W[, 3]).
    """
    start, chunk = 0, together * max(1, PIXELS // (together * faces.height * faces.width))
    for rendered in production.iterate_chunks(
        stimuli, size=faces.height, channels=faces.channels, chunk=chunk, workers=workers
    ):
        stop = start + len(rendered.images) // together
        yield np.arange(start, stop), rendered.images.reshape(stop - start, together, *rendered.images.shape[1:])
        start = stop


def _vary_expressions(images: ExplainedImages) -> Stimuli:
    """Six stimuli for each image, one after the other."""
    names = [name for code in images.stimuli.codes[images.rows] for name in EXPRESSIONS if name != EXPRESSIONS[code]]
    return replace_expressions(images.stimuli.take(np.repeat(images.rows, len(EXPRESSIONS) - 1)), names)


def vary_people(images: ExplainedImages, block: GroundTruth) -> Stimuli:
    """Stimuli with the faces of `block.others` other people for each image, one after the other, drawn at random."""
    rows, stimuli = images.rows, images.stimuli
    first_rows = stimuli.labels["identity"].drop_duplicates()
    person = pd.Index(first_rows).get_indexer(pd.Index(stimuli.labels["identity"].iloc[rows]))
    n_people = len(first_rows)
    per_image = min(block.others, n_people - 1)
    stream = generator(block.seed, "groundtruth", "others")
    others = stream.permuted(np.tile(np.arange(n_people - 1), (len(rows), 1)), axis=1)[:, :per_image]
    others += others >= person[:, None]  # nobody replaces themselves
    faces = stimuli.people[first_rows.index.to_numpy()[others.ravel()]]
    repeated = stimuli.take(np.repeat(rows, per_image))
    return replace_people(repeated, change_faces(repeated.people, faces))


def list_shown_rows(images: ExplainedImages) -> np.ndarray:
    """The rows of all probe faces in the views of the explained ones."""
    return np.flatnonzero(images.stimuli.labels["view"].isin(images.labels["view"]))


def list_classes(images: ExplainedImages) -> list[Codes]:
    """Number the classes of expression, and those of identity, separately in each view that is explained.

    Returns an array for each of `TASKS`, with a code for each row of the probe faces; -1 in other views.
    """
    labels = images.stimuli.labels
    view = pd.Index(images.labels["view"].unique()).get_indexer(pd.Index(labels["view"]))
    person, people = pd.factorize(labels["identity"])
    return [
        np.where(view >= 0, view * n + codes, -1)
        for codes, n in ((images.stimuli.codes, len(EXPRESSIONS)), (person, len(people)))
    ]


def redraw_nuisances(stimuli: Stimuli, data: Data, stream: np.random.Generator) -> Stimuli:
    """The same people with the same expressions in the same views, and everything else drawn again.

    That is all that differs between two photographs of one kind: how strong and pure an expression is, how the head is
    held, light, camera and noise, and of the day, as beard and glasses.
    """
    fresh = draw_role(Role.PROBE, data, stream)
    return replace(fresh, people=change_faces(fresh.people, stimuli.people), labels=stimuli.labels)


def gather_redraws(
    images: ExplainedImages, block: GroundTruth, *, data: Data, workers: int, report: Callable[[int], None]
) -> list[Moments]:
    """Render the probe faces `block.redraws` times with other nuisances; gather each task's classes pixel by pixel.

    The moments are of maps (H, W x channels) and of the classes of `list_classes`; `report` is called with numbers of
    rendered pictures.
    """
    faces, rows, classes = images.faces, list_shown_rows(images), list_classes(images)
    shape = faces.height, faces.width * faces.channels
    moments = [Moments(int(codes.max()) + 1, shape) for codes in classes]
    for redraw in range(block.redraws):
        stream = generator(block.seed, "groundtruth", "redraw", redraw)
        stimuli = redraw_nuisances(images.stimuli, data, stream).take(rows)
        for indices, pictures in _iterate_pictures(faces, stimuli, together=1, workers=workers):
            for task_moments, codes in zip(moments, classes, strict=True):
                task_moments.add(pictures.reshape(len(indices), *shape), codes[rows[indices]])
            report(len(indices))
    return moments


def find_discriminable_pixels(moments: Moments, images: ExplainedImages, *, share: float) -> Mask:
    """The pixels by which every class is told best from the others of its view: bool (classes, H, W)."""
    n_views, height = images.labels["view"].nunique(), images.faces.height
    shape = (n_views, len(moments.count) // n_views, height, images.faces.width, images.faces.channels)
    by_view = zip(moments.count.reshape(shape[:2]), moments.mean.reshape(shape), moments.sd.reshape(shape), strict=True)
    return np.concatenate([find_largest_pixels(compute_discriminability(*of_view), share=share) for of_view in by_view])
