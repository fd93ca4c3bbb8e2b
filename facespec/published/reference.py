"""What did the original study measure? The numbers behind Figures 1 and S1 (accuracies) and 2 (heatmaps), as facts.

Source: Tazi et al. 2023, "Emergence of Interpretable Functional Specialization in Neural Networks Trained on Facial
Expression and Identity Recognition"; the four result pickles behind these figures in its repository,
github.com/yanistazi/Identity_Expression_Specialization, at commit e570ea8947873746021d95eee5f9701ebcd023ed.
``reference_accuracy.csv`` has, per bar, the statistics of its 100 bootstrap resamples, rounded to 6 decimals: `mean`,
`sd` (divisor 99), `low` and `high` (2.5 and 97.5 percentiles, linear interpolation); and `n`, the size of the test set
[P, D: the resamples are multiples of 1 / n].

``reference_heatmaps.csv`` has the numbers about mean heatmaps in Figure 2, read off the published picture: the five
numbers of every box (2B), and the shares of the image that the joint network's two masks and their intersection cover,
and their intersection over union (2C). `reading_error` bounds the error of a reading. The expression mask's area, .043,
is smaller than 2C's rule allows: at least .05 of every map lie above the smaller of two 95th percentiles. Either the
reading is a little further off, or the published rule is a little different.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from facespec.study.errors import StudyError, suggest_spelling
from facespec.study.tables import ACCURACY_FIGURES, OVERLAP, REFERENCE, REFERENCE_HEATMAPS
from facespec.study.vocabulary import Role, Task

FIGURES = ACCURACY_FIGURES
FER2013_HAPPY, FER2013_TESTED = 895 + 879, 7178  # images in PublicTest and PrivateTest
HEATMAP_FIGURES = OVERLAP.columns["figure"].allowed
TABLE = Path(__file__).with_name("reference_accuracy.csv")
HEATMAPS_TABLE = Path(__file__).with_name("reference_heatmaps.csv")


def read_reference_accuracy(figure: str | None = None) -> pd.DataFrame:
    """The REFERENCE table, 16 rows; of one figure (``"1B"``, ``"1C"``, ``"S1A"``, ``"S1B"``), 4 rows."""
    if figure is not None and figure not in FIGURES:
        raise StudyError(f"no published accuracies of figure {figure!r}: {suggest_spelling(figure, FIGURES)}")
    return _select_figure(REFERENCE.parse(TABLE.read_bytes(), TABLE), figure)


def read_reference_heatmaps(figure: str | None = None) -> pd.DataFrame:
    """The REFERENCE_HEATMAPS table, 24 rows; of ``"2B"`` 20 rows, of ``"2C"`` 4."""
    if figure is not None and figure not in HEATMAP_FIGURES:
        raise StudyError(
            f"no published numbers about heatmaps of figure {figure!r}: {suggest_spelling(figure, HEATMAP_FIGURES)}"
        )
    return _select_figure(REFERENCE_HEATMAPS.parse(HEATMAPS_TABLE.read_bytes(), HEATMAPS_TABLE), figure)


def _select_figure(table: pd.DataFrame, figure: str | None) -> pd.DataFrame:
    return table if figure is None else table[table["figure"] == figure].reset_index(drop=True)


@dataclass(frozen=True)
class Bar:
    """One row of the REFERENCE table: a bar of a published figure, and the file and key with its resamples."""

    figure: str
    trained_on: str
    tested_on: str
    source: str
    mean: float
    sd: float
    low: float
    high: float
    resamples: int
    n: int
    file: str
    key: str


def read_published_bars(figure: str | None = None) -> list[Bar]:
    """The rows of `read_reference_accuracy`, one by one."""
    return [
        Bar(**{str(name): value for name, value in row.items()})
        for row in read_reference_accuracy(figure).to_dict("records")
    ]


def find_role(figure: str, tested_on: str) -> str:
    """The role whose faces a figure tests on: in 1B and 1C the probe, in S1A and S1B the task's training role [P]."""
    return Role.PROBE.value if figure in ("1B", "1C") else Role(tested_on).value


def read_published_chance(figure: str, tested_on: str) -> float:
    """Accuracy of the best constant answer: 1 of 7 expressions [P], of 70 people in KDEF [P], of 1251 in VoxCeleb1 [D].

    In S1B always answering "happy" is right for 895 + 879 of FER2013's 7,178 test images (PublicTest, PrivateTest) [D];
    S1A tests equally many images of each expression [P]. For identity in S1A it is 1/1251 too [O]: the number of people
    in the 500 published test images is unknown, and chance would be higher for fewer people.
    """
    if tested_on == Task.EXPRESSION:
        return FER2013_HAPPY / FER2013_TESTED if figure == "S1B" else 1 / 7
    return 1 / 70 if find_role(figure, tested_on) == Role.PROBE else 1 / 1251
