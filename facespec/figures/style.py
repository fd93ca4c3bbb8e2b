"""How does every figure look, and how is it written? Colours, fonts, lines; PDF and PNG files of reproducible bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from facespec.study.errors import StudyError
from facespec.study.storage import atomic_write
from facespec.study.vocabulary import Network

DPI = 200
PDF_METADATA = {"CreationDate": None, "Creator": None, "Producer": None}  # None leaves out matplotlib's defaults
DECIMALS = 6  # of a position in a figure
INK, MUTED = "#222222", "#6B6B6B"


@dataclass(frozen=True)
class Look:
    """How a network or task is drawn: `colour` (hex), `hatch` (distinguishes networks in grey prints), and `published`,
    the pale colour of the original's figures (RGB in [0, 1]) [P].
    """

    colour: str
    hatch: str
    published: tuple[float, float, float]


# The hues are the original's [P]. Lightness falls in steps (L* 60, 46, 30), so that neither colour-blind readers nor
# grey prints need the hue, and all stand out from white paper (contrast above 3:1, WCAG 2.1 section 1.4.11).
LOOKS: dict[str, Look] = {
    Network.EXPRESSION: Look("#5CA144", "", (217 / 255, 234 / 255, 211 / 255)),
    Network.IDENTITY: Look("#2970B0", "///", (207 / 255, 226 / 255, 243 / 255)),
    Network.JOINT: Look("#821F4A", "...", (234 / 255, 209 / 255, 220 / 255)),
    # [O] a control that the study does not have: without a hue; in grey prints it is told by its hatch
    Network.UNTRAINED: Look("#8E8E8E", "xxx", (222 / 255, 222 / 255, 222 / 255)),
}

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib, and so available on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "hatch.color": "white",
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,  # text in the PDF stays text
    "savefig.facecolor": "white",
    "text.parse_math": False,  # names of users may contain dollars
    **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8),
    **dict.fromkeys(("axes.edgecolor", "text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def use_study_style() -> Iterator[None]:
    """Draw in the study's style within a ``with`` block; the user's own settings are restored afterwards.

    All text is literal. A letter that the font lacks is drawn as a box, without a warning.

    Examples
    --------
    >>> import matplotlib
    >>> with use_study_style():
    ...     matplotlib.rcParams["text.parse_math"]
    False
    """
    with matplotlib.style.context(["default", RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PDF and as PNG, each completely or not at all.

    Equal figures give equal bytes: neither dates nor versions are written.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Its layout is computed and then fixed.
    stem : Path
        Path of the files without ``.pdf`` and ``.png``.

    Returns
    -------
    list of Path
        The paths of the PDF and the PNG file.

    Raises
    ------
    StudyError
        If the disk is full.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     [path.name for path in save_figure(Figure(), Path(directory) / "empty")]
    ['empty.pdf', 'empty.png']
    """
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("pdf", "png")]
    _write(figure, paths[0], PDF_METADATA)
    save_png(figure, paths[1])
    return paths


def save_png(figure: Figure, path: Path) -> None:
    """Write `figure` to the PNG file `path`, as `save_figure` does."""
    if path.suffix.lower() != ".png":
        raise StudyError(f"{path}: this picture is written as PNG; give it a name that ends in .png.")
    _write(figure, path, {"Software": None})


def save_pages(figures: Iterable[Figure], path: Path) -> None:
    """Write `figures` as the pages of one PDF file `path`: completely or not at all, with equal bytes if equal.

    Figures are drawn one after the other, so that an iterator need not hold all of them in memory.
    """
    # a file opened by matplotlib itself would stay open when it cannot be written
    with (
        use_study_style(),
        atomic_write(path) as partial,
        partial.open("wb") as file,
        PdfPages(file, metadata=PDF_METADATA) as pages,
    ):
        for figure in figures:
            pages.savefig(figure, dpi=DPI)
        if not pages.get_pagecount():
            raise StudyError(f"{path}: a file of pages needs at least one.")


def _write(figure: Figure, path: Path, metadata: dict[str, None]) -> None:
    with use_study_style(), atomic_write(path) as partial, partial.open("wb") as file:
        settle_layout(figure)
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=DPI, metadata=metadata)


def settle_layout(figure: Figure) -> None:
    """Compute the layout of `figure` and fix it, rounded to a millionth of the figure's size.

    The constraint solver behind matplotlib's layout orders its variables by their memory addresses, and so its
    positions differ in their last bits from one process to the next.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    parts: list[Any] = [figure]  # what the layout moves besides axes is private to matplotlib
    for part in parts:
        for subfigure in part.subfigs:
            subfigure._redo_transform_rel_fig(Bbox(subfigure.bbox_relative.get_points().round(DECIMALS)))
            parts.append(subfigure)
        for text in filter(None, (part._suptitle, part._supxlabel, part._supylabel)):
            text.set_position([round(position, DECIMALS) for position in text.get_position()])
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position(original=True).get_points().round(DECIMALS)), which="original")
        axes.set_position(Bbox(axes.get_position().get_points().round(DECIMALS)), which="active")
