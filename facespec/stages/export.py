"""The tables and heatmaps under the original study's file names, keys and shapes: what reads its results reads ours."""

from __future__ import annotations

from facespec.data.faceset import FaceSet
from facespec.published.export import export_accuracy
from facespec.published.export_heatmaps import export_heatmaps
from facespec.published.export_preferred import export_preferred
from facespec.stages.accuracies import read_accuracies
from facespec.stages.faces_explained import make_examples
from facespec.study.maps import MapSet
from facespec.study.paths import Paths
from facespec.study.pickles import write_pickle
from facespec.study.tables import HEATMAPS, PREFERRED
from facespec.study.vocabulary import Role


def run(paths: Paths) -> None:
    """Write the eleven pickles of Figures 1, S1, 2 and S2B; all are checked before the first is written."""
    table, maps = HEATMAPS.read(paths.table("heatmaps")), MapSet.open(paths.heatmaps)
    shown = make_examples(maps, FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), named="stimulus")
    files = export_accuracy(read_accuracies(paths)) | export_heatmaps(table, maps.mean_face, shown)
    files |= export_preferred(PREFERRED.read(paths.table("preferred")))
    for file, content in files.items():
        write_pickle(paths.results / file, content)
