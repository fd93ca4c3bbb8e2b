"""Which faces drive one unit most? A directory for the laboratory: pictures, crops to the unit's input, a table.

::

    01-<stimulus>.png       the face as it is stored, the strongest first
    01-<stimulus>-crop.png  the part of it that drives the unit: the receptive field of its strongest cell
    stimuli.csv             `STIMULI`, one row per face
    facespec-stimuli.json   the choice of unit, and digests of weights and faces
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from facespec.data.batches import iterate_batches
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.layers import find_rectifier
from facespec.models.networks import FaceNetwork
from facespec.models.receptive import NoReceptiveField, Window, compute_receptive_field
from facespec.responses.strongest import find_strongest_images, locate_window
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.directories import atomic_directory
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.schema import Column, Schema
from facespec.study.storage import digest_path, write_json, write_table
from facespec.study.tables import LABELS
from facespec.study.vocabulary import NETWORKS, ROLES

BATCH = 64  # of VGG16 at 224 px, 64 images have 3.5 GB of responses in all layers
MARK, TABLE = "facespec-stimuli.json", "stimuli.csv"
LONGEST = 80  # letters of a stimulus in a file name; file systems allow 255 bytes

# One face per row, the strongest first. `response`: the maximum of the unit's map, in cell (`row`, `column`) of it.
# The cell's receptive field in the stored face begins at pixel (`top`, `left`) and ends before (`bottom`, `right`).
STIMULI = Schema(
    "stimuli",
    {
        "rank": Column("integer", low=1),
        **{name: column for name, column in LABELS.columns.items() if name != "split"},
        "response": Column("number"),
        **{name: Column("integer", low=0) for name in ("row", "column", "top", "left", "bottom", "right")},
        "file": Column("text"),
        "crop": Column("text"),
        "trained_on": Column("text", tuple(NETWORKS)),
        "seed": Column("integer", low=0),
        "layer": Column("text"),
        "unit": Column("integer", low=0),
        "role": Column("text", tuple(ROLES)),
        "source": Column("text"),
    },
)


@dataclass(frozen=True)
class Choice:
    """Unit `unit` (from 0) of the convolution `layer` of a fine-tuned network, and `n` faces of one role."""

    network: str
    seed: int
    layer: str
    unit: int
    n: int
    role: str


def run(paths: Paths, params: Params, choice: Choice, *, to: Path, device: str) -> None:
    """Write the `choice.n` faces that drive the unit most to the directory `to`, whole or not at all.

    Responses are read behind the convolution's ReLU, of all faces of the role. An earlier set of stimuli in `to` is
    replaced. Raises `StudyError` for an unknown network, seed, role, layer or unit, more faces than there are, and a
    directory that holds anything else.
    """
    checkpoint, faces = _open_inputs(paths, params, choice)
    _check_directory(to)
    with atomic_directory(to, marks=(MARK,)) as directory:
        table = _rank_faces(checkpoint, faces, choice, device=device)
        pictures = faces.images(table.pop("image").to_numpy())
        for picture, row in zip(pictures, table.to_dict("records"), strict=True):
            window = Window(*(row[edge] for edge in Window._fields))
            Image.fromarray(picture).save(directory / row["file"])
            Image.fromarray(picture[window.slices]).save(directory / row["crop"])
        write_table(directory / TABLE, STIMULI.check(table))
        weights = checkpoints.digest_tensors(checkpoint.network.state_dict())
        inputs = {"source": faces.source, "content": faces.provenance.get("content"), "weights": weights}
        write_json(directory / MARK, asdict(choice) | inputs)


def _open_inputs(paths: Paths, params: Params, choice: Choice) -> tuple[checkpoints.Checkpoint, FaceSet]:
    """Open the network and the faces; refuse a choice of what they do not have."""
    for name, allowed in (("network", NETWORKS), ("role", ROLES)):
        value = getattr(choice, name)
        if value not in allowed:
            raise StudyError(f"unknown {name} {str(value)!r}: {suggest_spelling(value, map(str, allowed))}")
    if choice.seed not in params.seeds:
        raise StudyError(f"this study has no networks of seed {choice.seed}; its seeds are {list(params.seeds)}.")
    checkpoint = load_network(paths, "finetune", choice.network, choice.seed)
    find_rectifier(checkpoint.network, choice.layer)  # refuses what is not a convolution
    units = len(checkpoint.network.get_parameter(f"{choice.layer}.weight"))
    if not 0 <= choice.unit < units:
        raise StudyError(f"{choice.layer} has no unit {choice.unit}; its {units} units are 0 to {units - 1}.")
    faces = FaceSet.open(paths.faces(choice.role), role=choice.role)
    if not 1 <= choice.n <= len(faces):
        raise StudyError(f"n is {choice.n}; the {faces.role} role has {len(faces)} faces, so take 1 to {len(faces)}.")
    return checkpoint, faces


def _check_directory(to: Path) -> None:
    """Refuse an earlier set of stimuli that contains other files: whoever added them may want to keep them."""
    if not (to / MARK).is_file():
        return
    try:
        earlier = STIMULI.read(to / TABLE)
    except StudyError as error:
        raise StudyError(
            f"{to}: which files belong to the set of stimuli in it is not known, and nothing is deleted. Move it "
            f"away, or choose another directory. ({error})"
        ) from None
    expected = {MARK, TABLE, digest_path(to / TABLE).name, ".DS_Store", *earlier["file"], *earlier["crop"]}
    for path in sorted(to.iterdir()):
        if path.name not in expected:
            raise StudyError(
                f"{path}: not part of a set of stimuli, and it is not deleted. Move it away, or choose another "
                "directory."
            )


def _rank_faces(checkpoint: checkpoints.Checkpoint, faces: FaceSet, choice: Choice, *, device: str) -> pd.DataFrame:
    """The STIMULI rows, and the faces' indices in column `image`."""
    preset, layer = checkpoint.preset, find_rectifier(checkpoint.network, choice.layer)
    with deterministic_torch(), progress_bar() as bar:
        bar_task = bar.add_task("faces", numbers="")
        batches = bar.track(
            iterate_batches(faces, np.arange(len(faces)), batch_size=BATCH, preset=preset, generator=None),
            total=math.ceil(len(faces) / BATCH),
            task_id=bar_task,
        )
        strongest = find_strongest_images(checkpoint.network, batches, [layer], k=choice.n, device=pick_device(device))[
            layer
        ]
    assert strongest.row is not None and strongest.column is not None  # responses are maxima
    arrays = (strongest.response, strongest.image, strongest.row, strongest.column)
    response, image, row, column = (array[choice.unit] for array in arrays)
    _check_responses(response, faces, choice)
    cells = list(zip(row, column, strict=True))
    windows = _find_windows(checkpoint.network, layer, cells, preset.size)
    crops = pd.DataFrame([locate_window(window, preset, (faces.height, faces.width)) for window in windows])
    labels = faces.labels.iloc[image].drop(columns="split").reset_index(drop=True)
    ranks = range(1, choice.n + 1)
    table = labels.assign(rank=ranks, image=image, response=response, row=row, column=column, **crops)
    return _name_files(table).assign(
        trained_on=choice.network,
        seed=choice.seed,
        layer=choice.layer,
        unit=choice.unit,
        role=choice.role,
        source=faces.source,
    )


def _find_windows(network: FaceNetwork, layer: str, cells: list[tuple[int, int]], size: int) -> list[Window]:
    """The pixels that each cell of a layer's map depends on: the whole image where that is no window of fixed size."""
    try:
        field = compute_receptive_field(network, layer)
    except NoReceptiveField:
        return [Window(0, size, 0, size)] * len(cells)
    return [field.window(*cell, (size, size)) for cell in cells]


def _check_responses(response: np.ndarray, faces: FaceSet, choice: Choice) -> None:
    """Refuse a unit that fewer than `choice.n` faces drive."""
    driving = int((response > 0).sum())
    if not driving:
        raise StudyError(
            f"unit {choice.unit} of {choice.layer} responds 0 to all {len(faces)} faces of the "
            f"{faces.role} role: none drives it. Choose another unit."
        )
    if driving < choice.n:
        raise StudyError(
            f"only {driving} of {len(faces)} faces of the {faces.role} role drive unit {choice.unit} of "
            f"{choice.layer}; n is {choice.n}. Take 1 to {driving}."
        )


def _name_files(table: pd.DataFrame) -> pd.DataFrame:
    """Add file names that any file system allows and that sort by rank; column `stimulus` has the exact name."""
    digits = max(2, len(str(len(table))))
    safe = table["stimulus"].str.replace("[^A-Za-z0-9_-]+", "_", regex=True).str.slice(stop=LONGEST)
    names = table["rank"].astype(str).str.zfill(digits) + "-" + safe
    return table.assign(file=names + ".png", crop=names + "-crop.png")
