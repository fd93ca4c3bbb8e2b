"""What does a joint network cost, and when? A table and a figure of all networks of the grid that are there."""

from __future__ import annotations

import pandas as pd

from facespec.checks.sharing import tabulate_sharing
from facespec.figures.sharing import draw_figure_sharing
from facespec.figures.style import save_figure
from facespec.study.errors import StudyError
from facespec.study.grid import list_fits
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_table
from facespec.study.tables_sharing import FITS


def run(paths: Paths, params: Params) -> None:
    """Write ``Results/sharing.csv`` and ``figure_sharing``; networks that are not fitted yet are left out.

    Raises `StudyError` if there is none.
    """
    files = [file for file in map(paths.fit, list_fits(params)) if file.is_file()]
    if not files:
        raise StudyError(f"{paths.fit('x').parent}: no networks of the grid here. `facespec repro` fits them.")
    fits = pd.concat([FITS.parse(file.read_bytes(), file) for file in files], ignore_index=True)
    table = tabulate_sharing(
        fits,
        level=params.checks.level,
        resamples=params.sharing.resamples,
        generator=generator(params.sharing.seed, "sharing"),
    )
    figure = draw_figure_sharing(table)
    write_table(paths.table("sharing"), table)
    save_figure(figure, paths.figure("figure_sharing", "png").with_suffix(""))
