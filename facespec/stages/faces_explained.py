"""Which faces the heatmaps are of: rows of the set of faces, in the order of the maps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facespec.data.faceset import FaceSet
from facespec.published.export_heatmaps import Example, choose_examples
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, scale_maps
from facespec.study.vocabulary import Network, Task


def list_explained_rows(maps: MapSet, faces: FaceSet) -> np.ndarray:
    """Row in `faces` of every map, integer (n,), matched by the stimulus' name.

    Raises `StudyError` if a stimulus is not there, or source, size or labels differ: the faces have changed since.
    """
    rows = pd.Index(faces.labels["stimulus"]).get_indexer(pd.Index(maps.labels["stimulus"]))
    changed = (faces.labels.iloc[rows].reset_index(drop=True) != maps.labels).any(axis=1)
    if maps.source != faces.source:
        why = f"they are of {maps.source}, these faces are {faces.source}"
    elif maps.size != (faces.height, faces.width):
        why = f"they are of images of {maps.size} px, these have {(faces.height, faces.width)}"
    elif (rows < 0).any():
        why = f"stimulus {maps.labels['stimulus'][rows < 0].iloc[0]!r} is not among them"
    elif changed.any():
        why = f"stimulus {maps.labels['stimulus'][changed].iloc[0]!r} has other labels now"
    else:
        return rows
    raise StudyError(
        f"{maps.directory}: not the heatmaps of {faces.directory}: {why}. `dvc repro heatmaps` makes them."
    )


def make_examples(maps: MapSet, faces: FaceSet, *, named: str) -> dict[str, Example]:
    """The faces of Figure 2D with the scaled maps of the study's first seed, by what a column of the labels says."""
    rows = choose_examples(maps.labels)
    joint, single = (
        scale_maps(maps.maps(network, Task.EXPRESSION, maps.seeds[0])[rows])
        for network in (Network.JOINT, Network.EXPRESSION)
    )
    images = faces.images(list_explained_rows(maps, faces)[rows])
    names = maps.labels[named].iloc[rows]
    return {name: Example(*shown) for name, *shown in zip(names, images, joint, single, strict=True)}
