"""Colours are compared as readers see them; files are compared byte by byte."""

from __future__ import annotations

import colorsys
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from facespec.figures import style
from facespec.figures.heatmaps import MASKS
from facespec.figures.style import LOOKS, RC, save_figure, save_pages, save_png, settle_layout, use_study_style
from facespec.study.errors import StudyError
from facespec.study.storage import atomic_write
from facespec.study.vocabulary import NETWORKS, Network

# what readers without red or green cones see: Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
COLOURS = {"networks": [look.colour for look in LOOKS.values()], "masks": list(MASKS.values())}


def convert_to_linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def convert_to_lab(linear: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(linear, 0, 1) / to_xyz.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_network_has_a_look_with_the_originals_pale_colour() -> None:
    assert list(LOOKS) == list(Network)
    assert {name: [round(c * 255) for c in look.published] for name, look in LOOKS.items()} == {
        "expression": [217, 234, 211],
        "identity": [207, 226, 243],
        "joint": [234, 209, 220],
        "untrained": [222, 222, 222],  # not the original's
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_colours_have_the_originals_hue_and_stand_out_from_paper(network: str) -> None:
    look = LOOKS[network]
    hue, original = (colorsys.rgb_to_hls(*rgb)[0] * 360 for rgb in (to_rgb(look.colour), look.published))
    assert abs(hue - original) < 3  # degrees
    luminance = convert_to_linear(look.colour) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (luminance + 0.05) > 3  # WCAG 2.1, 1.4.11


@pytest.mark.parametrize("colours", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_differ_for_every_reader(blindness: str, colours: list[str]) -> None:
    lab_colours = [convert_to_lab(BLINDNESS[blindness] @ convert_to_linear(colour)) for colour in colours]
    for one, other in combinations(lab_colours, 2):
        assert np.linalg.norm(one - other) > 25  # a difference of 2 is just noticeable


def test_grey_prints_differ_in_lightness_and_hatch() -> None:
    """The untrained network, a control, differs in hatch alone: there is no lightness left for it on white paper."""
    lightness = sorted(convert_to_lab(convert_to_linear(LOOKS[name].colour))[0] for name in NETWORKS)
    assert min(np.diff(lightness)) > 12
    assert len({look.hatch for look in LOOKS.values()}) == 4


def test_the_users_settings_are_not_used_and_are_restored() -> None:
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        with use_study_style():
            assert matplotlib.rcParams["font.size"] == RC["font.size"]
            assert matplotlib.rcParams["lines.linewidth"] == matplotlib.rcParamsDefault["lines.linewidth"]
            assert matplotlib.rcParams["axes.facecolor"] == "white"
        assert dict(matplotlib.rcParams) == before
        with pytest.raises(ZeroDivisionError), use_study_style():
            raise ZeroDivisionError
        assert dict(matplotlib.rcParams) == before


def make_figure(height: float = 0.5) -> Figure:
    figure = Figure(figsize=(1.7, 1.1))
    figure.add_subplot().bar([0], [height], hatch="///")
    figure.text(0.1, 0.9, "Ünit")
    return figure


def test_equal_figures_give_equal_bytes_without_dates_or_versions(tmp_path: Path) -> None:
    names = ["one.two.pdf", "one.two.png", "pages.pdf"]
    files = []
    for directory, height in (("one", 0.5), ("same", 0.5), ("other", 0.6)):
        (tmp_path / directory).mkdir()
        paths = save_figure(make_figure(height), tmp_path / directory / "one.two")
        save_pages((make_figure(height) for _ in range(3)), tmp_path / directory / "pages.pdf")
        assert [path.name for path in paths] == names[:2]
        assert sorted(path.name for path in (tmp_path / directory).iterdir()) == names
        files.append([(tmp_path / directory / name).read_bytes() for name in names])
    one, same, other = files
    assert one == same and not set(one) & set(other)
    pdf, png, pages = one
    assert pdf.startswith(b"%PDF") and pages.startswith(b"%PDF") and png.startswith(b"\x89PNG")
    assert not re.search(rb"CreationDate|ModDate|Producer|Creator", pdf + pages)
    assert len(re.findall(rb"/Type /Page\b", pages)) == 3
    with Image.open(paths[1]) as picture:
        assert picture.info.keys() == {"dpi"}


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    imports = "import sys; from pathlib import Path; from matplotlib.figure import Figure\n"
    imports += "from facespec.figures.style import save_figure\n"
    program = f"{imports}{inspect.getsource(make_figure)}save_figure(make_figure(), Path(sys.argv[1]))"
    environment = {"PYTHONHASHSEED": "17", "TZ": "Asia/Tokyo", "MPLBACKEND": "pdf", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], env=environment, check=True)
    for here in save_figure(make_figure(), tmp_path / "here"):
        assert here.read_bytes() == here.with_name(here.name.replace("here", "there")).read_bytes()


def test_letters_that_the_font_lacks_are_written_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "DPI", 30)
    figure = Figure()
    figure.text(0.1, 0.5, "表情😀 \u0378")
    save_figure(figure, tmp_path / "one")
    save_pages([figure], tmp_path / "pages.pdf")


def test_unfinished_pages_leave_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "pages.pdf"
    path.write_bytes(b"earlier")
    with pytest.raises(StudyError, match=r"pages\.pdf: a file of pages needs at least one"):
        save_pages([], path)
    with pytest.raises(ZeroDivisionError):
        save_pages((Figure() for number in (1, 0) if 1 / number), path)
    assert path.read_bytes() == b"earlier" and [file.name for file in tmp_path.iterdir()] == ["pages.pdf"]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda figure, directory: save_figure(figure, directory / "a"), "a.pdf"),
        (lambda figure, directory: save_png(figure, directory / "a.png"), "a.png"),
        (lambda figure, directory: save_pages([figure] * 2, directory / "a.pdf"), "a.pdf"),
    ],
)
def test_a_full_disk_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Figure, Path], object], name: str
) -> None:
    """Also when the file closes: matplotlib then fails on its own half-closed PDF, with an AttributeError."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / name).write_bytes(b"earlier")

    @contextmanager
    def write_to_full_disk(path: Path) -> Iterator[Path]:
        with atomic_write(path) as partial:
            partial.unlink()
            partial.symlink_to("/dev/full")  # fails every write as a full disk does
            yield partial

    monkeypatch.setattr(style, "atomic_write", write_to_full_disk)
    with pytest.raises(StudyError, match=f"{name}: the disk is full, so it was not written.* free some space"):
        write(make_figure(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == b"earlier"


def test_a_png_file_must_be_named_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"faces\.pdf: this picture is written as PNG; give it a name that ends in"):
        save_png(make_figure(), tmp_path / "faces.pdf")
    assert not list(tmp_path.iterdir())


def test_a_settled_layout_is_rounded_to_a_millionth_and_no_longer_changes() -> None:
    figure = Figure(layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    upper.subplots(1, 3)
    upper.suptitle("upper")
    axes = lower.subplots()
    axes.set_ylabel("wide\nlabel")
    figure.suptitle("whole")
    figure.draw_without_rendering()
    before = [panel.get_window_extent().get_points() for panel in figure.axes]
    settle_layout(figure)
    after = [panel.get_window_extent().get_points() for panel in figure.axes]
    np.testing.assert_allclose(after, before, atol=0.01)  # px
    positions = [panel.get_position().get_points() for panel in figure.axes]
    positions += [part.bbox_relative.get_points() for part in (upper, lower)] + [[upper._suptitle.get_position()] * 2]
    np.testing.assert_array_equal(positions, np.round(positions, 6))
    axes.set_ylabel("another label, of another size", fontsize=30)
    figure.draw_without_rendering()
    np.testing.assert_array_equal([panel.get_window_extent().get_points() for panel in figure.axes], after)
