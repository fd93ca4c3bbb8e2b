"""How does the original study store its results? Its file names, keys and shapes, written, read and checked.

Its name for the joint network, SPLIT, is used only here, in the names and keys of its files. In heatmap files it is
followed by ``Expression`` in one file and by ``expression`` in the others: unchanged, because programs that read the
original's files spell it so.

- Accuracies (Figures 1 and S1): per bar, a list of `RESAMPLES` accuracies.
- Heatmaps (Figure 2): colours are in the order blue, green, red (BGR), 0-255. A map in ``Fig2A_dict.pickle`` is
  coloured and `INTENSITY` strong, so that ``avg_img + map`` is the picture; a sum above 255 is cut off, as OpenCV does
  when it writes a picture [P]. JET is OpenCV's ramp [P] without its 256 steps [O], and so within 5 levels of it
  (matplotlib's differs by up to 33). The maps in the other files are plain numbers in [0, 1].
- Preferred stimuli (Figures 3 and S2): pages, one file per network with one page per convolution [P]; and responses.
  The content of the original's response files is unknown: the keys are ours, after the files' names [O]. Layers are
  named by the ReLU behind the convolution, as in all tables; position i of a layer's array is unit i. Dead units have
  NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from facespec.published.reference import Bar, find_role, read_published_bars, read_published_chance
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.examples import Example
from facespec.study.maps import upsample_maps
from facespec.study.pickles import read_pickle
from facespec.study.tables import ACCURACY, HEATMAPS, PREFERRED
from facespec.study.vocabulary import Network, Task

Floats = npt.NDArray[np.float64]
Results = dict[str, list[float]]
Content = TypeVar("Content")

RESAMPLES = 100  # [P] length of every published list of accuracies

FIG2A, FIG2B, FIG2C, FIG2D = HEATMAP_FILES = tuple(f"Fig2{panel}_dict.pickle" for panel in "ABCD")
FACE = "avg_img"
INTENSITY = 0.4  # [P] of the colours over a single face, 2D; [O] of those over the mean face, 2A
# key -> network and task of the heatmap; 2A spells one key differently
MAP_KEYS = {
    "SPLIT expression": (Network.JOINT, Task.EXPRESSION),
    "exp": (Network.EXPRESSION, Task.EXPRESSION),
    "SPLIT id": (Network.JOINT, Task.IDENTITY),
    "id": (Network.IDENTITY, Task.IDENTITY),
}
SPELLINGS_2A = {"SPLIT expression": "SPLIT Expression"}
JOINT_KEYS = ("SPLIT expression", "SPLIT id")
MODELS = ("SPLIT", "exp")

NETWORK_NAMES = {Network.JOINT: "SPLIT", Network.EXPRESSION: "exp", Network.IDENTITY: "id"}
PAGES = {network: f"Fig3_and_S_Fig2_merged_{name}Conv2d.pdf" for network, name in NETWORK_NAMES.items()}
PREFERRED_FILES = {
    network: f"SFig2B_{name}_Layer_Names_and_Activations.pickle" for network, name in NETWORK_NAMES.items()
}
LAYERS, RESPONSES = PREFERRED_KEYS = ("layer_names", "activations")


def export_accuracy(table: pd.DataFrame) -> dict[str, Results]:
    """The published accuracy files' content from an ACCURACY table: file name -> key -> 100 floats, resamples 0 ... 99.

    Figures that `table` lacks are left out; a figure of which a cell or a resample is missing is refused.

    With several seeds [O] the lists are those of the study's first seed, the one that the first row of `table` names.
    The published lists are about one network, and their spread is that of resampled test images alone; means over seeds
    would be narrower, and a standard error computed from the list would be wrong.
    """
    table = ACCURACY.check(table)
    files: dict[str, Results] = {}
    for bar in read_published_bars():
        if (table["figure"] == bar.figure).any():
            files.setdefault(bar.file, {})[bar.key] = _list_accuracies(table, bar, seed=_select_first_seed(table))
    return files


def _select_first_seed(table: pd.DataFrame) -> int:
    """The study's first seed: the one that the first row of a table names."""
    if table.empty:
        raise StudyError("a table without a row names no seed. Make the tables again.")
    return int(table["seed"].iloc[0])


def _list_accuracies(table: pd.DataFrame, bar: Bar, *, seed: int) -> list[float]:
    cell = table[
        (table["figure"] == bar.figure)
        & (table["trained_on"] == bar.trained_on)
        & (table["tested_on"] == bar.tested_on)
        & (table["seed"] == seed)
        & table["resample"].between(0, RESAMPLES - 1)
    ].sort_values("resample")
    if cell["resample"].tolist() != list(range(RESAMPLES)):
        raise StudyError(
            f"figure {bar.figure}, {bar.trained_on} network tested on {bar.tested_on}, seed {seed}: {bar.file} needs "
            f"resamples 0 to {RESAMPLES - 1}, each once; the table has {len(cell)} rows of them."
        )
    return [float(value) for value in cell["accuracy"]]


def tabulate_results(files: Mapping[str, Any]) -> pd.DataFrame:
    """The ACCURACY table of published files' content (file name -> key -> 100 numbers); inverts `export_accuracy`.

    `source`, `n` and `chance` are those of the published study, `seed` is 0; there is no row with `resample` -1,
    because the accuracy on the test images themselves was not published.
    """
    bars = read_published_bars()
    known = dict.fromkeys(bar.file for bar in bars)
    for file in files:
        if file not in known:
            raise StudyError(f"{file}: not one of the published accuracy files; {suggest_spelling(file, known)}")
    results = {file: check_results(file, content) for file, content in files.items()}
    cells = [
        pd.DataFrame({"resample": range(RESAMPLES), "accuracy": results[bar.file][bar.key]}).assign(
            figure=bar.figure,
            trained_on=bar.trained_on,
            tested_on=bar.tested_on,
            source=bar.source,
            seed=0,
            n=bar.n,
            role=find_role(bar.figure, bar.tested_on),
            chance=read_published_chance(bar.figure, bar.tested_on),
        )
        for bar in bars
        if bar.file in results
    ]
    if not cells:
        return pd.DataFrame(columns=list(ACCURACY.columns))
    return ACCURACY.check(pd.concat(cells, ignore_index=True))


def check_results(file: str, content: Any) -> Results:
    """`content` of the accuracy file `file`, as plain floats; `StudyError` if a key, length or value is wrong."""
    keys = [bar.key for bar in read_published_bars() if bar.file == file]
    _check_keys(file, content, keys, values="lists")
    return {key: _check_list(f"{file}, key {key!r}", content[key]) for key in keys}


def _check_keys(label: str, content: Any, keys: Collection[str], *, values: str) -> None:
    """Raise `StudyError` unless `content` is a dict of `values` (a plural noun) with exactly these keys."""
    if not isinstance(content, dict):
        raise StudyError(f"{label}: expected a dict of {values}, got {type(content).__name__}.")
    for key in keys:
        if key not in content:
            raise StudyError(f"{label}: lacks key {key!r}; it has {sorted(map(str, content))}.")
    for key in content:
        if key not in keys:
            raise StudyError(f"{label}: unknown key {key!r}; {suggest_spelling(str(key), keys)}")


def _check_list(label: str, values: Any) -> list[float]:
    if not isinstance(values, list):
        raise StudyError(f"{label}: expected a list of {RESAMPLES} numbers, got {type(values).__name__}.")
    if len(values) != RESAMPLES:
        raise StudyError(f"{label}: expected {RESAMPLES} numbers, got {len(values)}.")
    for position, value in enumerate(values):
        is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:  # NaN is outside any bounds
            got = value.item() if isinstance(value, np.generic) else value
            raise StudyError(f"{label}, position {position}: got {got!r}, allowed: a number in [0, 1].")
    return [float(value) for value in values]


def export_heatmaps(
    table: pd.DataFrame, mean_face: np.ndarray, examples: Mapping[str, Example]
) -> dict[str, dict[str, Any]]:
    """The four published heatmap files' content, checked: file name -> key -> arrays.

    `table` is a HEATMAPS table, of which the mean scaled maps of all images are used, brought to the size of
    `mean_face`, (H, W) grey or (H, W, 3) RGB, 0-255. `examples` maps image names to the content of 2D. With several
    seeds the maps are those of the study's first one, as the accuracies are (`export_accuracy`). If all maps are blank,
    the mean map is zeros [O]. Raises `StudyError` if a network's map is missing or incomplete.
    """
    table = HEATMAPS.check(table)
    face = convert_to_bgr(np.asarray(mean_face, dtype=np.float64))
    maps = {
        key: upsample_maps(_read_mean_map(table, *pair), face.shape[:2]).clip(0, 1) for key, pair in MAP_KEYS.items()
    }
    content = {
        FIG2A: {FACE: face} | {SPELLINGS_2A.get(key, key): colour_map(values) for key, values in maps.items()},
        FIG2B: {key: values.ravel() for key, values in maps.items()},
        FIG2C: {FACE: face} | {key: maps[key] for key in JOINT_KEYS},
        FIG2D: {
            name: {
                model: {
                    "heatmap": np.nan_to_num(np.asarray(values, dtype=np.float64)),
                    "img": convert_to_bgr(example.image),
                }
                for model, values in zip(MODELS, (example.joint, example.single), strict=True)
            }
            for name, example in examples.items()
        },
    }
    return {file: check_heatmap_results(file, arrays) for file, arrays in content.items()}


def _read_mean_map(table: pd.DataFrame, network: Network, task: Task) -> Floats:
    """The mean scaled map (h, w) of the study's first seed; zeros where it is blank."""
    seed = _select_first_seed(table)
    cells = table[
        (table["trained_on"] == network)
        & (table["tested_on"] == task)
        & (table["seed"] == seed)
        & (table["scale"] == "scaled")
        & (table["expression"] == "all")
    ]
    rows, columns = (int(cells[name].max()) + 1 if len(cells) else 0 for name in ("row", "column"))
    if not rows * columns == len(cells) == len(cells[["row", "column"]].drop_duplicates()) > 0:
        raise StudyError(
            f"table 'heatmaps', {network.value} network on {task.value}, seed {seed}: the mean scaled map needs every "
            f"cell of {rows} x {columns}, each once; the table has {len(cells)} rows of it. Make the heatmaps again."
        )
    return np.nan_to_num(cells.sort_values(["row", "column"])["mean"].to_numpy(np.float64).reshape(rows, columns))


def convert_to_bgr(image: np.ndarray) -> np.ndarray:
    """An image (H, W) grey or (H, W, 3) RGB as (H, W, 3) in the order blue, green, red."""
    colour = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return np.ascontiguousarray(colour[..., ::-1])


def colour_map(values: np.ndarray) -> Floats:
    """A map (H, W) in [0, 1] in JET, (H, W, 3) BGR: from dark blue to dark red, 0 to 255 times `INTENSITY`."""
    distance = np.abs(4 * values[..., None] - np.array([1, 2, 3]))  # from the value at which each colour is strongest
    return INTENSITY * 255 * np.clip(1.5 - distance, 0, 1)


def check_heatmap_results(file: str, content: Any) -> dict[str, Any]:
    """`content` of the heatmap file `file`; `StudyError` if a key, shape or value is wrong."""
    checks = {FIG2A: _check_pictures, FIG2B: _check_pixels, FIG2C: _check_maps, FIG2D: _check_examples}
    if file not in checks:
        raise StudyError(f"{file}: not one of the published heatmap files; {suggest_spelling(file, HEATMAP_FILES)}")
    checks[file](file, content)
    return dict(content)


def _check_pictures(file: str, content: Any) -> None:
    keys = (FACE, *(SPELLINGS_2A.get(key, key) for key in MAP_KEYS))
    _check_keys(file, content, keys, values="arrays")
    _check_sizes(file, {key: _check_image(f"{file}, key {key!r}", content[key]) for key in keys})


def _check_pixels(file: str, content: Any) -> None:
    _check_keys(file, content, tuple(MAP_KEYS), values="arrays")
    for key in MAP_KEYS:
        _check_array(f"{file}, key {key!r}", content[key], ("n",), high=1)


def _check_maps(file: str, content: Any) -> None:
    _check_keys(file, content, (FACE, *JOINT_KEYS), values="arrays")
    maps = {key: _check_array(f"{file}, key {key!r}", content[key], ("H", "W"), high=1) for key in JOINT_KEYS}
    _check_sizes(file, {FACE: _check_image(f"{file}, key {FACE!r}", content[FACE])} | maps)


def _check_examples(file: str, content: Any) -> None:
    _check_keys(file, content, content if isinstance(content, dict) else (), values="images")
    if not content:
        raise StudyError(f"{file}: holds no image; at least 1 is needed.")
    for name, models in content.items():
        _check_keys(f"{file}, image {name!r}", models, MODELS, values="networks")
        for model in MODELS:
            label = f"{file}, image {name!r}, key {model!r}"
            _check_keys(label, models[model], ("heatmap", "img"), values="arrays")
            _check_array(f"{label}, 'heatmap'", models[model]["heatmap"], ("h", "w"), high=1)
            _check_image(f"{label}, 'img'", models[model]["img"])


def _check_image(label: str, values: Any) -> np.ndarray:
    return _check_array(label, values, ("H", "W", 3), high=255)


def _check_array(label: str, values: Any, shape: tuple[str | int, ...], *, high: int | None) -> np.ndarray:
    """`values`, if it is a numeric array of `shape`, whose names stand for any size, and within [0, `high`].

    If `high` is None, values have no bounds and may be NaN: without a rectifier, units respond below 0.
    """
    expected = f"an array ({', '.join(map(str, shape))}{',' * (len(shape) == 1)}) of numbers"
    if not isinstance(values, np.ndarray):
        raise StudyError(f"{label}: expected {expected}, got {type(values).__name__}.")
    fits = len(values.shape) == len(shape) and all(
        got == size for got, size in zip(values.shape, shape, strict=True) if isinstance(size, int)
    )
    if not fits or not values.size or values.dtype.kind not in "iuf":
        raise StudyError(f"{label}: expected {expected}, got {values.dtype} of shape {values.shape}.")
    if high is None:
        wrong, allowed = values[np.isinf(values)], "finite numbers and NaN"
    else:
        wrong, allowed = values[~((values >= 0) & (values <= high))], f"numbers in [0, {high}]"  # NaN is outside
    if wrong.size:
        raise StudyError(f"{label}: got {wrong[0].item()!r}, allowed: {allowed}.")
    return values


def _check_sizes(file: str, arrays: Mapping[str, np.ndarray]) -> None:
    for key, values in arrays.items():
        if values.shape[:2] != arrays[FACE].shape[:2]:
            raise StudyError(
                f"{file}, key {key!r}: its size is {values.shape[:2]}, that of {FACE!r} is {arrays[FACE].shape[:2]}."
            )


def export_preferred(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The three published files' content about preferred stimuli, checked: file name -> key -> list.

    Of a PREFERRED table, the responses to optimised pictures are used: ``activations`` has one float64 array (units,)
    per layer of ``layer_names``, the shallowest first. Raises `StudyError` if a network or a unit is missing.
    """
    table = PREFERRED.check(table)
    optimised = table[(table["seed"] == _select_first_seed(table)) & (table["kind"] == "optimised")]
    content = {
        file: _list_responses(optimised[optimised["trained_on"] == network], network)
        for network, file in PREFERRED_FILES.items()
    }
    return {file: check_preferred_results(file, lists) for file, lists in content.items()}


def _list_responses(rows: pd.DataFrame, network: Network) -> dict[str, Any]:
    layers = []
    for layer, units in rows.groupby("layer", sort=False):
        ordered = units.sort_values("unit")
        if ordered["unit"].tolist() != list(range(len(ordered))):
            raise StudyError(
                f"table 'preferred', {network.value} network, layer {layer!r}: needs units 0, 1, ... without a gap, "
                f"each once; the table has {len(ordered)} rows of them. Make the preferred stimuli again."
            )
        layers.append((int(ordered["depth"].iloc[0]), str(layer), ordered["response"].to_numpy(np.float64)))
    if not layers:
        raise StudyError(
            f"table 'preferred' has no optimised picture of the {network.value} network. Make the preferred stimuli "
            "again."
        )
    layers.sort(key=lambda layer: layer[0])  # stable: branches of equal depth keep their order
    return {LAYERS: [name for _, name, _ in layers], RESPONSES: [responses for *_, responses in layers]}


def check_preferred_results(file: str, content: Any) -> dict[str, Any]:
    """`content` of the file `file` about preferred stimuli; `StudyError` if a key, shape or value is wrong."""
    files = PREFERRED_FILES.values()
    if file not in files:
        raise StudyError(f"{file}: not one of the published files; {suggest_spelling(file, files)}")
    _check_keys(file, content, PREFERRED_KEYS, values="lists")
    names, arrays = (content[key] for key in PREFERRED_KEYS)
    for key in PREFERRED_KEYS:
        if not isinstance(content[key], list) or not content[key]:
            got = "an empty list" if isinstance(content[key], list) else type(content[key]).__name__
            raise StudyError(f"{file}, key {key!r}: expected a list with one entry per layer, got {got}.")
    for position, name in enumerate(names):
        if not isinstance(name, str) or name in names[:position]:
            raise StudyError(f"{file}, key {LAYERS!r}, position {position}: got {name!r}, allowed: a name of its own.")
    if len(arrays) != len(names):
        raise StudyError(f"{file}, key {RESPONSES!r}: {len(arrays)} arrays for {len(names)} layers.")
    for name, array in zip(names, arrays, strict=True):
        _check_array(f"{file}, layer {name!r}", array, ("units",), high=None)
    return dict(content)


def read_results(directory: Path) -> dict[str, Results]:
    """The published accuracy files in `directory`, read safely and checked; absent ones are left out."""
    return _read_files(directory, dict.fromkeys(bar.file for bar in read_published_bars()), check_results)


def read_heatmap_results(directory: Path) -> dict[str, dict[str, Any]]:
    """The published heatmap files in `directory`, read safely and checked; absent ones are left out."""
    return _read_files(directory, HEATMAP_FILES, check_heatmap_results)


def read_preferred_results(directory: Path) -> dict[str, dict[str, Any]]:
    """The published files about preferred stimuli in `directory`, read safely and checked; absent ones are left out."""
    return _read_files(directory, PREFERRED_FILES.values(), check_preferred_results)


def _read_files(directory: Path, files: Iterable[str], check: Callable[[str, Any], Content]) -> dict[str, Content]:
    contents = {}
    for name in files:
        if (directory / name).is_file():
            content = read_pickle(directory / name)
            try:
                contents[name] = check(name, content)
            except StudyError as error:
                raise StudyError(f"{directory}: {error}") from None
    return contents
