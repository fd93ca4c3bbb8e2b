"""Probe faces drawn again with one cue of another person or scene: a set of faces beside the study's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from facespec.data.embedded import production
from facespec.data.embedded.cues import SCENE_CUES, SESSION, draw_donors, find_rows, swap_cue
from facespec.data.embedded.roles import draw_role
from facespec.data.embedded.stimuli import Stimuli
from facespec.data.faceset import FaceSet, write_faceset
from facespec.stages.progress import progress_bar
from facespec.study.params import Data
from facespec.study.seeds import generator
from facespec.study.vocabulary import Role

SAMPLES = 8  # unchanged faces that are rendered again and must equal the stored ones


@dataclass(frozen=True, eq=False)
class SwappedFaces:
    """The n probe images at `rows`, and the same with swapped cues, `faces`: n images for each of `cues` in turn.

    `donors` (n,) names who donates the cues of each image. `faces` is None, and nobody donates, where the images cannot
    be drawn again; `reason` says why.
    """

    rows: np.ndarray
    cues: tuple[str, ...]
    donors: npt.NDArray[np.str_]
    faces: FaceSet | None
    reason: str


@contextmanager
def swap_cues(
    faces: FaceSet, rows: np.ndarray, cues: Sequence[str], *, block: Data, stream: np.random.Generator, workers: int
) -> Iterator[SwappedFaces]:
    """Draw the probe faces at `rows` again with each of `cues` swapped; inside the context they are on disk.

    The files are temporary: what they show can be drawn again. Donors are drawn from `stream`.
    """
    stimuli = draw_role(Role.PROBE, block, generator(block.seed, "faces", Role.PROBE.value))
    if reason := explain_no_redrawing(faces, rows, stimuli, block):
        yield SwappedFaces(rows, tuple(cues), np.full(len(rows), ""), None, reason)
        return
    donors = draw_donors(faces.labels["identity"].iloc[rows], faces.labels["identity"], stream)
    swapped = make_swapped_stimuli(stimuli, rows, donors, cues)
    with TemporaryDirectory() as directory:
        with progress_bar() as bar:
            bar_task = bar.add_task("faces drawn again", total=len(swapped), numbers="")
            drawn = production.import_embedded(
                swapped,
                size=faces.height,
                channels=faces.channels,
                workers=workers,
                report=lambda done, _: bar.update(bar_task, completed=done),
            )
            redrawn = write_faceset(Path(directory) / "faces", drawn.chunks, drawn.description)
        yield SwappedFaces(rows, tuple(cues), donors, redrawn, "")


def explain_no_redrawing(faces: FaceSet, rows: np.ndarray, stimuli: Stimuli, block: Data) -> str:
    """Why the images at `rows` cannot be drawn again from `stimuli`; empty if they can."""
    if faces.source != production.SOURCE:
        return f"only embedded faces can be drawn again with one thing changed; these are {faces.source}"
    reason = "the probe faces were made from other parameters than data in params.yaml, or by another renderer"
    if (faces.height, faces.channels) != (block.size, block.channels) or not stimuli.labels.equals(faces.labels):
        return reason
    sample = rows[np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(int)]
    pictures, _ = production.render(stimuli, sample, size=faces.height, channels=faces.channels)
    return "" if np.array_equal(pictures, faces.images(sample)) else reason


def make_swapped_stimuli(stimuli: Stimuli, rows: np.ndarray, donors: np.ndarray, cues: Sequence[str]) -> Stimuli:
    """The stimuli at `rows` with the first of `cues` swapped, then with the second, ..., one set behind the other.

    Cues of the person come from the donor's picture of the same session, view and expression; those of the scene from
    the same in the other session, because two people of a session may share their light; `cues.SESSION` from the
    owner's own picture in the other session.
    """
    labels, originals = stimuli.labels, stimuli.take(rows)
    owners = labels["identity"].iloc[rows].to_numpy(str)
    sources = {
        "person": stimuli.take(find_rows(labels, rows, donors, other_session=False)),
        "scene": stimuli.take(find_rows(labels, rows, donors, other_session=True)),
        SESSION: stimuli.take(find_rows(labels, rows, owners, other_session=True)),
    }
    parts = [swap_cue(originals, cue, sources[find_kind(cue) if cue != SESSION else SESSION]) for cue in cues]
    names = [f"{cue} {name}" for cue in cues for name in originals.labels["stimulus"]]
    together = stimuli.take(np.tile(rows, len(cues)))
    return replace(
        together,
        labels=together.labels.assign(stimulus=names),
        people=np.concatenate([part.people for part in parts]),
        scene=np.concatenate([part.scene for part in parts]),
    )


def find_kind(cue: str) -> str:
    """``"scene"`` for a cue of the scene or of the other session, else ``"person"``."""
    return "scene" if cue in SCENE_CUES or cue == SESSION else "person"
