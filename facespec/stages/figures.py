"""Draw Figures 1, S1, 2, 3 and S2: this study's results, the published ones beside them where there are any."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from facespec.data.faceset import FaceSet
from facespec.figures.accuracy import overview, side_by_side
from facespec.figures.bars import TITLES, accuracy_panel, reference_panel
from facespec.figures.boxes import figure_2B
from facespec.figures.contrasts import figure_contrasts
from facespec.figures.depth import figure_depth
from facespec.figures.driven import figure_S2B
from facespec.figures.groundtruth import figure_groundtruth
from facespec.figures.heatmaps import figure_2, figure_2A, figure_2C, figure_2D
from facespec.figures.lesion_classes import figure_lesion_classes
from facespec.figures.lesions import figure_lesions
from facespec.figures.preferred import UnitLayer, figure_3, unit_layers, unit_page
from facespec.figures.regions import figure_regions
from facespec.figures.style import save, save_pages
from facespec.published.export_pages import PAGES
from facespec.published.reference import reference_accuracy, reference_heatmaps
from facespec.stages.accuracies import read_accuracies
from facespec.stages.faces_explained import examples
from facespec.study.maps import MapSet
from facespec.study.paths import Paths
from facespec.study.preferred import PreferredSet
from facespec.study.tables import (
    CONTRASTS,
    GROUNDTRUTH,
    HEATMAPS,
    LAYER_DECODING,
    OVERLAP,
    PREFERRED,
    REGIONS,
    SIMILARITY,
    UNIT_CLASSES,
    UNIT_SHARES,
    UNITS,
)
from facespec.study.tables_lesions import LESION_CLASSES, LESIONS, SEGREGATION
from facespec.study.vocabulary import Network, Role


def run(paths: Paths) -> None:
    """Write to ``Results/figures``, each as PDF and PNG:

    ``figure_{1B,1C,S1A,S1B}`` and their overview ``figure_1``; ``figure_{2A,2B,2C,2D}`` and their overview
    ``figure_2``; ``figure_{3,S2B}``; beyond the original,
    ``figure_{contrasts,regions,groundtruth,depth,lesions,lesion_classes}``.
    Figure S2 has a page per convolution and goes to ``Results``, a PDF per network under its published name.
    """
    # all are drawn before the first is written
    preferred = PREFERRED.read(paths.table("preferred"))
    layers = _layers(paths, preferred)
    figures = [
        *_accuracies(read_accuracies(paths)),
        *_heatmaps(paths),
        *_beyond(paths),
        ("3", figure_3(layers[Network.JOINT])),
        ("S2B", figure_S2B(preferred)),
    ]
    pages = {network: [unit_page(layer) for layer in own] for network, own in layers.items()}
    for name, drawn in figures:
        save(drawn, paths.figure(f"figure_{name}", "png").with_suffix(""))
    for network, of_layers in pages.items():
        save_pages(of_layers, paths.results / PAGES[network])


def _layers(paths: Paths, preferred: pd.DataFrame) -> dict[Network, list[UnitLayer]]:
    pictures = PreferredSet.open(paths.preferred)
    classes, units = UNIT_CLASSES.read(paths.table("depth_classes")), UNITS.read(paths.table("depth_units"))
    return {
        network: unit_layers(pictures, network, table=preferred, classes=classes, units=units) for network in Network
    }


def _accuracies(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    reproduced = {figure: accuracy_panel(table, figure) for figure in TITLES}
    for figure, panel in reproduced.items():
        published = reference_panel(reference_accuracy(), figure)
        yield figure, side_by_side({"published": published, "reproduced": panel})
    yield "1", overview(list(reproduced.values()))


def _heatmaps(paths: Paths) -> Iterator[tuple[str, Figure]]:
    table, overlap = HEATMAPS.read(paths.table("heatmaps")), OVERLAP.read(paths.table("overlap"))
    maps, reference = MapSet.open(paths.heatmaps), reference_heatmaps()
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    face, shown = maps.mean_face, examples(maps, faces, named="expression")
    yield "2A", figure_2A(table, face)
    yield "2B", figure_2B(overlap, reference)
    yield "2C", figure_2C(table, overlap, reference=reference, face=face)
    yield "2D", figure_2D(shown, maps.source, seed=maps.seeds[0])
    yield "2", figure_2(table, overlap, reference=reference, face=face, examples=shown)


def _beyond(paths: Paths) -> Iterator[tuple[str, Figure]]:
    yield "contrasts", figure_contrasts(CONTRASTS.read(paths.table("contrasts")), MapSet.open(paths.heatmaps).mean_face)
    yield "regions", figure_regions(REGIONS.read(paths.table("regions")))
    yield "groundtruth", figure_groundtruth(GROUNDTRUTH.read(paths.table("groundtruth")))
    yield (
        "depth",
        figure_depth(
            decoding=LAYER_DECODING.read(paths.table("depth_decoding")),
            shares=UNIT_SHARES.read(paths.table("depth_shares")),
            units=UNITS.read(paths.table("depth_units")),
            similarity=SIMILARITY.read(paths.table("similarity")),
        ),
    )
    lesions, segregation = LESIONS.read(paths.table("lesions")), SEGREGATION.read(paths.table("segregation"))
    yield "lesions", figure_lesions(lesions, segregation)
    yield "lesion_classes", figure_lesion_classes(LESION_CLASSES.read(paths.table("lesion_classes")), lesions)
