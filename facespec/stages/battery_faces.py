"""Which faces are manipulated, and how does a laboratory get the pictures? A FaceSet, PNG files and a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.embedded import production
from facespec.data.embedded.battery import BatteryFaces, choose_norms, iterate_battery
from facespec.data.embedded.cues import draw_donors, find_rows
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.splits import draw_balanced_subset
from facespec.figures.battery import draw_battery_sheet
from facespec.figures.style import save_png
from facespec.stages.progress import progress_bar
from facespec.stages.truths import redraw_nuisances
from facespec.study.directories import atomic_directory
from facespec.study.errors import StudyError
from facespec.study.params import Battery, Data
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, Expression, Role, View

TABLE = "battery.csv"
SHARD = 2048  # images per file


def export(block: Battery, data: Data, *, to: Path, workers: int) -> int:
    """Write the battery's pictures to the directory `to`, whole or not at all, and return their number.

    ``faces/`` is a FaceSet, ``pictures/`` holds a PNG file each, ``battery.csv`` says what each shows, and
    ``sheet.png`` shows one face in all conditions. Raises `StudyError` where the probe faces are real ones.
    """
    if data.probe.source != "embedded":
        raise StudyError(
            f"the battery manipulates embedded faces, and the probe faces come from {data.probe.source!r}. "
            "Set data.probe.source to embedded in params.yaml, or make another study with `facespec init`."
        )
    battery = draw_battery(draw_role(Role.PROBE, data, generator(data.seed, "faces", Role.PROBE.value)), block, data)
    table = pd.concat([battery.manipulated, battery.single_units], ignore_index=True)
    table["file"] = [f"pictures/{re.sub(r'[^A-Za-z0-9_-]+', '_', name)}.png" for name in table["stimulus"]]
    with atomic_directory(to, marks=(TABLE,)) as directory:
        faces = write_battery(battery, directory / "faces", data=data, workers=workers)
        (directory / "pictures").mkdir()
        for row, file in enumerate(table["file"]):
            Image.fromarray(faces.images(np.array([row]))[0]).save(directory / file)
        write_table(directory / TABLE, table)
        save_png(draw_battery_sheet(choose_examples(battery, faces), faces.source), directory / "sheet.png")
    return len(table)


def draw_battery(stimuli: Stimuli, block: Battery, data: Data) -> BatteryFaces:
    """The parameters of the battery of the probe faces `stimuli`: new pictures of the same people, from the front."""
    labels = stimuli.labels
    fresh = redraw_nuisances(stimuli, data, generator(block.seed, "battery", "redraw"))
    frontal = np.flatnonzero(labels["view"] == View.STRAIGHT.value)
    per_person = min(block.images, int(labels["identity"].iloc[frontal].value_counts().min()))
    drawn = draw_balanced_subset(
        labels.iloc[frontal], "identity", per_person, generator(block.seed, "battery", "images")
    )
    rows = frontal[drawn]
    donors = draw_donors(labels["identity"].iloc[rows], labels["identity"], generator(block.seed, "battery", "donors"))
    step = generator(block.seed, "battery", "expressions").integers(1, len(EXPRESSIONS), len(rows))
    neutral = (labels["expression"] == Expression.NEUTRAL.value) & (labels["session"] == SESSIONS[0])
    shown = fresh.take(rows)
    return BatteryFaces(
        shown,
        fresh.take(find_rows(labels, rows, donors, other_session=False)),
        [EXPRESSIONS[code].value for code in (shown.codes + step) % len(EXPRESSIONS)],
        choose_norms(shown, fresh),
        fresh.take(frontal[neutral.to_numpy()[frontal]]),
        block,
    )


@contextmanager
def keep_battery(battery: BatteryFaces, *, data: Data, workers: int) -> Iterator[FaceSet]:
    """Inside the context, the battery's pictures are on disk; they are temporary, as they can be drawn again."""
    with TemporaryDirectory() as directory:
        yield write_battery(battery, Path(directory) / "faces", data=data, workers=workers)


def write_battery(battery: BatteryFaces, directory: Path, *, data: Data, workers: int) -> FaceSet:
    """The pictures of `battery.manipulated`, then those of `battery.single_units`, as a FaceSet."""
    chunks = iterate_battery(battery, size=data.size, channels=data.channels, workers=workers)
    n = len(battery.manipulated) + len(battery.single_units)
    description = FaceSetDescription(Role.PROBE.value, SHARD, None, {"source": production.SOURCE})
    with progress_bar() as bar:
        bar_task = bar.add_task("manipulated faces", total=n, numbers="")

        def iterate_reported() -> Iterator[FaceChunk]:
            for chunk in chunks:
                yield chunk
                bar.advance(bar_task, len(chunk.labels))

        return write_faceset(directory, iterate_reported(), description)


def choose_examples(battery: BatteryFaces, faces: FaceSet) -> dict[str, np.ndarray]:
    """One face in every condition, the first that shows happiness, else the first: condition -> picture.

    Chosen from the labels, before any network has seen the pictures. Single units are named ``"unit 12"``.
    """
    manipulated, singles = battery.manipulated, battery.single_units
    happy = manipulated.index[manipulated["expression"] == Expression.HAPPY.value]
    image = manipulated["image"].iloc[happy[0] if len(happy) else 0]
    rows = manipulated.index[manipulated["image"] == image]
    units = singles.index[singles["image"] == singles["image"].iloc[0]]
    names = [*manipulated["condition"].loc[rows], *(f"unit {unit}" for unit in singles["unit"].loc[units])]
    return dict(zip(names, faces.images(np.concatenate([rows, len(manipulated) + units])), strict=True))
