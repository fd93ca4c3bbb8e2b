"""How every figure looks, and how it becomes a file: colours, type, lines; PDF and PNG, the same bytes every time."""

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
UNDATED = {"CreationDate": None, "Creator": None, "Producer": None}  # what a PDF says of itself otherwise
PLACES = 6  # decimals of a place in a figure
INK, MUTED = "#222222", "#6B6B6B"


@dataclass(frozen=True)
class Look:
    """How a network or task is drawn: `colour` (hex), `hatch` (so that grey prints tell them apart), and `published`,
    the pale colour of the original's figures (RGB in [0, 1]) [P].
    """

    colour: str
    hatch: str
    published: tuple[float, float, float]


def _rgb(red: int, green: int, blue: int) -> tuple[float, float, float]:
    return red / 255, green / 255, blue / 255


# The hues are the original's [P]. Lightness falls in steps (L* 60, 46, 30), so that neither colour-blind readers nor
# grey prints need the hue, and all stand out from white paper (contrast above 3:1, WCAG 2.1 section 1.4.11).
LOOKS: dict[str, Look] = {
    Network.EXPRESSION: Look("#5CA144", "", _rgb(217, 234, 211)),
    Network.IDENTITY: Look("#2970B0", "///", _rgb(207, 226, 243)),
    Network.JOINT: Look("#821F4A", "...", _rgb(234, 209, 220)),
}

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is there on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.color": "white",
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,  # text in the PDF stays text
    "savefig.facecolor": "white",
    "text.parse_math": False,  # names of users hold dollars
}


@contextmanager
def use_study_style() -> Iterator[None]:
    """Draw in the study's style, whatever the user's own settings are; those are back afterwards.

    All text is literal; a letter that the font lacks is a box, without a warning at every drawing.
    """
    with matplotlib.style.context(["default", RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `figure` as `stem`.pdf and `stem`.png, each whole or not at all; returns both paths.

    Equal figures give equal bytes: neither dates nor versions are written. A full disk is a `StudyError`.
    """
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("pdf", "png")]
    _write(figure, paths[0], UNDATED)
    save_png(figure, paths[1])
    return paths


def save_png(figure: Figure, path: Path) -> None:
    """Write `figure` to the PNG file `path`, as `save_figure` does."""
    if path.suffix.lower() != ".png":
        raise StudyError(f"{path}: this picture is written as PNG; give it a name that ends in .png.")
    _write(figure, path, {"Software": None})


def save_pages(figures: Iterable[Figure], path: Path) -> None:
    """Write `figures` as the pages of one PDF file `path`, as `save_figure` does: whole or not at all, equal bytes if equal.

    Figures are drawn one after the other, so that an iterator of them need not hold them all.
    """
    # a file that matplotlib opens stays open when it cannot be written
    with (
        use_study_style(),
        atomic_write(path) as partial,
        partial.open("wb") as file,
        PdfPages(file, metadata=UNDATED) as pages,
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
    """Lay `figure` out once for all, to a millionth of its size.

    The constraint solver behind matplotlib's layout orders its variables by where they lie in memory, and so finds
    places that differ in their last bits from one process to the next.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    parts: list[Any] = [figure]  # what the layout moves besides axes is private to matplotlib
    for part in parts:
        for inner in part.subfigs:
            inner._redo_transform_rel_fig(Bbox(inner.bbox_relative.get_points().round(PLACES)))
            parts.append(inner)
        for text in filter(None, (part._suptitle, part._supxlabel, part._supylabel)):
            text.set_position([round(place, PLACES) for place in text.get_position()])
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position(original=True).get_points().round(PLACES)), which="original")
        axes.set_position(Bbox(axes.get_position().get_points().round(PLACES)), which="active")
