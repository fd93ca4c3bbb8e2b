"""Which manipulated faces does a face-perception laboratory show first, and how are they made from parameters?

Faces upside down, halves of two faces put together, faces with one part of another, parts alone, shape or surface of
another person, caricatures, and single action units. Whatever can be drawn is drawn; pixels are only moved or covered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.data.chunks import FaceChunk
from facespec.data.embedded import action_units, anatomy, production, scenes
from facespec.data.embedded.canvas import REGIONS
from facespec.data.embedded.cues import list_parameters
from facespec.data.embedded.stimuli import Stimuli, concatenate, replace_expressions
from facespec.study.params import Battery
from facespec.study.vocabulary import Expression, Task

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]
Pictures = dict[str, Bytes]

SPLIT_HEIGHT = -0.15  # head units: the bridge of the nose below the eyes, where halves of faces are cut
MARGIN = 48  # a part's window is larger than the part by 1/48 of the picture on each side: soft edges
PICTURES = 1 << 18  # pixels of rendered pictures that are composed at a time
SHOWN_UNITS = (0, *action_units.UNITS)  # 0: none
COLUMNS = [
    *("stimulus", "image", "manipulation", "condition", "identity", "expression", "other_identity"),
    *("other_expression", "unit"),
]
UPPER_UNITS = (1, 2, 4, 5, 6, 7)  # FACS: units of the upper face; all others are of the lower

# What a person's skin, eyes and marks look like, whatever their shape; all else but hair, beard and glasses is shape.
SURFACE = ("skin_tone", "skin_red", "brow_tone", "iris_tone", "iris_hue", "lip_tone", *list_parameters("marks"))
SHAPE = tuple(name for name in anatomy.PARAMETERS if name not in (*SURFACE, *anatomy.APPEARANCE, *anatomy.CAP))


@dataclass(frozen=True)
class Part:
    """A part of the face: its regions, and the person's parameters (cues) or the action units that make it.

    Where `half` is given, the part ends at the line at which faces are cut in halves: noses reach up to the brows.
    """

    task: Task
    name: str
    regions: tuple[str, ...]
    half: Literal["", "upper", "lower"] = ""
    cues: tuple[str, ...] = ()
    units: tuple[int, ...] = ()


PARTS = (
    Part(Task.IDENTITY, "eyes", ("brows", "eyes"), cues=("brows", "eyes")),
    Part(Task.IDENTITY, "nose", ("nose",), cues=("nose",)),
    Part(Task.IDENTITY, "mouth", ("mouth",), cues=("mouth",)),
    Part(Task.EXPRESSION, "upper face", ("brows", "eyes"), "upper", units=UPPER_UNITS),
    Part(
        Task.EXPRESSION,
        "lower face",
        ("nose", "mouth"),
        "lower",
        units=tuple(unit for unit in action_units.UNITS if unit not in UPPER_UNITS),
    ),
)
UPRIGHT, INVERTED = "upright", "inverted"
ALIGNED, MISALIGNED = "halves aligned", "halves misaligned"
CARICATURE, ANTICARICATURE = "caricature", "anticaricature"
SHAPE_SWAPPED, SURFACE_SWAPPED = "shape swapped", "surface swapped"


def name_condition(task: Task, kind: str) -> str:
    """The name of a condition that is about one task, such as ``"identity halves aligned"``."""
    return f"{task.value} {kind}"


def name_part(part: Part, kind: str) -> str:
    """The name of a condition of a part: `kind` is "foil" (in the whole face), "alone", or "foil alone"."""
    return f"{part.task.value} {part.name} {kind}"


# Every condition of the battery and the manipulation that it belongs to, in the order of the pictures
CONDITIONS: dict[str, str] = {
    UPRIGHT: "none",
    INVERTED: "inversion",
    **{name_condition(task, kind): "composite" for task in Task for kind in (ALIGNED, MISALIGNED)},
    **{name_part(part, kind): "part and whole" for part in PARTS for kind in ("foil", "alone", "foil alone")},
    **{name_condition(task, kind): "caricature" for task in Task for kind in (ANTICARICATURE, CARICATURE)},
    SHAPE_SWAPPED: "shape and surface",
    SURFACE_SWAPPED: "shape and surface",
}


@dataclass(frozen=True, eq=False)
class BatteryFaces:
    """The parameters of the battery's pictures.

    Attributes
    ----------
    stimuli : Stimuli
        n faces that are manipulated, seen from the front.
    donors : Stimuli
        The faces from which halves, parts, shape and surface of another person come, row by row.
    others : list of str of length n
        The expressions from which halves and parts of another expression come.
    norms : array of float64 of shape (n, n_parameters)
        The mean face of which each is a caricature.
    neutrals : Stimuli
        Faces on which single action units are shown.
    recipe : facespec.study.params.Battery
        By how much halves are shifted, and faces exaggerated.
    """

    stimuli: Stimuli
    donors: Stimuli
    others: list[str]
    norms: Floats
    neutrals: Stimuli
    recipe: Battery

    @property
    def manipulated(self) -> pd.DataFrame:
        """One row per picture of a manipulated face, image by image and condition by condition: what it shows."""
        labels = self.stimuli.labels
        conditions = pd.DataFrame({"condition": list(CONDITIONS), "manipulation": list(CONDITIONS.values())})
        shown = labels[["identity", "expression"]].assign(
            image=labels["stimulus"],
            other_identity=self.donors.labels["identity"].to_numpy(),
            other_expression=self.others,
        )
        table = shown.merge(conditions, how="cross")
        return table.assign(stimulus=table["image"] + " " + table["condition"], unit="")[COLUMNS]

    @property
    def single_units(self) -> pd.DataFrame:
        """One row per picture of a single action unit, face by face: what it shows; unit 0 is none."""
        labels = self.neutrals.labels
        units = pd.DataFrame({"unit": list(SHOWN_UNITS)})
        table = labels[["identity"]].assign(image=labels["stimulus"]).merge(units, how="cross")
        names = table["image"] + " unit " + table["unit"].astype(str)
        fixed = {"manipulation": "single unit", "condition": "single unit", "expression": ""}
        return table.assign(stimulus=names, other_identity="", other_expression="", **fixed)[COLUMNS]


def choose_norms(stimuli: Stimuli, everyone: Stimuli) -> Floats:
    """The mean parameters of the people of the same sex (first letter of the identity), for each of `stimuli`."""
    total: dict[str, Floats] = {}
    count: dict[str, int] = {}
    for identity, person in zip(everyone.labels["identity"], everyone.people, strict=True):
        sex = identity[:1]
        total[sex] = total.get(sex, np.zeros_like(person)) + person  # one after the other: the same bits everywhere
        count[sex] = count.get(sex, 0) + 1
    return np.stack([total[name[:1]] / count[name[:1]] for name in stimuli.labels["identity"]])


def draw_variants(faces: BatteryFaces) -> dict[str, Stimuli]:
    """All faces that have to be rendered: name -> n stimuli. Those of halves give the lower half of a picture."""
    stimuli, donors, recipe = faces.stimuli, faces.donors, faces.recipe
    halves = {
        Task.IDENTITY: replace(stimuli, people=donors.people),
        Task.EXPRESSION: replace_expressions(stimuli, faces.others),
    }
    variants = {UPRIGHT: stimuli}
    for task, half in halves.items():
        variants[name_condition(task, ALIGNED)] = half
        variants[name_condition(task, MISALIGNED)] = shift_sideways(half, recipe.misalignment)
    for part in PARTS:
        variants[name_part(part, "foil")] = swap_part(stimuli, part, halves[part.task])
    for kind, factor in ((ANTICARICATURE, recipe.anticaricature), (CARICATURE, recipe.caricature)):
        variants[name_condition(Task.IDENTITY, kind)] = caricature_people(stimuli, faces.norms, factor)
        variants[name_condition(Task.EXPRESSION, kind)] = replace(stimuli, intensity=stimuli.intensity * factor)
    for name, parameters in ((SHAPE_SWAPPED, SHAPE), (SURFACE_SWAPPED, SURFACE)):
        variants[name] = _mix_people(stimuli, donors, parameters)
    return variants


def shift_sideways(stimuli: Stimuli, share: float) -> Stimuli:
    """The same faces, moved to the right by a share of the picture's width; nothing else moves."""
    column = {name: index for index, name in enumerate(scenes.COLUMNS)}
    scene = stimuli.scene.copy()
    scene[:, column["shift_x"]] += 2.0 * share * scene[:, column["scale"]]
    return replace(stimuli, scene=scene)


def swap_part(stimuli: Stimuli, part: Part, donors: Stimuli) -> Stimuli:
    """The faces with one part of `donors`: other people, or the same people with another expression."""
    if part.cues:
        return _mix_people(stimuli, donors, [name for cue in part.cues for name in list_parameters(cue)])
    is_donated = np.isin(list(action_units.UNITS), part.units)
    return show_units(stimuli, np.where(is_donated, donors.units, stimuli.units))


def show_units(stimuli: Stimuli, units: Floats) -> Stimuli:
    """The same faces with these intensities of action units, (n, 16), and no expression besides."""
    neutral = replace_expressions(stimuli, [Expression.NEUTRAL] * len(stimuli))
    return replace(neutral, labels=stimuli.labels, idle=units)


def caricature_people(stimuli: Stimuli, norms: Floats, factor: float) -> Stimuli:
    """Faces that differ from `norms` (n, n_parameters) `factor` times as much, within the ranges of all people.

    Hair, beard and glasses stay.
    """
    ranges = np.array([*anatomy.PEAKED.values(), *anatomy.EVEN.values()])
    low, high = np.minimum(ranges[:, 0], stimuli.people), np.maximum(ranges[:, 1], stimuli.people)
    moved = norms + factor * (stimuli.people - norms)
    is_face = np.isin(anatomy.PARAMETERS, (*SHAPE, *SURFACE))
    return replace(stimuli, people=np.where(is_face, np.minimum(np.maximum(moved, low), high), stimuli.people))


def draw_single_units(stimuli: Stimuli) -> Stimuli:
    """Each face with each of `SHOWN_UNITS` alone, at full intensity, face by face."""
    shown = np.tile(SHOWN_UNITS, len(stimuli))
    intensities = (shown[:, None] == np.array(list(action_units.UNITS))).astype(np.float64)
    return show_units(stimuli.take(np.repeat(np.arange(len(stimuli)), len(SHOWN_UNITS))), intensities)


def iterate_battery(faces: BatteryFaces, *, size: int, channels: int, workers: int) -> Iterator[FaceChunk]:
    """All pictures, some at a time: those of `BatteryFaces.manipulated`, then those of `BatteryFaces.single_units`."""
    render = partial(production.iterate_chunks, size=size, channels=channels, workers=workers)
    variants = draw_variants(faces)
    names, n, table = list(variants), len(faces.stimuli), faces.manipulated
    together = concatenate(list(variants.values())).take(np.arange(len(names) * n).reshape(-1, n).T.ravel())
    rows = find_split_rows(faces.stimuli, size)
    at_once = max(1, PICTURES // (len(names) * size * size))
    for start, rendered in zip(range(0, n, at_once), render(together, chunk=at_once * len(names)), strict=True):
        assert rendered.regions is not None
        pictures, regions = (
            dict(zip(names, array.reshape(-1, len(names), *array.shape[1:]).swapaxes(0, 1), strict=True))
            for array in (rendered.images, rendered.regions)
        )
        stop = start + len(rendered.images) // len(names)
        composed = compose_pictures(pictures, regions, rows[start:stop])
        images = np.stack([composed[name] for name in CONDITIONS], axis=1)
        shown = table.iloc[start * len(CONDITIONS) : stop * len(CONDITIONS)]
        labels = _repeat_labels(faces.stimuli.labels.iloc[start:stop], shown)
        yield FaceChunk(images.reshape(-1, *images.shape[2:]), labels)
    table, start = _repeat_labels(faces.neutrals.labels, faces.single_units), 0
    for rendered in render(draw_single_units(faces.neutrals), chunk=max(1, PICTURES // (size * size))):
        stop = start + len(rendered.images)
        yield FaceChunk(rendered.images, table.iloc[start:stop])
        start = stop


def _repeat_labels(labels: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """The labels of `shown` pictures, equally many of every face in `labels`."""
    repeated = labels.loc[labels.index.repeat(len(shown) // len(labels))]
    named = {name: shown[name].to_numpy() for name in ("stimulus", "expression")}
    return repeated.assign(**named).reset_index(drop=True)


def find_split_rows(stimuli: Stimuli, size: int) -> npt.NDArray[np.int64]:
    """How many rows of pixels of each picture are above the line at which faces are cut in halves: int64 (n,)."""
    column = {name: index for index, name in enumerate(scenes.COLUMNS)}
    scale, shift = (stimuli.scene[:, [column[name]]] for name in ("scale", "shift_y"))
    height = (1.0 - (np.arange(size) + 0.5) / (size / 2)) * scale - shift  # as in `view.place_camera`
    return np.asarray((height > SPLIT_HEIGHT).sum(axis=1), np.int64)


def compose_pictures(pictures: Mapping[str, Bytes], regions: Mapping[str, Bytes], rows: np.ndarray) -> Pictures:
    """From rendered faces to what is shown: condition -> pictures (k, H, W[, 3]).

    `pictures` and `regions` (k, H, W) are those of `draw_variants`; `rows` (k,) of `find_split_rows`.
    """
    upright = pictures[UPRIGHT]
    composed = dict(pictures) | {INVERTED: upright[:, ::-1, ::-1]}
    is_upper = np.arange(upright.shape[1])[None, :, None] < rows[:, None, None]
    for task in Task:
        for kind in (ALIGNED, MISALIGNED):
            name = name_condition(task, kind)
            composed[name] = _choose(is_upper, upright, pictures[name])
    grey = _average_levels(upright)
    for part in PARTS:
        name, codes = name_part(part, "foil"), [REGIONS[region] for region in part.regions]
        window = enclose(np.isin(regions[UPRIGHT], codes) | np.isin(regions[name], codes))
        if part.half:
            window &= is_upper if part.half == "upper" else ~is_upper
        composed[name_part(part, "alone")] = _choose(window, upright, grey)
        composed[name_part(part, "foil alone")] = _choose(window, pictures[name], grey)
    return composed


def enclose(masks: Masks) -> Masks:
    """The smallest rectangle around every mask (k, H, W), larger by 1/48 of the picture on each side."""
    window = np.ones_like(masks)
    for axis in (1, 2):
        inside = _fill_between(np.asarray(masks.any(axis=3 - axis)))
        for _ in range(masks.shape[axis] // MARGIN):
            padded = np.pad(inside, ((0, 0), (1, 1)))
            inside = inside | padded[:, :-2] | padded[:, 2:]
        window &= np.expand_dims(inside, 3 - axis)
    return window


def _fill_between(lines: Masks) -> Masks:
    """Every line (k, length) from its first true pixel to its last."""
    before, after = lines.cumsum(axis=1) > 0, lines[:, ::-1].cumsum(axis=1)[:, ::-1] > 0
    return np.asarray(before & after)


def _average_levels(pictures: Bytes) -> Bytes:
    """The mean level of every picture, in whole levels, as pictures without anything on them."""
    height, width = pictures.shape[1:3]
    total = pictures.astype(np.int64).sum(axis=(1, 2), keepdims=True)
    return np.broadcast_to((total // (height * width)).astype(np.uint8), pictures.shape)


def _choose(mask: Masks, inside: Bytes, outside: Bytes) -> Bytes:
    return np.where(mask if inside.ndim == 3 else mask[..., None], inside, outside)


def _mix_people(stimuli: Stimuli, donors: Stimuli, names: tuple[str, ...] | list[str]) -> Stimuli:
    """The faces with the parameters `names` of `donors`."""
    return replace(stimuli, people=np.where(np.isin(anatomy.PARAMETERS, names), donors.people, stimuli.people))
