"""Draw Figures 1 and S1: this study's results, the published ones beside them."""

from __future__ import annotations

import pandas as pd

from facespec.figures.accuracy import overview, side_by_side
from facespec.figures.bars import TITLES, accuracy_panel, reference_panel
from facespec.figures.style import save
from facespec.published.reference import reference_accuracy
from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY


def run(paths: Paths) -> None:
    """Write ``Results/figures/figure_{1B,1C,S1A,S1B}`` and the overview ``figure_1``, each as PDF and PNG."""
    table = pd.concat([ACCURACY.read(paths.table(name)) for name in ("decoding", "accuracy")], ignore_index=True)
    reproduced = {figure: accuracy_panel(table, figure) for figure in TITLES}
    for figure, panel in reproduced.items():
        published = reference_panel(reference_accuracy(), figure)
        drawn = side_by_side({"published": published, "reproduced": panel})
        save(drawn, paths.figure(f"figure_{figure}", "png").with_suffix(""))
    save(overview(list(reproduced.values())), paths.figure("figure_1", "png").with_suffix(""))
