"""Images, labels and their positions are read back from contact sheets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

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
from toys import read_texts

CODES = {"background": 0, "mouth": 6, "hair": 1}


def make_faces(rows: int, columns: int, *, channels: tuple[int, ...] = (), seed: int = 0) -> list[list[np.ndarray]]:
    draws = np.random.default_rng(seed)
    return [[draws.integers(0, 256, (17, 11, *channels), dtype=np.uint8) for _ in range(columns)] for _ in range(rows)]


def read_image(axes: Axes) -> np.ndarray:
    (image,) = axes.images
    return np.asarray(image.get_array())


GRIDS = [
    Grid("people", make_faces(2, 3), ("happy", "sad", "fear"), ("F01", "M02")),
    Grid("in the wild", make_faces(1, 2, channels=(3,), seed=1)),
]


def test_sheets_hold_the_given_images_with_their_labels() -> None:
    figure = draw_contact_sheet([GRIDS])
    images = [image for grid in GRIDS for row in grid.images for image in row]
    for axes, image in zip(figure.axes, images, strict=True):
        np.testing.assert_array_equal(read_image(axes), image)
    assert [axes.get_title() for axes in figure.axes] == ["happy", "sad", "fear", "", "", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["F01", "", "", "M02", "", "", "", ""]
    assert read_texts(figure.texts) == ["people", "in the wild"]
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].y0 == boxes[1].y0 == boxes[2].y0 > boxes[3].y1 and boxes[3].y0 > boxes[6].y1
    assert boxes[0].x0 == boxes[3].x0 == boxes[6].x0 and boxes[0].x1 < boxes[1].x0
    assert not figure.legends  # which explains regions


def test_grey_values_are_not_stretched() -> None:
    (image,) = draw_contact_sheet([GRIDS]).axes[0].images
    assert (image.get_clim(), image.get_cmap().name) == ((0, 255), "gray")
    assert image.get_interpolation() == "nearest"


def test_a_missing_face_is_labelled() -> None:
    ((face,),) = make_faces(1, 1)
    empty, full = draw_contact_sheet([[Grid("people", [[None, face]])]]).axes
    assert not empty.images and read_texts(empty.texts) == ["none"]
    np.testing.assert_array_equal(read_image(full), face)


def test_nothing_overlaps_or_leaves_the_page() -> None:
    stack = [Grid("one", make_faces(3, 1), ("a",), ("x", "y", "z"))]
    figure = draw_contact_sheet([GRIDS, GRIDS[::-1], stack], regions=CODES)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [artist.get_window_extent() for artist in (*figure.texts, *figure.legends)]
    assert all(box.min.min() >= 0 and (box.max <= figure.bbox.size).all() for box in boxes)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].padded(-0.5).overlaps(pair[1])]


LONG = ["Anna-Katharina Alexandra von und zu Musterhausen", "Anna-Katharina Alexandra zu und von Musterhausen"]


@pytest.mark.parametrize(
    "names", [LONG, ["$$", "\\frac{1}{"], ["x" * 300, "x" * 300 + "y"], ["表情" * 30, "😀\n"], ["p0000", "W" * 20]]
)
def test_long_and_odd_names_do_not_overlap_and_remain_different(
    names: list[str], legible: Callable[[Figure], None]
) -> None:
    title, in_title = "{} role ({}): five views and two sessions of {}", ("probe", "KDEF", names[0])
    grids = [
        Grid(title, make_faces(2, 5), (*names, "c", *names), names, names=in_title),
        Grid("in the wild, one person per row", make_faces(2, 7), (), names),
    ]
    figure = draw_contact_sheet([grids, grids], regions=CODES)
    with use_study_style():
        legible(figure)
    cells = [axes.get_window_extent() for axes in figure.axes]
    for axes in figure.axes:
        for label in filter(Text.get_text, (axes.title, axes.yaxis.label)):
            assert not label.get_window_extent().count_overlaps(cells)
        assert axes.title.get_window_extent().width <= CELL * figure.dpi
    assert len({axes.get_ylabel() for axes in figure.axes} - {""}) == 2


def test_names_that_fit_are_written_in_full() -> None:
    grid = Grid("faces of {}", make_faces(1, 7), ("happy",) * 7, ["F01"], names=["{F01}"])
    figure = draw_contact_sheet([[grid]])
    assert read_texts(figure.texts) == ["faces of {F01}"]
    assert figure.axes[0].get_ylabel() == "F01" and figure.axes[6].get_title() == "happy"


def test_region_maps_have_the_legends_colours() -> None:
    regions = np.array([[0, 6, 1], [1, 1, 6]], np.uint8)
    picture = paint_regions(regions, CODES)
    assert picture.dtype == np.uint8 and picture.shape == (2, 3, 3)
    (legend,) = draw_contact_sheet([[Grid("maps", [[picture]])]], regions=CODES).legends
    patches = zip(legend.get_texts(), legend.get_patches(), strict=True)
    colours = {text.get_text(): to_hex(patch.get_facecolor()) for text, patch in patches}
    assert list(colours) == ["background", "hair", "mouth"]
    names = {code: name for name, code in CODES.items()}
    for row, column in np.ndindex(regions.shape):
        assert to_hex(picture[row, column] / 255) == colours[names[regions[row, column]]]
    assert len(set(choose_region_colours(CODES).values())) == 3


def test_differences_are_white_for_equal_and_black_for_opposite_pixels() -> None:
    one, other = np.array([[0, 255, 10, 7]], np.uint8), np.array([[255, 0, 13, 7]], np.uint8)
    assert paint_difference(one, other).tolist() == paint_difference(other, one).tolist() == [[0, 0, 252, 255]]
    assert paint_difference(one, other).dtype == np.uint8
