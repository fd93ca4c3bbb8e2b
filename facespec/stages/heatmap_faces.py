"""Which faces do the heatmaps belong to? Their rows in the set of faces, in the order of the maps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facespec.data.faceset import FaceSet
from facespec.study.errors import StudyError
from facespec.study.examples import Example, choose_examples
from facespec.study.maps import MapSet, scale_maps
from facespec.study.vocabulary import Network, Task


def list_explained_rows(maps: MapSet, faces: FaceSet) -> np.ndarray:
    """Return the row in `faces` of every map, integer (n,), matched by the name of the stimulus.

    Raises `StudyError` if a stimulus is missing, or source, size or labels differ: the faces have changed since.
    """
    rows = pd.Index(faces.labels["stimulus"]).get_indexer(pd.Index(maps.labels["stimulus"]))
    changed = (faces.labels.iloc[rows].reset_index(drop=True) != maps.labels).any(axis=1)
    if maps.source != faces.source:
        problem = f"they are of {maps.source}, these faces are {faces.source}"
    elif maps.size != (faces.height, faces.width):
        problem = f"they are of images of {maps.size} px, these have {(faces.height, faces.width)}"
    elif (rows < 0).any():
        problem = f"stimulus {maps.labels['stimulus'][rows < 0].iloc[0]!r} is not among them"
    elif changed.any():
        problem = f"stimulus {maps.labels['stimulus'][changed].iloc[0]!r} has other labels now"
    else:
        return rows
    raise StudyError(
        f"{maps.directory}: not the heatmaps of {faces.directory}: {problem}. `dvc repro heatmaps` makes them."
    )


def make_examples(maps: MapSet, faces: FaceSet, *, key: str) -> dict[str, Example]:
    """The faces of Figure 2D with their scaled maps of the study's first seed, by column `key` of the labels."""
    rows = choose_examples(maps.labels)
    networks = (Network.JOINT, Network.EXPRESSION, Network.UNTRAINED)
    scaled = [scale_maps(maps.maps(network, Task.EXPRESSION, maps.seeds[0])[rows]) for network in networks]
    images = faces.images(list_explained_rows(maps, faces)[rows])
    names = maps.labels[key].iloc[rows]
    return {name: Example(*example) for name, *example in zip(names, images, *scaled, strict=True)}
