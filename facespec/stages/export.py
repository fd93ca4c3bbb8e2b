"""Can code that reads the original study's results read these? The same file names, keys and shapes."""

from __future__ import annotations

from facespec.data.faceset import FaceSet
from facespec.published.export import export_accuracy, export_heatmaps, export_preferred
from facespec.stages.accuracies import read_accuracies
from facespec.stages.heatmap_faces import make_examples
from facespec.study.maps import MapSet
from facespec.study.paths import Paths
from facespec.study.pickles import write_pickle
from facespec.study.tables import HEATMAPS, PREFERRED
from facespec.study.vocabulary import Role


def run(paths: Paths) -> None:
    """Write the eleven pickles of Figures 1, S1, 2 and S2B; all are checked before the first is written."""
    table, maps = HEATMAPS.read(paths.table("heatmaps")), MapSet.open(paths.heatmaps)
    examples = make_examples(maps, FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE), key="stimulus")
    files = export_accuracy(read_accuracies(paths)) | export_heatmaps(table, maps.mean_face, examples)
    files |= export_preferred(PREFERRED.read(paths.table("preferred")))
    for name, content in files.items():
        write_pickle(paths.results / name, content)
