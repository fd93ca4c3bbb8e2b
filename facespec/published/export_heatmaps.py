"""Heatmaps in the original study's file names, keys and shapes (Figure 2), and a reader that checks such files.

Its name for the joint network, SPLIT, is followed by ``Expression`` in one file and ``expression`` in the others: kept,
because whoever reads the original's files spells it so. Colours are in its order, blue, green, red (BGR), 0-255.

A map in ``Fig2A_dict.pickle`` is coloured and `INTENSITY` strong, so that ``avg_img + map`` is the picture; a sum above
255 is cut off, as OpenCV does when it writes a picture [P]. JET is OpenCV's ramp [P] without its 256 steps [O], and so
within 5 levels of it (matplotlib's is up to 33 away). The maps in the other files are plain numbers in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.published.export import check_keys, read_checked, select_first_seed
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.maps import upsample_maps
from facespec.study.tables import HEATMAPS
from facespec.study.vocabulary import EXPRESSIONS, Network, Task, View

Floats = npt.NDArray[np.float64]
FIG2A, FIG2B, FIG2C, FIG2D = FILES = tuple(f"Fig2{panel}_dict.pickle" for panel in "ABCD")
FACE = "avg_img"
INTENSITY = 0.4  # [P] of the colours over a single face, 2D; [O] of those over the mean face, 2A
# key -> whose heatmap; 2A spells one of them its own way
KEYS = {
    "SPLIT expression": (Network.JOINT, Task.EXPRESSION),
    "exp": (Network.EXPRESSION, Task.EXPRESSION),
    "SPLIT id": (Network.JOINT, Task.IDENTITY),
    "id": (Network.IDENTITY, Task.IDENTITY),
}
SPELLED = {"SPLIT expression": "SPLIT Expression"}
JOINT_KEYS = ("SPLIT expression", "SPLIT id")
MODELS = ("SPLIT", "exp")


@dataclass(frozen=True, eq=False)
class Example:
    """One image of 2D, uint8 (H, W) grey or (H, W, 3) RGB, and two maps (h, w) of its expression, scaled to [0, 1].

    `joint` is the joint network's, `single` the expression network's; a map that is NaN is blank.
    """

    image: np.ndarray
    joint: np.ndarray
    single: np.ndarray


def export_heatmaps(
    table: pd.DataFrame, mean_face: np.ndarray, examples: Mapping[str, Example]
) -> dict[str, dict[str, Any]]:
    """The four published files' content, checked: file name -> key -> arrays.

    `table` is a HEATMAPS table, of which the mean scaled maps of all images count, brought to the size of `mean_face`,
    (H, W) grey or (H, W, 3) RGB, 0-255. `examples` maps image names to what 2D shows. With several seeds the maps are
    those of the study's first one, as the accuracies are (`published.export.exported`). Where all maps are blank there
    is nothing to see: zeros [O]. Raises `StudyError` if a network's map is missing or incomplete.
    """
    table = HEATMAPS.check(table)
    face = convert_to_bgr(np.asarray(mean_face, dtype=np.float64))
    maps = {key: upsample_maps(_mean_map(table, *pair), face.shape[:2]).clip(0, 1) for key, pair in KEYS.items()}
    content = {
        FIG2A: {FACE: face} | {SPELLED.get(key, key): colour_map(one) for key, one in maps.items()},
        FIG2B: {key: one.ravel() for key, one in maps.items()},
        FIG2C: {FACE: face} | {key: maps[key] for key in JOINT_KEYS},
        FIG2D: {name: _example(example) for name, example in examples.items()},
    }
    return {file: check_heatmap_results(file, one) for file, one in content.items()}


def _mean_map(table: pd.DataFrame, network: Network, task: Task) -> Floats:
    """The mean scaled map (h, w) of the study's first seed; zeros where it is blank."""
    seed = select_first_seed(table)
    own = (table["trained_on"] == network) & (table["tested_on"] == task) & (table["seed"] == seed)
    cells = table[own & (table["scale"] == "scaled") & (table["expression"] == "all")]
    rows, columns = (int(cells[name].max()) + 1 if len(cells) else 0 for name in ("row", "column"))
    if not rows * columns == len(cells) == len(cells[["row", "column"]].drop_duplicates()) > 0:
        raise StudyError(
            f"table 'heatmaps', {network.value} network on {task.value}, seed {seed}: the mean scaled map needs every "
            f"cell of {rows} x {columns}, each once; the table has {len(cells)} rows of it. Make the heatmaps again."
        )
    return np.nan_to_num(cells.sort_values(["row", "column"])["mean"].to_numpy(np.float64).reshape(rows, columns))


def _example(example: Example) -> dict[str, dict[str, np.ndarray]]:
    maps = dict(zip(MODELS, (example.joint, example.single), strict=True))
    return {
        model: {"heatmap": np.nan_to_num(np.asarray(one, dtype=np.float64)), "img": convert_to_bgr(example.image)}
        for model, one in maps.items()
    }


def convert_to_bgr(image: np.ndarray) -> np.ndarray:
    """An image (H, W) grey or (H, W, 3) RGB as (H, W, 3) in the order blue, green, red."""
    colour = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return np.ascontiguousarray(colour[..., ::-1])


def colour_map(values: np.ndarray) -> Floats:
    """A map (H, W) in [0, 1] in JET, (H, W, 3) BGR: from dark blue to dark red, 0 to 255 times `INTENSITY`."""
    distance = np.abs(4 * values[..., None] - np.array([1, 2, 3]))  # of a value from where each colour is strongest
    return INTENSITY * 255 * np.clip(1.5 - distance, 0, 1)


def choose_examples(labels: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Which images 2D shows, as row numbers of a LABELS table: one per expression there is, in frontal view.

    People are spread evenly over their names: of all names in order, expression i of k takes the one in the middle of
    the i-th k-th part, or the next one with that expression. Nothing but the labels decides. Where no face is seen from
    the front, all views count.
    """
    frontal = labels["view"] == View.STRAIGHT
    shown = labels.assign(position=np.arange(len(labels)))[frontal | (not frontal.any())]
    people = pd.Index(sorted(shown["identity"].unique()))
    expressions = [name for name in EXPRESSIONS if (shown["expression"] == name).any()]
    found = []
    for i, name in enumerate(expressions):
        own = shown[shown["expression"] == name]
        wanted = (2 * i + 1) * len(people) // (2 * len(expressions))
        ahead = (people.get_indexer(pd.Index(own["identity"])) - wanted) % len(people)
        found.append(own.assign(ahead=ahead).sort_values(["ahead", "stimulus"])["position"].iloc[0])
    return np.array(found, dtype=np.int64)


def check_heatmap_results(file: str, content: Any) -> dict[str, Any]:
    """`content` of the published file `file`; refused by name if a key, shape or value is wrong."""
    checks = {FIG2A: _check_pictures, FIG2B: _check_pixels, FIG2C: _check_maps, FIG2D: _check_examples}
    if file not in checks:
        raise StudyError(f"{file}: not one of the published heatmap files; {suggest_spelling(file, FILES)}")
    checks[file](file, content)
    return dict(content)


def _check_pictures(file: str, content: Any) -> None:
    keys = (FACE, *(SPELLED.get(key, key) for key in KEYS))
    check_keys(file, content, keys, of="arrays")
    _same_size(file, {key: _image(f"{file}, key {key!r}", content[key]) for key in keys})


def _check_pixels(file: str, content: Any) -> None:
    check_keys(file, content, tuple(KEYS), of="arrays")
    for key in KEYS:
        _array(f"{file}, key {key!r}", content[key], ("n",), high=1)


def _check_maps(file: str, content: Any) -> None:
    check_keys(file, content, (FACE, *JOINT_KEYS), of="arrays")
    maps = {key: _array(f"{file}, key {key!r}", content[key], ("H", "W"), high=1) for key in JOINT_KEYS}
    _same_size(file, {FACE: _image(f"{file}, key {FACE!r}", content[FACE])} | maps)


def _check_examples(file: str, content: Any) -> None:
    check_keys(file, content, content if isinstance(content, dict) else (), of="images")
    if not content:
        raise StudyError(f"{file}: holds no image; at least 1 is needed.")
    for name, models in content.items():
        check_keys(f"{file}, image {name!r}", models, MODELS, of="networks")
        for model in MODELS:
            where = f"{file}, image {name!r}, key {model!r}"
            check_keys(where, models[model], ("heatmap", "img"), of="arrays")
            _array(f"{where}, 'heatmap'", models[model]["heatmap"], ("h", "w"), high=1)
            _image(f"{where}, 'img'", models[model]["img"])


def _image(where: str, values: Any) -> np.ndarray:
    return _array(where, values, ("H", "W", 3), high=255)


def _array(where: str, values: Any, shape: tuple[str | int, ...], *, high: int) -> np.ndarray:
    """`values`, if it is a numeric array of `shape`, in which letters are free, and within [0, `high`]."""
    wanted = f"an array ({', '.join(map(str, shape))}{',' * (len(shape) == 1)}) of numbers"
    if not isinstance(values, np.ndarray):
        raise StudyError(f"{where}: expected {wanted}, got {type(values).__name__}.")
    fits = len(values.shape) == len(shape) and all(
        got == size for got, size in zip(values.shape, shape, strict=True) if isinstance(size, int)
    )
    if not fits or not values.size or values.dtype.kind not in "iuf":
        raise StudyError(f"{where}: expected {wanted}, got {values.dtype} of shape {values.shape}.")
    wrong = values[~((values >= 0) & (values <= high))]  # NaN is not within any bounds
    if wrong.size:
        raise StudyError(f"{where}: got {wrong[0].item()!r}, allowed: numbers in [0, {high}].")
    return values


def _same_size(file: str, arrays: Mapping[str, np.ndarray]) -> None:
    sizes = {key: values.shape[:2] for key, values in arrays.items()}
    for key, size in sizes.items():
        if size != sizes[FACE]:
            raise StudyError(f"{file}, key {key!r}: its size is {size}, that of {FACE!r} is {sizes[FACE]}.")


def read_heatmap_results(directory: Path) -> dict[str, dict[str, Any]]:
    """The published heatmap files that `directory` holds, read safely and checked; absent ones are left out."""
    return read_checked(directory, FILES, check_heatmap_results)
