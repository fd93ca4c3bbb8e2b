from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from facespec.figures.faces import (
    CELL,
    Grid,
    choose_region_colours,
    draw_contact_sheet,
    paint_difference,
    paint_regions,
)
from facespec.figures.style import use_study_style

CODES = {"background": 0, "mouth": 6, "hair": 1}


def faces(rows: int, columns: int, *, channels: tuple[int, ...] = (), seed: int = 0) -> list[list[np.ndarray | None]]:
    draws = np.random.default_rng(seed)
    return [[draws.integers(0, 256, (17, 11, *channels), dtype=np.uint8) for _ in range(columns)] for _ in range(rows)]


def shown(axes: Axes) -> np.ndarray:
    (image,) = axes.images
    return np.asarray(image.get_array())


@pytest.fixture
def grids() -> list[Grid]:
    grey = Grid("people", faces(2, 3), ("happy", "sad", "fear"), ("F01", "M02"))
    colour = Grid("in the wild", faces(1, 2, channels=(3,), seed=1))
    return [grey, colour]


def test_axes_carry_exactly_the_given_images(grids: list[Grid]) -> None:
    sheet = draw_contact_sheet([grids])
    wanted = [image for grid in grids for row in grid.images for image in row]
    assert len(sheet.axes) == len(wanted)
    for axes, image in zip(sheet.axes, wanted, strict=True):
        np.testing.assert_array_equal(shown(axes), image)


def test_grey_is_shown_as_it_is_not_stretched(grids: list[Grid]) -> None:
    (image,) = draw_contact_sheet([grids]).axes[0].images
    assert (image.get_clim(), image.get_cmap().name) == ((0, 255), "gray")
    assert image.get_interpolation() == "nearest"


def test_rows_and_columns_are_named_once_beside_and_above(grids: list[Grid]) -> None:
    sheet = draw_contact_sheet([grids])
    assert [axes.get_title() for axes in sheet.axes] == ["happy", "sad", "fear", "", "", "", "", ""]
    assert [axes.get_ylabel() for axes in sheet.axes] == ["F01", "", "", "M02", "", "", "", ""]
    assert [text.get_text() for text in sheet.texts] == ["people", "in the wild"]


def test_places_are_rows_and_columns(grids: list[Grid]) -> None:
    boxes = [axes.get_position() for axes in draw_contact_sheet([grids]).axes]
    assert boxes[0].y0 == boxes[1].y0 == boxes[2].y0 > boxes[3].y1 and boxes[3].y0 > boxes[6].y1
    assert boxes[0].x0 == boxes[3].x0 == boxes[6].x0 and boxes[0].x1 < boxes[1].x0


def test_a_missing_face_is_a_place_that_says_so() -> None:
    images = faces(1, 2)
    sheet = draw_contact_sheet([[Grid("people", [[None, images[0][1]]])]])
    empty, full = sheet.axes
    assert not empty.images and [text.get_text() for text in empty.texts] == ["none"]
    np.testing.assert_array_equal(shown(full), images[0][1])


def pixels(sheet: Figure) -> list[tuple[float, float, float, float]]:
    sheet.draw_without_rendering()
    return [axes.get_tightbbox().extents for axes in sheet.axes] + [
        text.get_window_extent().extents for text in sheet.texts
    ]


def test_nothing_overlaps_or_leaves_the_page(grids: list[Grid]) -> None:
    sheet = draw_contact_sheet(
        [grids, list(reversed(grids)), [Grid("one", faces(3, 1), ("a",), ("x", "y", "z"))]], regions=CODES
    )
    boxes = [*pixels(sheet), sheet.legends[0].get_window_extent().extents]
    width, height = sheet.bbox.size
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        assert x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
        for a0, b0, a1, b1 in boxes[:index]:
            assert not (x0 < a1 - 0.5 and a0 < x1 - 0.5 and y0 < b1 - 0.5 and b0 < y1 - 0.5)


LONG = ["Anna-Katharina Alexandra von und zu Musterhausen", "Anna-Katharina Alexandra zu und von Musterhausen"]


@pytest.mark.parametrize(
    "names",
    [
        LONG,
        [f"subject_0001_session_{letter}_frontal_neutral.png" for letter in "ab"],
        ["$$", "\\frac{1}{"],
        ["x" * 300, "x" * 300 + "y"],
        ["表情" * 30, "😀\n"],
        ["p0000", "W" * 20],
    ],
)
def test_long_and_odd_names_stay_in_their_places_and_apart(names: list[str], legible: Callable[[Figure], None]) -> None:
    grids = [
        Grid(
            "{} role ({}): five views and two sessions of {}",
            faces(2, 5),
            (*names, "c", *names),
            names,
            names=("probe", "KDEF", names[0]),
        ),
        Grid("in the wild, one person per row", faces(2, 7), (), names),
    ]
    sheet = draw_contact_sheet([grids, grids], regions=CODES)
    with use_study_style():
        legible(sheet)
    cells = [axes.get_window_extent() for axes in sheet.axes]
    for axes in sheet.axes:
        for label in filter(Text.get_text, (axes.title, axes.yaxis.label)):
            box = label.get_window_extent()
            for other in cells:
                assert box.x0 >= other.x1 or box.x1 <= other.x0 or box.y0 >= other.y1 or box.y1 <= other.y0
        assert axes.title.get_window_extent().width <= CELL * sheet.dpi
    assert len({axes.get_ylabel() for axes in sheet.axes} - {""}) == 2


def test_names_that_fit_are_written_in_full() -> None:
    sheet = draw_contact_sheet([[Grid("faces of {}", faces(1, 7), ("happy",) * 7, ["F01"], names=["{F01}"])]])
    assert [text.get_text() for text in sheet.texts] == ["faces of {F01}"]
    assert sheet.axes[0].get_ylabel() == "F01" and sheet.axes[6].get_title() == "happy"


def test_region_maps_are_painted_in_the_legends_colours() -> None:
    regions = np.array([[0, 6, 1], [1, 1, 6]], np.uint8)
    picture = paint_regions(regions, CODES)
    assert picture.dtype == np.uint8 and picture.shape == (2, 3, 3)
    (legend,) = draw_contact_sheet([[Grid("maps", [[picture]])]], regions=CODES).legends
    painted = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert list(painted) == ["background", "hair", "mouth"]
    names = {code: name for name, code in CODES.items()}
    for row, column in np.ndindex(regions.shape):
        assert to_hex(picture[row, column] / 255) == to_hex(painted[names[regions[row, column]]])
    assert len(set(choose_region_colours(CODES).values())) == 3


def test_without_regions_there_is_no_legend(grids: list[Grid]) -> None:
    assert not draw_contact_sheet([grids]).legends


def test_difference_is_white_where_equal_and_black_where_most_unlike() -> None:
    one, other = np.array([[0, 255, 10, 7]], np.uint8), np.array([[255, 0, 13, 7]], np.uint8)
    assert paint_difference(one, other).tolist() == paint_difference(other, one).tolist() == [[0, 0, 252, 255]]
    assert paint_difference(one, other).dtype == np.uint8
