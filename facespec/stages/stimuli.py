"""The faces that drive one unit most, as a folder for the laboratory: pictures, what the unit sees of them, a table.

::

    01-<stimulus>.png       the face as it is stored, the strongest first
    01-<stimulus>-crop.png  the part of it that drives the unit: its receptive field there, not resampled
    stimuli.csv             `STIMULI`, one row per face
    facespec-stimuli.json   what was asked, of which weights and which faces
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from facespec.data.batches import Preset, iterate_batches
from facespec.data.directories import atomic_directory
from facespec.data.faceset import FaceSet
from facespec.models import checkpoints
from facespec.models.device import deterministic_torch, pick_device
from facespec.models.layers import find_rectifier
from facespec.models.receptive import Window, compute_receptive_field
from facespec.responses.strongest import find_strongest_images, locate_window
from facespec.stages.network_files import load_network
from facespec.stages.progress import progress_bar
from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.schema import Column, Schema
from facespec.study.storage import digest_path, write_json, write_table
from facespec.study.tables import LABELS
from facespec.study.vocabulary import NETWORKS, ROLES

BATCH = 64  # of VGG16 at 224 px, 64 images have 3.5 GB of responses in all layers
MARK, TABLE = "facespec-stimuli.json", "stimuli.csv"
LONGEST = 80  # letters of a stimulus in a file name; file systems take 255 bytes

# One face per row, the strongest first. `response`: the maximum of the unit's map, in cell (`row`, `column`) of it.
# What that cell sees of the stored face begins at pixel (`top`, `left`) and ends before (`bottom`, `right`).
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
    replaced. Raises `StudyError` for a network, seed, role, layer or unit that is not there, more faces than there are,
    and a directory that holds anything else.
    """
    checkpoint, faces = _opened(paths, params, choice)
    _refuse_strangers(to)
    with atomic_directory(to, marks=(MARK,)) as directory:
        table = _ranked(checkpoint, faces, choice, device=device)
        pictures = faces.images(table.pop("image").to_numpy())
        for picture, row in zip(pictures, table.to_dict("records"), strict=True):
            window = Window(*(row[end] for end in Window._fields))
            Image.fromarray(picture).save(directory / row["file"])
            Image.fromarray(picture[window.slices]).save(directory / row["crop"])
        write_table(directory / TABLE, STIMULI.check(table))
        weights = checkpoints.digest_tensors(checkpoint.network.state_dict())
        about = {"source": faces.source, "content": faces.provenance.get("content"), "weights": weights}
        write_json(directory / MARK, asdict(choice) | about)


def _opened(paths: Paths, params: Params, choice: Choice) -> tuple[checkpoints.Checkpoint, FaceSet]:
    """The network and the faces, both known to have what is asked of them."""
    for name, known in (("network", NETWORKS), ("role", ROLES)):
        word = getattr(choice, name)
        if word not in known:
            raise StudyError(f"unknown {name} {str(word)!r}: {suggest_spelling(word, map(str, known))}")
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


def _refuse_strangers(to: Path) -> None:
    """Whoever added notes or pictures to an earlier set of stimuli wants to keep them."""
    if (to / MARK).is_file():
        try:
            earlier = STIMULI.read(to / TABLE)
        except StudyError as error:
            raise StudyError(
                f"{to}: which files belong to the set of stimuli in it is not known, and nothing is deleted. Move it "
                f"away, or choose another directory. ({error})"
            ) from None
        own = {MARK, TABLE, digest_path(to / TABLE).name, ".DS_Store", *earlier["file"], *earlier["crop"]}
        for path in sorted(to.iterdir()):
            if path.name not in own:
                raise StudyError(
                    f"{path}: not part of a set of stimuli, and it is not deleted. Move it away, or "
                    "choose another directory."
                )


def _ranked(checkpoint: checkpoints.Checkpoint, faces: FaceSet, choice: Choice, *, device: str) -> pd.DataFrame:
    """The STIMULI rows, and in column `image` the faces' indices."""
    preset, read = Preset(**checkpoint.preset), find_rectifier(checkpoint.network, choice.layer)
    with deterministic_torch(), progress_bar() as bar:
        shown = bar.add_task("faces", numbers="")
        seen = iterate_batches(faces, np.arange(len(faces)), batch_size=BATCH, preset=preset, generator=None)
        tracked = bar.track(seen, total=math.ceil(len(faces) / BATCH), task_id=shown)
        found = find_strongest_images(checkpoint.network, tracked, [read], k=choice.n, device=pick_device(device))[read]
    assert found.row is not None and found.column is not None  # responses are maxima
    if found.response[choice.unit, 0] == 0:
        raise StudyError(
            f"unit {choice.unit} of {choice.layer} answers 0 to all {len(faces)} faces of the "
            f"{faces.role} role: none drives it. Choose another unit."
        )
    driving = int((found.response[choice.unit] > 0).sum())
    if driving < choice.n:
        raise StudyError(
            f"only {driving} of {len(faces)} faces of the {faces.role} role drive unit {choice.unit} of "
            f"{choice.layer}; n is {choice.n}. Take 1 to {driving}."
        )
    image, row, column = (own[choice.unit] for own in (found.image, found.row, found.column))
    field = compute_receptive_field(checkpoint.network, read)
    windows = [field.window(*cell, (preset.size, preset.size)) for cell in zip(row, column, strict=True)]
    stored = [locate_window(window, preset, (faces.height, faces.width)) for window in windows]
    table = faces.labels.iloc[image].drop(columns="split").reset_index(drop=True)
    table = table.assign(
        rank=range(1, choice.n + 1),
        image=image,
        response=found.response[choice.unit],
        row=row,
        column=column,
        **pd.DataFrame(stored),
    )
    return _named(table).assign(
        trained_on=choice.network,
        seed=choice.seed,
        layer=choice.layer,
        unit=choice.unit,
        role=choice.role,
        source=faces.source,
    )


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With names that any file system takes and that sort by rank; which stimulus it is, the table says exactly."""
    digits = max(2, len(str(len(table))))
    safe = table["stimulus"].str.replace("[^A-Za-z0-9_-]+", "_", regex=True).str.slice(stop=LONGEST)
    names = table["rank"].astype(str).str.zfill(digits) + "-" + safe
    return table.assign(file=names + ".png", crop=names + "-crop.png")
