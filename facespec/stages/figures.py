"""Which figures does a study give? Those of the original, beside the published results, and nine more."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from facespec.data.faceset import FaceSet
from facespec.figures.accuracy import draw_figure_1, draw_panels
from facespec.figures.bars import TITLES, make_accuracy_panel, make_reference_panel
from facespec.figures.battery import draw_figure_battery
from facespec.figures.boxes import draw_figure_2B
from facespec.figures.calibration import draw_figure_calibration
from facespec.figures.contrasts import draw_figure_contrasts
from facespec.figures.depth import draw_figure_depth
from facespec.figures.driven import draw_figure_S2B
from facespec.figures.geometry import draw_figure_geometry
from facespec.figures.groundtruth import draw_figure_groundtruth
from facespec.figures.heatmaps import draw_figure_2, draw_figure_2A, draw_figure_2C, draw_figure_2D
from facespec.figures.lesion_classes import draw_figure_lesion_classes
from facespec.figures.lesions import draw_figure_lesions
from facespec.figures.preferred import collect_unit_layers, draw_figure_3, draw_unit_page
from facespec.figures.recall import draw_figure_recall
from facespec.figures.regions import draw_figure_regions
from facespec.figures.style import save_figure, save_pages
from facespec.published.export import PAGES
from facespec.published.reference import read_reference_accuracy, read_reference_heatmaps
from facespec.stages.accuracies import read_accuracies
from facespec.stages.heatmap_faces import make_examples
from facespec.study.arrays import read_arrays
from facespec.study.maps import MapSet
from facespec.study.paths import Paths
from facespec.study.preferred import PreferredSet
from facespec.study.tables import (
    CONTRASTS,
    GROUNDTRUTH,
    GROUNDTRUTH_MAPS,
    GROUNDTRUTH_OVERLAP,
    HEATMAPS,
    LAYER_DECODING,
    OVERLAP,
    PREFERRED,
    RECALL,
    REGIONS,
    SIMILARITY,
    UNIT_CLASSES,
    UNIT_SHARES,
    UNITS,
)
from facespec.study.tables_battery import BATTERY_EFFECTS, BATTERY_UNITS
from facespec.study.tables_calibration import BASELINES, CONFUSIONS, CUE_SWAPS
from facespec.study.tables_geometry import GEOMETRY
from facespec.study.tables_lesions import DAMAGE_CURVES, LESION_CLASSES, LESIONS, SEGREGATION
from facespec.study.vocabulary import NETWORKS, Network, Role


def run(paths: Paths) -> None:
    """Write the figures that `figure_list.FIGURES` lists to ``Results/figures``, each as PDF and PNG.

    Figure S2 has a page per convolution and goes to ``Results``, a PDF per network under its published name.
    """
    # all are drawn before the first is written
    preferred = PREFERRED.read(paths.table("preferred"))
    stimuli, units = PreferredSet.open(paths.preferred), UNITS.read(paths.table("depth_units"))
    classes = UNIT_CLASSES.read(paths.table("depth_classes"))
    layers = {
        network: collect_unit_layers(stimuli, network, table=preferred, classes=classes, units=units)
        for network in Network
    }
    figures = {
        **dict(_draw_accuracies(read_accuracies(paths))),
        **dict(_draw_heatmaps(paths)),
        **dict(_draw_additions(paths, units)),
        "figure_3": draw_figure_3(layers[Network.JOINT], layers[Network.UNTRAINED]),
        "figure_S2B": draw_figure_S2B(preferred),
    }
    pages = {network: [draw_unit_page(layer) for layer in layers[network]] for network in NETWORKS}
    for stem, figure in figures.items():
        save_figure(figure, paths.figure(stem, "png").with_suffix(""))
    for network in NETWORKS:
        save_pages(pages[network], paths.results / PAGES[network])


def _draw_accuracies(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    reproduced = {figure: make_accuracy_panel(table, figure) for figure in TITLES}
    for figure, panel in reproduced.items():
        published = make_reference_panel(read_reference_accuracy(), figure)
        yield f"figure_{figure}", draw_panels({"published": published, "reproduced": panel})
    yield "figure_1", draw_figure_1(list(reproduced.values()))


def _draw_heatmaps(paths: Paths) -> Iterator[tuple[str, Figure]]:
    table, overlap = HEATMAPS.read(paths.table("heatmaps")), OVERLAP.read(paths.table("overlap"))
    maps, reference = MapSet.open(paths.heatmaps), read_reference_heatmaps()
    faces = FaceSet.open(paths.faces(Role.PROBE), role=Role.PROBE)
    face, examples = maps.mean_face, make_examples(maps, faces, key="expression")
    yield "figure_2A", draw_figure_2A(table, face)
    yield "figure_2B", draw_figure_2B(overlap, reference)
    yield "figure_2C", draw_figure_2C(table, overlap, reference=reference, face=face)
    yield "figure_2D", draw_figure_2D(examples, maps.source, seed=maps.seeds[0])
    yield "figure_2", draw_figure_2(table, overlap, reference=reference, face=face, examples=examples)
    yield "figure_contrasts", draw_figure_contrasts(CONTRASTS.read(paths.table("contrasts")), face)


def _draw_additions(paths: Paths, units: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """What the original does not show."""
    yield "figure_recall", draw_figure_recall(RECALL.read(paths.table("recall")))
    yield "figure_regions", draw_figure_regions(REGIONS.read(paths.table("regions")))
    truths = draw_figure_groundtruth(
        GROUNDTRUTH.read(paths.table("groundtruth")),
        GROUNDTRUTH_OVERLAP.read(paths.table("groundtruth_overlap")),
        GROUNDTRUTH_MAPS.read(paths.table("groundtruth_maps")),
        MapSet.open(paths.heatmaps).mean_face,
    )
    yield "figure_groundtruth", truths
    calibration = {"cues": CUE_SWAPS, "baselines": BASELINES, "confusions": CONFUSIONS}
    yield (
        "figure_calibration",
        draw_figure_calibration(*(schema.read(paths.table(f"calibration_{n}")) for n, schema in calibration.items())),
    )
    effects, units_alone = (schema.read(paths.table(schema.name)) for schema in (BATTERY_EFFECTS, BATTERY_UNITS))
    _, examples = read_arrays(paths.battery, remedy="Run the stage battery again.")
    yield "figure_battery", draw_figure_battery(effects, units_alone, examples)
    depth = draw_figure_depth(
        decoding=LAYER_DECODING.read(paths.table("depth_decoding")),
        shares=UNIT_SHARES.read(paths.table("depth_shares")),
        units=units,
        similarity=SIMILARITY.read(paths.table("similarity")),
    )
    yield "figure_depth", depth
    yield "figure_geometry", draw_figure_geometry(GEOMETRY.read(paths.table("depth_geometry")))
    tables = [schema.read(paths.table(schema.name)) for schema in (LESIONS, LESION_CLASSES, DAMAGE_CURVES)]
    lesions, classes, curves = (table[table["trained_on"] == Network.JOINT] for table in tables)
    untrained_lesions, untrained_classes = (table[table["trained_on"] == Network.UNTRAINED] for table in tables[:2])
    yield "figure_lesions", draw_figure_lesions(lesions, SEGREGATION.read(paths.table("segregation")), curves)
    yield "figure_lesion_classes", draw_figure_lesion_classes(classes, lesions)
    yield "figure_lesion_classes_untrained", draw_figure_lesion_classes(untrained_classes, untrained_lesions)
