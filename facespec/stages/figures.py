"""Draw Figures 1, S1, 2, 3 and S2: this study's results, the published ones beside them where there are any."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from facespec.data.faceset import FaceSet
from facespec.figures.accuracy import draw_figure_1, draw_panels
from facespec.figures.bars import TITLES, make_accuracy_panel, make_reference_panel
from facespec.figures.boxes import draw_figure_2B
from facespec.figures.contrasts import draw_figure_contrasts
from facespec.figures.depth import draw_figure_depth
from facespec.figures.driven import draw_figure_S2B
from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.heatmaps import draw_figure_2, draw_figure_2A, draw_figure_2C, draw_figure_2D
from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.preferred import UnitLayer, collect_unit_layers, draw_figure_3, draw_unit_page
from facespec.figures.regions import draw_figure_regions
from facespec.figures.style import save_figure, save_pages
from facespec.published.export_pages import PAGES
from facespec.published.reference import read_reference_accuracy, read_reference_heatmaps
from facespec.stages.accuracies import read_accuracies
from facespec.stages.faces_explained import make_examples
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
        ("3", draw_figure_3(layers[Network.JOINT])),
        ("S2B", draw_figure_S2B(preferred)),
    ]
    pages = {network: [draw_unit_page(layer) for layer in own] for network, own in layers.items()}
    for name, drawn in figures:
        save_figure(drawn, paths.figure(f"figure_{name}", "png").with_suffix(""))
    for network, of_layers in pages.items():
        save_pages(of_layers, paths.results / PAGES[network])


def _layers(paths: Paths, preferred: pd.DataFrame) -> dict[Network, list[UnitLayer]]:
    pictures = PreferredSet.open(paths.preferred)
    classes, units = UNIT_CLASSES.read(paths.table("depth_classes")), UNITS.read(paths.table("depth_units"))
    return {
        network: collect_unit_layers(pictures, network, table=preferred, classes=classes, units=units)
        for network in Network
    }


def _accuracies(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    reproduced = {figure: make_accuracy_panel(table, figure) for figure in TITLES}
    for figure, panel in reproduced.items():
        published = make_reference_panel(read_reference_accuracy(), figure)
        yield figure, draw_panels({"published": published, "reproduced": panel})
    yield "1", draw_figure_1(list(reproduced.values()))


def _heatmaps(paths: Paths) -> Iterator[tuple[str, Figure]]:
    table, overlap = HEATMAPS.read(paths.table("heatmaps")), OVERLAP.read(paths.table("overlap"))
    maps, reference = MapSet.open(paths.heatmaps), read_reference_heatmaps()
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    face, shown = maps.mean_face, make_examples(maps, faces, named="expression")
    yield "2A", draw_figure_2A(table, face)
    yield "2B", draw_figure_2B(overlap, reference)
    yield "2C", draw_figure_2C(table, overlap, reference=reference, face=face)
    yield "2D", draw_figure_2D(shown, maps.source, seed=maps.seeds[0])
    yield "2", draw_figure_2(table, overlap, reference=reference, face=face, examples=shown)


def _beyond(paths: Paths) -> Iterator[tuple[str, Figure]]:
    yield (
        "contrasts",
        draw_figure_contrasts(CONTRASTS.read(paths.table("contrasts")), MapSet.open(paths.heatmaps).mean_face),
    )
    yield "regions", draw_figure_regions(REGIONS.read(paths.table("regions")))
    yield "groundtruth", draw_figure_groundtruth(GROUNDTRUTH.read(paths.table("groundtruth")))
    yield (
        "depth",
        draw_figure_depth(
            decoding=LAYER_DECODING.read(paths.table("depth_decoding")),
            shares=UNIT_SHARES.read(paths.table("depth_shares")),
            units=UNITS.read(paths.table("depth_units")),
            similarity=SIMILARITY.read(paths.table("similarity")),
        ),
    )
    lesions, segregation = LESIONS.read(paths.table("lesions")), SEGREGATION.read(paths.table("segregation"))
    yield "lesions", draw_figure_lesions(lesions, segregation)
    yield "lesion_classes", draw_figure_lesion_classes(LESION_CLASSES.read(paths.table("lesion_classes")), lesions)
